"""The agent's second process, which makes pods' interfaces, beside a running agent."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from cni_plugins.making import Maker, MakerGone
from cni_plugins.wiring import Wired
from hostnet import KernelError, NameTaken, Netns
from hostnet.errors import from_errno
from netspace.threads import Outcome
from tests.agents import running_agent, wait_for
from tests.node_fixtures import CLUSTER
from tests.nodes import IpamServer, Node, links, pod_args, used
from tests.wires import namespaces

PODS = 4
ENDED = "the process that makes interfaces has ended, the agent makes them itself"


def second_of(pid: int) -> int:
    [second] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(second)


def there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_burst_is_shared_by_both_processes_and_finished_by_one(
    node: Node, server: IpamServer
) -> None:
    with running_agent(node) as agent, namespaces(2 * PODS) as pods:
        assert agent.process is not None
        second = agent.status().maker
        assert second == second_of(agent.process.pid)
        before = turns(second)
        burst(node, server, range(PODS), pods)
        assert turns(second) > before
        os.kill(second, signal.SIGKILL)
        wait_for("it is noticed", lambda: agent.status().maker is None)
        assert not there(second)
        assert ENDED in [line["message"] for line in agent.messages()]
        burst(node, server, range(PODS, 2 * PODS), pods)
        for number, pod in enumerate(pods):
            assert node.call("DEL", f"c{number}", pod, node.conflist()).status == 0
            assert links(pod) == []
        assert (node.records(), used(server, CLUSTER)) == ([], 0)


def burst(node: Node, server: IpamServer, numbers: range, pods: Sequence[Netns]) -> None:
    """ADDs that are all in the middle of their work before one of them gets an address."""
    conf = node.conflist()
    records = [node.state / "attachments" / f"c{number}@eth0.json" for number in numbers]
    server.etcd.pause()
    try:
        calls = [
            node.begin("ADD", f"c{number}", pods[number], conf, args=pod_args(f"web-{number}"))
            for number in numbers
        ]
        wait_for("all have asked", lambda: all(record.exists() for record in records))
    finally:
        server.etcd.resume()
    for number, call in zip(numbers, calls, strict=True):
        call.communicate(timeout=60)
        assert (call.returncode, links(pods[number])) == (0, ["eth0"])


def turns(pid: int) -> int:
    """How often its threads have waited for something."""
    found = 0
    for path in Path(f"/proc/{pid}/task").glob("*/status"):
        with suppress(FileNotFoundError, ProcessLookupError):
            text = path.read_text()
            found += int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_agent_however_that_ends(node: Node, number: signal.Signals) -> None:
    with running_agent(node) as agent:
        assert agent.process is not None
        second = second_of(agent.process.pid)
        agent.end(number)
        wait_for("it is gone", lambda: not there(second), 5)


def test_it_keeps_nothing_open_of_the_agents(node: Node) -> None:
    with running_agent(node) as agent:
        assert agent.process is not None
        files = Path(f"/proc/{second_of(agent.process.pid)}/fd")
        wait_for("it is at work", lambda: len(list(files.iterdir())) == 4)
        kept = {int(each.name) for each in files.iterdir()}
        assert kept > {0, 1, 2}
        [connection] = kept - {0, 1, 2}
        assert str((files / str(connection)).readlink()).startswith("socket:")


def test_it_is_not_stopped_by_what_stops_the_agent(node: Node, server: IpamServer) -> None:
    """systemd tells all processes of a unit at once; calls under way are finished yet."""
    with running_agent(node) as agent:
        assert agent.process is not None
        second = second_of(agent.process.pid)
        for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(second, ignored)
        with namespaces(PODS) as pods:
            burst(node, server, range(PODS), pods)
            assert there(second)
            for number, pod in enumerate(pods):
                assert node.call("DEL", f"c{number}", pod, node.conflist()).status == 0


@pytest.mark.parametrize(
    "error",
    [
        NameTaken("make eth0 on", "up0", "the pod has it", "delete it"),
        from_errno(16, "busy", "make eth0 on", "up0"),
    ],
)
def test_what_the_kernel_refused_is_told_as_it_was(error: KernelError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.errno) == (type(error), str(error), error.errno)


def test_a_process_that_answers_nonsense_is_ended_and_what_it_was_asked_is_told_so() -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    child = subprocess.Popen(["sleep", "60"])
    outcomes = list[Outcome[Wired]]()

    async def run() -> None:
        maker = Maker(child.pid, ours)
        maker.watch()
        maker.ask(b"something", outcomes.append)
        its.send(b"nonsense")
        await asyncio.to_thread(child.wait, 5)
        its.close()
        async with asyncio.timeout(5):
            while not outcomes:
                await asyncio.sleep(0.01)
        maker.ask(b"more", outcomes.append)

    asyncio.run(run())
    assert [type(outcome.error) for outcome in outcomes] == [MakerGone, MakerGone]


def test_a_process_that_takes_no_more_for_a_moment_lives_on() -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    outcomes = list[Outcome[Wired]]()

    async def run() -> None:
        maker = Maker(0, ours)
        while not outcomes:
            maker.ask(bytes(20_000), outcomes.append)
        assert not maker.gone

    asyncio.run(run())
    its.close()
    ours.close()
    assert isinstance(outcomes[0].error, MakerGone)
