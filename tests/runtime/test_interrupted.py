"""Runtimes, nodes, agents and servers that go away at the worst moment: nothing is leaked, nothing
given twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

from lab.server import until
from netspace.messages import AddressEntry
from tests.nodes import links
from tests.runtime.cri import CriError
from tests.runtime.images import NAME
from tests.runtime.machine import Machine
from tests.runtime.world import World, shown, under_way

BY_AGENT = pytest.mark.parametrize("world", ["agent"], indirect=True)


@contextmanager
def in_mid_add(world: World, *, within: float = 60) -> Iterator[Callable[[], CriError]]:
    """A pod whose ADD has asked the server, which waits for an etcd that stands still. Afterwards
    etcd goes on; what is yielded waits for the runtime's answer, which is an error."""
    refused: list[CriError] = []

    def run() -> None:
        try:
            world.one.run_pod("web-0", within=within)
        except CriError as error:
            refused.append(error)

    def answer() -> CriError:
        thread.join(60)
        assert refused, "the pod was started"
        return refused[0]

    thread = threading.Thread(target=run)
    world.server.etcd.pause()
    try:
        thread.start()
        until(lambda: under_way(world.one), "the ADD is under way")
        yield answer
    finally:
        world.server.etcd.resume()
        thread.join(60)


def stop_all(machine: Machine) -> None:
    """What a kubelet does with sandboxes that are of no use any more."""
    for sandbox in machine.cri.sandboxes():
        machine.cri.stop(sandbox)
        machine.cri.remove(sandbox)


def starts_and_stops(world: World) -> None:
    """The pod is started again as a kubelet would, runs, and goes without a trace."""
    sandbox = world.one.run_pod("web-0")
    held = world.holder_of("web-0")
    assert held.container == sandbox
    with world.one.netns(sandbox) as pod:
        assert shown(pod) == (True, [held.ipv4, held.ipv6])
        stop_all(world.one)
        assert links(pod) == []
    world.nothing_is_left()


def test_containerd_killed_in_mid_add(running: World) -> None:
    with in_mid_add(running) as answer:
        running.one.kill_containerd(answered=answer)
        assert answer().code == grpc.StatusCode.UNAVAILABLE
    # The plugin runs to its end, and nobody records what it says.
    until(lambda: not under_way(running.one), "the ADD has ended")
    running.one.start_containerd()
    starts_and_stops(running)


def test_the_executable_killed_by_the_runtimes_deadline(running: World) -> None:
    with in_mid_add(running, within=5) as answer:
        assert answer().code == grpc.StatusCode.DEADLINE_EXCEEDED
    until(lambda: not under_way(running.one), "what followed the deadline has ended")
    starts_and_stops(running)


def test_a_node_that_is_rebooted_gives_its_pods_addresses_back(running: World) -> None:
    before = running.one.run_pod("web-0")
    address = running.holder_of("web-0").ipv4
    running.one.power_cut()
    assert running.holder_of("web-0").container == before
    running.one.make_ready()
    # The runtime has the sandbox from before in its database and its result in libcni's cache.
    assert running.one.cri.sandboxes() == [before]
    running.one.cri.stop(before)
    assert running.held() == []
    running.one.cri.remove(before)
    after = running.one.run_pod("web-0")
    held = running.holder_of("web-0")
    assert (held.container, held.ipv4) == (after, address)
    stop_all(running.one)
    running.nothing_is_left()


def test_a_pod_that_starts_again_before_the_old_sandbox_is_stopped_keeps_its_address(
    running: World,
) -> None:
    before = running.one.run_pod("web-0")
    address = running.holder_of("web-0").ipv4
    running.one.power_cut()
    running.one.make_ready()
    after = running.one.run_pod("web-0")
    held = running.holder_of("web-0")
    assert (held.container, held.ipv4) == (after, address)
    running.one.cri.stop(before)
    running.one.cri.remove(before)
    assert running.holder_of("web-0").container == after
    stop_all(running.one)
    running.nothing_is_left()


def test_a_pod_is_stopped_while_the_server_is_away(running: World) -> None:
    sandbox = running.one.run_pod("web-0")
    with running.one.netns(sandbox) as pod:
        running.server.stop()
        try:
            running.one.cri.stop(sandbox)
            assert links(pod) == []
        finally:
            running.start_server()
    if running.one.agent:
        until(lambda: not running.held(), "the agent has given the address back")
    else:
        assert [entry.container for entry in running.held()] == [sandbox]
    # Another DEL, which gives back what is pending.
    running.one.cri.remove(sandbox)
    running.nothing_is_left()


@BY_AGENT
def test_the_agent_killed_in_mid_add(running: World) -> None:
    node = running.one
    with in_mid_add(running) as answer:
        node.kill("agent")
        assert "the agent did not answer" in str(answer())
    node.start_agent()
    starts_and_stops(running)


@BY_AGENT
def test_pods_and_calls_do_not_notice_that_the_agent_is_killed(running: World) -> None:
    node = running.one
    before = node.run_pod("web-0")
    node.kill("agent")
    alone = node.run_pod("web-1")
    node.start_agent()
    assert {str(entry.container) for entry in running.held()} == {before, alone}
    for sandbox in (before, alone):
        with node.netns(sandbox) as pod:
            assert shown(pod)[0]
    stop_all(node)
    running.nothing_is_left()


def test_a_container_id_used_again_after_its_container_went_without_del(running: World) -> None:
    node = running.one

    def run() -> AddressEntry:
        flags = ("--cni", "--snapshotter=native", f"--cgroup={node.cgroup}/again")
        node.serve("ctr", "ctr", "run", *flags, NAME, "again")
        until(lambda: "RUNNING" in node.run("ctr", "task", "ls").stdout, "it runs")
        (held,) = running.held()
        assert held.container == "default-again"
        return held

    node.run("ctr", "images", "import", str(node.archive))
    first = run()
    # Who would call DEL is ctr.
    node.kill("ctr")
    node.run("ctr", "task", "rm", "--force", "again")
    node.run("ctr", "container", "rm", "again")
    second = run()
    assert (second.ipv4, second.ipv6) == (first.ipv4, first.ipv6)
    node.run("ctr", "task", "kill", "--signal=KILL", "again")
    node.wait("ctr")
    node.run("ctr", "container", "rm", "again")
    running.nothing_is_left()


def test_pods_that_start_and_stop_all_at_once(running: World) -> None:
    def run(number: int) -> str:
        return running.machines[number % 2].run_pod(f"web-{number}")

    with ThreadPoolExecutor(6) as together:
        started = list(together.map(run, range(6)))
    held = running.held()
    assert sorted(str(entry.container) for entry in held) == sorted(started)
    assert len({entry.ipv4 for entry in held}) == 6
    for machine in running.machines:
        stop_all(machine)
    running.nothing_is_left()
