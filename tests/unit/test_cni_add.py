"""ADD: its steps, all of them undone when one fails, and what the server may do meanwhile."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from cni_plugins import add, locks
from cni_plugins.leases import replay_pending
from cni_plugins.protocol import CniError
from cni_plugins.records import Key
from hostnet import InvalidName, NetnsMissing
from netspace.problems import Problem
from tests.unit.cni_bench import (
    AWAY,
    LOST,
    STEPS,
    Bench,
    added,
    deleted,
    error_of,
    fail_at,
    invocation,
)
from tests.unit.cni_doubles import CONTAINER, NETNS, InjectedError, network_view

OTHER = "/var/run/netns/second"


def test_add_gives_the_slots_addresses_on_the_networks_vlan(bench: Bench) -> None:
    result = added(bench)
    assert [ip.address for ip in result.ips] == ["10.9.0.2/24", "fd00:9::2/64"]
    assert [interface.name for interface in result.interfaces] == ["eth0"]
    assert bench.wiring.vlans == {"bond0.910"}
    assert bench.wiring.announced == ["10.9.0.2/24", "fd00:9::2/64"]
    live = bench.wiring.links[NETNS, "eth0"]
    assert live.routes == {("0.0.0.0/0", "10.9.0.1"), ("::/0", "fd00:9::1")}
    assert live.mac == result.interfaces[0].mac
    assert int(live.mac[:2], 16) & 3 == 2
    assert bench.files() == [f"attachments/{CONTAINER}@eth0.json"]


def test_every_step_is_told_in_order(bench: Bench) -> None:
    told: list[str] = []
    asyncio.run(add.add(bench.host(told.append), invocation()))
    assert told == STEPS


@pytest.mark.parametrize("name", STEPS)
def test_a_failure_after_any_step_leaves_nothing(bench: Bench, name: str) -> None:
    with pytest.raises(InjectedError):
        asyncio.run(add.add(bench.host(fail_at(name)), invocation()))
    assert bench.nothing_left()
    assert list(bench.folder.rglob("made/*.json")) == []
    assert len(bench.ipam.free) == 8


@pytest.mark.parametrize("name", STEPS)
def test_a_failure_with_the_server_gone_leaves_only_the_pending_release(
    bench: Bench, name: str
) -> None:
    def step(done: str) -> None:
        if done == name:
            bench.ipam.refuse["release"] = AWAY
            raise InjectedError(name)

    held = STEPS.index(name) >= STEPS.index("slot")
    with pytest.raises((CniError, InjectedError)) as caught:
        asyncio.run(add.add(bench.host(step), invocation()))
    assert not bench.wiring.links
    assert not bench.wiring.vlans
    if not held:
        assert bench.nothing_left()
        return
    assert isinstance(caught.value, CniError)
    assert caught.value.code == 11
    record = bench.records.load(Key(CONTAINER, "eth0"))
    assert record is not None
    assert record.pending
    del bench.ipam.refuse["release"]
    assert asyncio.run(replay_pending(bench.host(), most=9, within=5)) == (1, 0)
    assert bench.nothing_left()


@pytest.mark.parametrize("name", STEPS[:-1])
def test_a_cancellation_after_any_step_leaves_nothing(bench: Bench, name: str) -> None:
    async def cancelled() -> None:
        def step(done: str) -> None:
            if done == name:
                task.cancel()

        task = asyncio.ensure_future(add.add(bench.host(step), invocation()))
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert bench.nothing_left()


def test_a_failing_kernel_leaves_nothing(bench: Bench) -> None:
    bench.wiring.before = fail_at("attach")
    with pytest.raises(InjectedError):
        added(bench)
    assert bench.nothing_left()


def test_only_who_may_take_the_vlan_back_keeps_other_adds_from_it(bench: Bench) -> None:
    host = msgspec.structs.replace(bench.host(), lock_wait=0)

    async def added_beside(*, shared: bool) -> None:
        async with locks.held(host.records.lock_file, "vlan-bond0.910", 0, shared=shared):
            await add.add(host, invocation())

    with pytest.raises(CniError, match=r"vlan-bond0\.910"):
        asyncio.run(added_beside(shared=True))
    bench.wiring.vlans.add("bond0.910")
    with pytest.raises(CniError, match=r"vlan-bond0\.910"):
        asyncio.run(added_beside(shared=False))
    asyncio.run(added_beside(shared=True))


def test_a_vlan_that_was_there_stays(bench: Bench) -> None:
    bench.wiring.vlans.add("bond0.910")
    with pytest.raises(InjectedError):
        asyncio.run(add.add(bench.host(fail_at("held")), invocation()))
    assert bench.wiring.vlans == {"bond0.910"}


def test_an_interface_that_cannot_be_removed_is_remembered_and_its_address_given_back(
    bench: Bench,
) -> None:
    def step(done: str) -> None:
        if done == "interface":
            bench.wiring.before = fail_at("detach")
            raise InjectedError(done)

    error = error_of(lambda: asyncio.run(add.add(bench.host(step), invocation())))
    assert error.code == 11
    assert not bench.ipam.holders
    record = bench.records.load(Key(CONTAINER, "eth0"))
    assert record is not None
    assert (record.state, record.claim) == ("releasing", None)
    bench.wiring.before = lambda step: None
    assert asyncio.run(replay_pending(bench.host(), most=9, within=5)) == (1, 0)
    bench.wiring.vlans.clear()
    assert bench.nothing_left()


# The server


@pytest.mark.parametrize("code", ["unavailable", "not-leader", "busy"])
def test_a_server_that_did_nothing_leaves_nothing(bench: Bench, code: str) -> None:
    bench.ipam.refuse["allocate"] = Problem(code, "not now")
    with pytest.raises(Problem):
        added(bench)
    assert bench.nothing_left()
    assert bench.ipam.calls == ["allocate"]


@pytest.mark.parametrize("code", ["outcome-unknown", "state-unavailable", "internal"])
def test_an_answer_lost_after_the_commit_is_taken_back(bench: Bench, code: str) -> None:
    bench.ipam.lose["allocate"] = Problem(code, "lost")
    with pytest.raises(Problem):
        added(bench)
    assert bench.ipam.calls == ["allocate", "release"]
    assert bench.nothing_left()


def test_an_answer_lost_with_the_server_stays_pending_until_it_is_back(bench: Bench) -> None:
    bench.ipam.lose["allocate"] = LOST
    bench.ipam.refuse["release"] = AWAY
    assert error_of(lambda: added(bench)).code == 11
    assert bench.ipam.holders
    assert not bench.wiring.links
    bench.ipam.lose, bench.ipam.refuse = {}, {}
    deleted(bench, netns="")
    assert bench.nothing_left()


def test_a_namespace_that_is_gone_is_refused_before_the_server_is_asked(bench: Bench) -> None:
    bench.wiring.gone.add(NETNS)
    with pytest.raises(NetnsMissing):
        added(bench)
    assert bench.ipam.calls == []
    assert bench.nothing_left()


def test_an_exhausted_pool_is_error_100_and_takes_nothing(bench: Bench) -> None:
    bench.ipam.free.clear()
    with pytest.raises(Problem) as caught:
        added(bench)
    assert caught.value.code == "pool-exhausted"
    assert bench.nothing_left()


def test_an_answer_that_does_not_agree_with_its_slot_is_refused_and_given_back(
    bench: Bench,
) -> None:
    bench.ipam.network = network_view(vlan=5000)
    assert error_of(lambda: added(bench)).code == 110
    assert bench.nothing_left()


def test_a_network_whose_mapping_changed_is_refused_and_given_back(bench: Bench) -> None:
    added(bench)
    deleted(bench)
    bench.wiring.vlans.clear()
    bench.ipam.network = network_view(ipv4="10.8.0.0/24")
    assert error_of(lambda: added(bench)).code == 110
    assert bench.nothing_left()


def test_what_a_kernel_that_fails_leaves_is_taken_away(bench: Bench) -> None:
    bench.wiring.after = fail_at("attach")
    with pytest.raises(InjectedError):
        added(bench)
    bench.wiring.vlans.clear()
    assert bench.nothing_left()


def test_a_name_that_no_link_can_have_takes_no_address(bench: Bench) -> None:
    with pytest.raises(InvalidName):
        added(bench, ifname="net%1")
    assert bench.ipam.calls == [] and bench.files() == []


def test_an_older_sandbox_of_the_same_pod_loses_its_interface_whatever_its_mac_is_now(
    bench: Bench,
) -> None:
    first = added(bench)
    link = bench.wiring.links[NETNS, "eth0"]
    bench.wiring.links[NETNS, "eth0"] = msgspec.structs.replace(link, mac="02:00:00:00:00:99")
    assert added(bench, container="second", netns=OTHER).ips == first.ips
    assert list(bench.wiring.links) == [(OTHER, "eth0")]


def test_an_older_sandbox_of_another_pod_keeps_its_address_where_its_interface_may_come_back(
    bench: Bench,
) -> None:
    first = added(bench)
    bench.wiring.links.clear()
    args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u2"
    assert added(bench, container="second", netns=OTHER, args=args).ips != first.ips
    assert len(bench.ipam.holders) == 2


def test_an_older_sandbox_whose_namespace_is_gone_gives_its_address_up(bench: Bench) -> None:
    first = added(bench)
    bench.wiring.links.clear()
    bench.wiring.gone.add(NETNS)
    args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u2"
    assert added(bench, container="second", netns=OTHER, args=args).ips == first.ips


def test_an_interface_whose_del_failed_goes_before_the_pod_gets_its_address_again(
    bench: Bench,
) -> None:
    added(bench)
    bench.wiring.before = fail_at("detach")
    assert error_of(lambda: deleted(bench)).code == 121
    with pytest.raises(InjectedError):
        added(bench, container="second", netns=OTHER)
    bench.wiring.before = lambda step: None
    added(bench, container="second", netns=OTHER)
    assert list(bench.wiring.links) == [(OTHER, "eth0")]
