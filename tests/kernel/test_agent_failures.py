"""Nothing is left whichever step of a call fails in the agent, or is the agent's last."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
import pytest

from cni_plugins import sockets
from cni_plugins.hosts import Hosts
from cni_plugins.node_config import AgentSection
from cni_plugins.serving import Agent
from cni_plugins.wiring import HostWiring
from hostnet import Kernel, Netns, Observer, run_in
from lab import programs
from tests.agents import SOCKET, install_launchers
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
def mortal_agents(node: Node) -> Iterator[Callable[[str], None]]:
    """Agents that are killed after so many steps; the function starts the next one."""
    install_launchers(node)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(node.folder / SOCKET))
    listener.listen(64)
    command = [sys.executable, "-m", "tests.killing", str(node.config), str(listener.fileno())]
    process = run_in(
        node.netns,
        lambda _: subprocess.Popen(
            command,
            cwd=programs.CLONE,
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            text=True,
        ),
    )

    def say(word: str) -> None:
        assert process.stdin is not None
        process.stdin.write(f"{word}\n")
        process.stdin.flush()

    try:
        yield say
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(20)
        listener.close()


def test_an_agent_killed_after_any_step_leaves_what_the_next_call_takes_away(
    node: Node, server: IpamServer
) -> None:
    with mortal_agents(node) as say:
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
        assert steps > 10
