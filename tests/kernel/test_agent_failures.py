"""Nothing is left whichever step of a call fails in the agent, or is the agent's last."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from cni_plugins import sockets
from cni_plugins.hosts import Hosts
from cni_plugins.node_config import AgentSection
from cni_plugins.serving import Agent
from cni_plugins.wiring import HostWiring
from hostnet import Kernel, Netns, Observer, run_in
from lab import processes, programs
from tests.agents import SOCKET, install_launchers, wait_for
from tests.node_fixtures import CLUSTER
from tests.nodes import Answer, IpamServer, Node, links, pod_args, used
from tests.wires import fail_after, namespaces

INJECTED = 121
AGAIN = 11


def nothing(_: str) -> None:
    pass


@dataclass
class Watched:
    """Who is told of the agent's changes of the kernel and steps; may be another one each time."""

    change: Observer = field(default=nothing)
    step: Observer = field(default=nothing)


@contextmanager
def agent_inside(node: Node, watched: Watched) -> Iterator[None]:
    """An agent in this process, in a thread in the node's namespace."""
    ready, loops = threading.Event(), list[asyncio.AbstractEventLoop]()
    stops = list[asyncio.Event]()

    async def serve() -> None:
        kernel = Kernel(lambda change: watched.change(change))
        hosts = Hosts(
            HostWiring(kernel),
            {},
            lambda host: msgspec.structs.replace(host, step=lambda step: watched.step(step)),
        )
        path = node.folder / SOCKET
        agent = Agent(hosts, AgentSection())
        agent.serve(sockets.listener(path)[0])
        loops.append(asyncio.get_running_loop())
        stops.append(asyncio.Event())
        ready.set()
        await stops[0].wait()
        await agent.stop(5, path)
        await hosts.close()

    install_launchers(node)
    thread = threading.Thread(target=lambda: run_in(node.netns, lambda _: asyncio.run(serve())))
    thread.start()
    assert ready.wait(20)
    try:
        yield
    finally:
        loops[0].call_soon_threadsafe(stops[0].set)
        thread.join()


def called(node: Node, command: str, pod: Netns | None) -> Answer:
    return node.call(command, "c1", pod, node.conflist(), args=pod_args("web-0"))


@pytest.mark.parametrize("kind", ["change", "step"])
def test_a_failure_after_every_single_step_of_the_agent_leaves_nothing(
    node: Node, server: IpamServer, kind: str
) -> None:
    watched, seen = Watched(), list[str]()
    with agent_inside(node, watched):
        setattr(watched, kind, seen.append)
        with namespaces(1) as (pod,):
            assert called(node, "ADD", pod).status == 0
        count = len(seen)
        setattr(watched, kind, nothing)
        assert called(node, "DEL", None).status == 0
        for number in range(count):
            with namespaces(1) as (pod,):
                setattr(watched, kind, fail_after(number))
                answer = called(node, "ADD", pod)
                assert (answer.status, answer.json["code"]) == (1, INJECTED), answer
                left = (links(pod), node.files(), used(server, CLUSTER))
                assert left == ([], [], 0), f"after {kind} {number}, {seen[number]}"
                assert links(node.netns) == ["up0"]


@contextmanager
def mortal_agents(node: Node, way: str = "agent") -> Iterator[Callable[[str], None]]:
    """Agents that are killed after so many steps (`tests.killing`); the function starts the next
    one."""
    install_launchers(node)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(node.folder / SOCKET))
    listener.listen(64)
    arguments = [str(node.config), str(listener.fileno()), way]
    command = [sys.executable, "-m", "tests.killing", *arguments]
    process = run_in(
        node.netns,
        lambda _: subprocess.Popen(
            command,
            cwd=programs.CLONE,
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            text=True,
        ),
    )

    def say(word: str) -> None:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{word}\n")
        process.stdin.flush()
        # The agent before would take the next call, and be killed at it.
        assert process.stdout.readline() == f"{word}\n"

    try:
        yield say
    finally:
        process.communicate(timeout=20)
        listener.close()


@pytest.mark.parametrize(("way", "least"), [("agent", 10), ("both", 5)])
def test_an_agent_killed_after_any_step_leaves_what_the_next_call_takes_away(
    node: Node, server: IpamServer, way: str, least: int
) -> None:
    with mortal_agents(node, way) as say:
        for steps in range(100):
            with namespaces(1) as (pod,):
                say(str(steps))
                answer = called(node, "ADD", pod)
                if answer.status == 0:
                    break
                assert answer.json["code"] == AGAIN, answer
                say("-1")
                if steps % 2:
                    assert called(node, "ADD", pod).status == 0
                    assert links(pod) == ["eth0"]
                assert called(node, "DEL", pod).status == 0
                left = (links(pod), node.files(), used(server, CLUSTER))
                assert left == ([], [], 0), f"after step {steps}"
        assert steps > least


def children(pid: int) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(processes.stat(int(process.name))[1]) == pid:
                found.append(int(process.name))
    return found


def test_the_agent_finishes_what_the_process_that_makes_interfaces_was_killed_at(
    node: Node, server: IpamServer
) -> None:
    """And what still waited for its turn there."""
    with mortal_agents(node, "maker") as say, namespaces(6) as pods:
        say("-1")
        wait_for("it is there", lambda: len(makers()) == 1)
        [maker] = makers()
        os.kill(maker, signal.SIGSTOP)
        calls = [
            node.begin("ADD", f"c{at}", pod, node.conflist(), args=pod_args(f"web-{at}"))
            for at, pod in enumerate(pods)
        ]
        wait_for("they have their addresses", lambda: used(server, CLUSTER) == len(pods))
        with pytest.raises(AssertionError):
            wait_for("one has its interface", lambda: any(map(links, pods)), 0.5)
        os.kill(maker, signal.SIGKILL)
        for call, pod in zip(calls, pods, strict=True):
            call.communicate(timeout=20)
            assert (call.returncode, links(pod)) == (0, ["eth0"])
        for at, pod in enumerate(pods):
            assert node.call("DEL", f"c{at}", pod, node.conflist()).status == 0
            assert links(pod) == []
        assert (node.files(), used(server, CLUSTER)) == ([], 0)


def makers() -> list[int]:
    """Of the agents that `mortal_agents` began."""
    begun = [each for each in children(os.getpid()) if b"tests.killing" in cmdline(each)]
    return [maker for one in begun for agent in children(one) for maker in children(agent)]


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_where_the_process_that_makes_interfaces_is_killed_after_any_step_the_agent_makes_them(
    node: Node, server: IpamServer
) -> None:
    with mortal_agents(node, "maker") as say:
        for steps in range(12):
            say(str(steps))
            with namespaces(2) as pods:
                for number, pod in enumerate(pods):
                    name = f"c{number}"
                    answer = node.call(
                        "ADD", name, pod, node.conflist(), args=pod_args(f"web-{number}")
                    )
                    assert answer.status == 0, f"after step {steps}: {answer}"
                    assert links(pod) == ["eth0"]
                assert used(server, CLUSTER) == 2
                for number, pod in enumerate(pods):
                    answer = node.call("DEL", f"c{number}", pod, node.conflist())
                    assert (answer.status, links(pod)) == (0, [])
            assert (node.files(), used(server, CLUSTER)) == ([], 0), f"after step {steps}"
