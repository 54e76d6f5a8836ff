"""ADD, DEL, CHECK and GC of a node: steps undone, claims, repeats, pending releases."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cni_plugins import add, delete, ipam
from cni_plugins.check import check
from cni_plugins.leases import replay_pending
from cni_plugins.operations import operate
from cni_plugins.protocol import CniError
from cni_plugins.records import Key
from cni_plugins.results import Result, encode_result
from netspace.problems import Problem
from tests.unit.cni_doubles import (
    CONTAINER,
    NETNS,
    Bench,
    InjectedError,
    MemoryIpam,
    invocation,
    network_view,
)

AWAY = Problem("unavailable", "nobody answers")
LOST = Problem("outcome-unknown", "no answer came")
EVERYTHING_GOES: dict[str, Any] = {"cni.dev/valid-attachments": []}
STEPS = ["record", "older sandboxes", "slot", "interface", "announcement", "held"]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def added(bench: Bench, **changes: Any) -> Result:
    return asyncio.run(add.add(bench.host(), invocation(**changes)))


def deleted(bench: Bench, **changes: Any) -> None:
    asyncio.run(delete.delete(bench.host(), invocation("DEL", **changes), "netspace"))


def error_of(work: Callable[[], object]) -> CniError:
    with pytest.raises(CniError) as caught:
        work()
    return caught.value


def fail_at(name: str) -> Callable[[str], None]:
    def step(done: str) -> None:
        if done == name:
            raise InjectedError(name)

    return step


def prev_result(result: Result, version: str = "1.1.0") -> dict[str, Any]:
    value: dict[str, Any] = json.loads(encode_result(result, version))
    return value


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


@pytest.mark.parametrize(
    ("moment", "name"), [("before", "attach"), ("before", "announce"), ("after", "announce")]
)
def test_a_failing_kernel_leaves_nothing(bench: Bench, name: str, moment: str) -> None:
    setattr(bench.wiring, moment, fail_at(name))
    with pytest.raises(InjectedError):
        added(bench)
    assert bench.nothing_left()


def test_a_vlan_that_was_there_stays(bench: Bench) -> None:
    bench.wiring.vlans.add("bond0.910")
    with pytest.raises(InjectedError):
        asyncio.run(add.add(bench.host(fail_at("held")), invocation()))
    assert bench.wiring.vlans == {"bond0.910"}


def test_an_interface_that_cannot_be_removed_is_remembered_and_its_address_given_back(
    bench: Bench,
) -> None:
    def step(done: str) -> None:
        if done == "announcement":
            bench.wiring.before = fail_at("detach")
            raise InjectedError(done)

    error = error_of(lambda: asyncio.run(add.add(bench.host(step), invocation())))
    assert error.code == 11
    assert not bench.ipam.holders


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


# Repeats and claims


def test_a_repeated_add_gives_the_same_answer_and_changes_nothing(bench: Bench) -> None:
    first = added(bench)
    links, holders = dict(bench.wiring.links), dict(bench.ipam.holders)
    assert added(bench) == first
    assert (bench.wiring.links, bench.ipam.holders) == (links, holders)


def test_a_repeated_add_builds_a_lost_interface_again_with_the_same_mac_and_address(
    bench: Bench,
) -> None:
    first = added(bench)
    bench.wiring.links.clear()
    assert added(bench) == first
    assert bench.wiring.links[NETNS, "eth0"].mac == first.interfaces[0].mac


def test_an_add_after_a_kill_uses_the_claim_on_disk(bench: Bench) -> None:
    with pytest.raises(InjectedError):
        asyncio.run(add.add(bench.host(fail_at("slot")), invocation()))
    first = added(bench)
    record = bench.records.load(Key(CONTAINER, "eth0"))
    assert record is not None
    record.state, record.allocation, record.result = "adding", None, None
    bench.records.save(record)
    assert [ip.address for ip in added(bench).ips] == [ip.address for ip in first.ips]
    assert len(bench.ipam.holders) == 1
    again = bench.records.load(Key(CONTAINER, "eth0"))
    assert again is not None
    assert again.claim == record.claim


def test_an_add_cancels_the_pending_release_of_its_attachment(bench: Bench) -> None:
    first = added(bench)
    bench.ipam.refuse["release"] = AWAY
    deleted(bench)
    bench.ipam.refuse = {}
    second = added(bench)
    assert [ip.address for ip in second.ips] == [ip.address for ip in first.ips]
    assert asyncio.run(replay_pending(bench.host(), most=9, within=5)) == (0, 0)
    assert bench.ipam.holders


def test_a_claim_that_was_released_meanwhile_is_replaced(bench: Bench) -> None:
    added(bench)
    bench.ipam.lose["release"] = LOST
    deleted(bench)
    bench.ipam.lose = {}
    assert not bench.ipam.holders
    added(bench)
    assert len(bench.ipam.holders) == 1
    deleted(bench)
    assert not bench.ipam.holders


def test_an_interface_that_is_not_ours_is_left_alone_and_the_slot_given_back(bench: Bench) -> None:
    added(bench)
    live = msgspec.structs.replace(bench.wiring.links[NETNS, "eth0"], mac="02:ff:ff:ff:ff:ff")
    deleted(bench)
    bench.wiring.links[NETNS, "eth0"] = live
    with pytest.raises(Exception, match="taken"):
        added(bench)
    assert bench.wiring.links == {(NETNS, "eth0"): live}
    assert not bench.ipam.holders


def test_an_interface_of_another_cni_network_is_refused(bench: Bench) -> None:
    added(bench)
    assert error_of(lambda: added(bench, name="other")).code == 111
    assert bench.wiring.links


# Older sandboxes of the same pod


def test_a_new_sandbox_of_the_same_pod_takes_the_address_over_and_the_old_interface_goes(
    bench: Bench,
) -> None:
    first = added(bench)
    second = added(bench, container="second", netns="/var/run/netns/second")
    assert [ip.address for ip in second.ips] == [ip.address for ip in first.ips]
    assert list(bench.wiring.links) == [("/var/run/netns/second", "eth0")]
    assert asyncio.run(replay_pending(bench.host(), most=9, within=5)) == (1, 0)
    deleted(bench, netns="")
    assert len(bench.ipam.holders) == 1


def test_a_new_pod_under_an_old_name_leaves_the_old_ones_interface_alone(bench: Bench) -> None:
    first = added(bench)
    args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u2"
    second = added(bench, container="second", netns="/var/run/netns/second", args=args)
    assert second.ips != first.ips
    assert len(bench.wiring.links) == 2


def test_a_new_pod_under_an_old_name_takes_over_once_the_old_interface_is_gone(
    bench: Bench,
) -> None:
    first = added(bench)
    bench.wiring.gone.add(NETNS)
    args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u2"
    second = added(bench, container="second", netns="/var/run/netns/second", args=args)
    assert [ip.address for ip in second.ips] == [ip.address for ip in first.ips]


def test_sandboxes_without_a_pods_name_have_nothing_to_do_with_each_other(bench: Bench) -> None:
    added(bench, args="")
    added(bench, args="", container="second", netns="/var/run/netns/second")
    assert (len(bench.wiring.links), len(bench.ipam.holders)) == (2, 2)


# DEL


@pytest.mark.parametrize("netns", [NETNS, ""])
def test_del_takes_all_away_and_may_be_repeated(bench: Bench, netns: str) -> None:
    added(bench)
    bench.wiring.vlans.clear()
    for _ in range(3):
        deleted(bench, netns=netns)
        assert bench.nothing_left()


def test_del_of_what_never_was_succeeds(bench: Bench) -> None:
    deleted(bench)
    deleted(bench, netns="")
    assert bench.nothing_left()


def test_del_with_the_server_away_succeeds_and_keeps_the_release(bench: Bench) -> None:
    added(bench)
    bench.ipam.refuse["release"] = AWAY
    deleted(bench)
    assert not bench.wiring.links
    record = bench.records.load(Key(CONTAINER, "eth0"))
    assert record is not None
    assert record.pending
    deleted(bench, netns="")
    bench.ipam.refuse = {}
    assert asyncio.run(replay_pending(bench.host(), most=9, within=5)) == (1, 0)
    assert not bench.ipam.holders
    assert bench.files() == []


def test_del_gives_the_address_back_where_the_interface_cannot_be_removed(bench: Bench) -> None:
    added(bench)
    bench.wiring.before = fail_at("detach")
    assert error_of(lambda: deleted(bench)).code == 121
    assert not bench.ipam.holders
    bench.wiring.before = lambda step: None
    deleted(bench)
    assert not bench.wiring.links
    assert bench.files() == []


def test_del_without_a_record_gives_back_what_the_server_says_is_held(bench: Bench) -> None:
    result = added(bench)
    bench.records.delete(Key(CONTAINER, "eth0"))
    deleted(bench, prevResult=prev_result(result))
    assert not bench.ipam.holders
    assert not bench.wiring.links


def test_del_without_a_record_leaves_an_interface_that_prev_result_does_not_mean(
    bench: Bench,
) -> None:
    result = added(bench)
    bench.records.delete(Key(CONTAINER, "eth0"))
    before = prev_result(result)
    before["interfaces"][0]["mac"] = "02:ff:ff:ff:ff:ff"
    deleted(bench, prevResult=before)
    assert bench.wiring.links


def test_an_old_del_never_frees_what_a_newer_attachment_took_over(bench: Bench) -> None:
    added(bench)
    added(bench, container="second", netns="/var/run/netns/second")
    deleted(bench)
    assert len(bench.ipam.holders) == 1
    assert list(bench.wiring.links) == [("/var/run/netns/second", "eth0")]


def test_del_of_another_cni_network_touches_nothing(bench: Bench) -> None:
    added(bench)
    deleted(bench, name="other")
    assert bench.wiring.links
    assert bench.ipam.holders


def test_a_call_that_finds_its_attachment_busy_is_error_11(bench: Bench) -> None:
    async def both() -> CniError:
        async with bench.host().lock(Key(CONTAINER, "eth0")):
            with pytest.raises(CniError) as caught:
                await delete.delete(bench.host(lock_wait=0.02), invocation("DEL"), "netspace")
        return caught.value

    assert asyncio.run(both()).code == 11


def test_replaying_ends_at_the_first_sign_that_the_server_is_away(bench: Bench) -> None:
    for number in range(5):
        added(bench, container=f"c{number}", netns=f"/ns/{number}", args="")
    bench.ipam.refuse["release"] = AWAY
    for number in range(5):
        deleted(bench, container=f"c{number}", netns="")
    before = len(bench.ipam.calls)
    assert asyncio.run(replay_pending(bench.host(), most=5, within=5)) == (0, 5)
    assert len(bench.ipam.calls) == before + 1
    bench.ipam.refuse = {}
    assert asyncio.run(replay_pending(bench.host(), most=2, within=5)) == (2, 3)


# CHECK and GC


def checked(bench: Bench, result: Result, **changes: Any) -> None:
    before = prev_result(result)
    asyncio.run(check(bench.host(), invocation("CHECK", prevResult=before, **changes)))


def test_check_finds_an_attachment_right_as_add_left_it(bench: Bench) -> None:
    checked(bench, added(bench))


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "veth"},
        {"mac": "02:ff:ff:ff:ff:ff"},
        {"mode": "private"},
        {"up": False},
        {"parent": 8},
        {"parent_here": True},
        {"addresses": frozenset({"10.9.0.2/24"})},
        {"routes": frozenset({("0.0.0.0/0", "10.9.0.254"), ("::/0", "fd00:9::1")})},
    ],
)
def test_check_finds_every_difference(bench: Bench, changes: dict[str, Any]) -> None:
    result = added(bench)
    live = bench.wiring.links[NETNS, "eth0"]
    bench.wiring.links[NETNS, "eth0"] = msgspec.structs.replace(live, **changes)
    assert error_of(lambda: checked(bench, result)).code == 112


def test_check_lets_a_later_plugin_add_addresses_and_routes(bench: Bench) -> None:
    result = added(bench)
    live = bench.wiring.links[NETNS, "eth0"]
    bench.wiring.links[NETNS, "eth0"] = msgspec.structs.replace(
        live,
        addresses=live.addresses | {"192.0.2.1/32"},
        routes=live.routes | {("192.0.2.0/24", "")},
    )
    checked(bench, result)


def test_check_finds_missing_things(bench: Bench) -> None:
    result = added(bench)
    error = error_of(lambda: asyncio.run(check(bench.host(), invocation("CHECK"))))
    assert (error.code, "prevResult" in error.msg) == (7, True)
    bench.wiring.links.clear()
    assert error_of(lambda: checked(bench, result)).code == 112


def test_check_finds_an_address_that_the_server_holds_no_more(bench: Bench) -> None:
    result = added(bench)
    bench.ipam.holders.clear()
    assert error_of(lambda: checked(bench, result)).code == 112


def collected(bench: Bench, **conf: Any) -> None:
    asyncio.run(delete.collect(bench.host(), invocation("GC", **conf), "netspace"))


def test_gc_without_a_list_does_nothing(bench: Bench) -> None:
    added(bench)
    collected(bench)
    assert bench.ipam.holders


def test_gc_takes_away_what_is_not_listed_and_only_of_its_network(bench: Bench) -> None:
    for number in range(3):
        name = "other" if number == 2 else "net"
        added(bench, container=f"c{number}", netns=f"/ns/{number}", args="", name=name)
    collected(bench, **{"cni.dev/valid-attachments": [{"containerID": "c0", "ifname": "eth0"}]})
    left = sorted(request.attachment.container for request, _ in bench.ipam.holders.values())
    assert left == ["c0", "c2"]
    assert sorted(netns for netns, _ in bench.wiring.links) == ["/ns/0", "/ns/2"]


def test_gc_leaves_an_attachment_that_is_being_made(bench: Bench) -> None:
    async def meanwhile() -> None:
        added_first = await add.add(bench.host(), invocation())
        assert added_first.ips
        async with bench.host().lock(Key(CONTAINER, "eth0")):
            await delete.collect(bench.host(), invocation("GC", **EVERYTHING_GOES), "netspace")

    asyncio.run(meanwhile())
    assert bench.wiring.links


# netspace-ipam on its own


def test_the_ipam_plugin_gives_addresses_and_leaves_the_interface_to_its_caller(
    bench: Bench,
) -> None:
    call = invocation(type="bridge")
    answer = json.loads(asyncio.run(operate("netspace-ipam", bench.host(), call)))
    assert [ip["address"] for ip in answer["ips"]] == ["10.9.0.2/24", "fd00:9::2/64"]
    assert answer["netspace"]["vlan"] == 910
    assert not bench.wiring.links
    again = json.loads(asyncio.run(operate("netspace-ipam", bench.host(), call)))
    assert again == answer
    asyncio.run(
        operate(
            "netspace-ipam", bench.host(), invocation("CHECK", type="bridge", prevResult=answer)
        )
    )
    asyncio.run(operate("netspace-ipam", bench.host(), invocation("DEL", type="bridge", netns="")))
    assert bench.nothing_left()


@pytest.mark.parametrize("name", ["record", "older sandboxes", "slot", "held"])
def test_a_failure_after_any_step_of_the_ipam_plugin_leaves_nothing(
    bench: Bench, name: str
) -> None:
    with pytest.raises(InjectedError):
        asyncio.run(ipam.add(bench.host(fail_at(name)), invocation()))
    assert bench.nothing_left()


# Many at once, and in any order


def test_many_adds_at_once_get_an_address_each(tmp_path: Path) -> None:
    bench = Bench(tmp_path, MemoryIpam(size=64))

    async def all_of_them() -> list[Result]:
        host = bench.host(lock_wait=30)
        calls = [
            invocation(container=f"c{number}", netns=f"/ns/{number}", args="")
            for number in range(64)
        ]
        return await asyncio.gather(*(add.add(host, call) for call in calls))

    results = asyncio.run(all_of_them())
    assert len({result.ips[0].address for result in results}) == 64
    assert len(bench.wiring.links) == 64


class AnyOrder(RuleBasedStateMachine):
    """ADD, DEL and replays of two sandboxes in any order, with a server that comes and goes: after
    each call a link has a slot, and at the end nothing is left."""

    def __init__(self) -> None:
        super().__init__()
        from tempfile import mkdtemp

        self.bench = Bench(Path(mkdtemp(prefix="netspace-test-")))

    @rule(number=st.integers(0, 1), trouble=st.sampled_from(["", "refuse", "lose"]))
    def add(self, number: int, trouble: str) -> None:
        self._with("allocate", trouble, lambda: add.add(self.bench.host(), self._call(number)))

    @rule(number=st.integers(0, 1), trouble=st.sampled_from(["", "refuse", "lose"]))
    def delete(self, number: int, trouble: str) -> None:
        call = self._call(number, "DEL")
        self._with("release", trouble, lambda: delete.delete(self.bench.host(), call, "netspace"))

    @rule(number=st.integers(0, 1), name=st.sampled_from(STEPS))
    def fail(self, number: int, name: str) -> None:
        host = self.bench.host(fail_at(name))
        self._with("allocate", "", lambda: add.add(host, self._call(number)))

    @rule()
    def replay(self) -> None:
        self._with("allocate", "", lambda: replay_pending(self.bench.host(), most=9, within=5))

    @invariant()
    def every_link_has_its_slot(self) -> None:
        held = {request.attachment.container for request, _ in self.bench.ipam.holders.values()}
        assert {netns.removeprefix("/ns/") for netns, _ in self.bench.wiring.links} <= held

    @invariant()
    def every_slot_has_its_record(self) -> None:
        recorded = {record.container for record in self.bench.records.all()}
        held = {request.attachment.container for request, _ in self.bench.ipam.holders.values()}
        assert held <= recorded

    def teardown(self) -> None:
        for number in range(2):
            self._with(
                "release",
                "",
                lambda n=number: delete.delete(  # type: ignore[misc]
                    self.bench.host(), self._call(n, "DEL"), "netspace"
                ),
            )
        self.bench.wiring.vlans.clear()
        assert self.bench.nothing_left()
        import shutil

        shutil.rmtree(self.bench.folder)

    def _call(self, number: int, command: str = "ADD") -> Any:
        return invocation(command, container=f"c{number}", netns=f"/ns/c{number}", args="")

    def _with(self, call: str, trouble: str, work: Callable[[], Any]) -> None:
        ipam = self.bench.ipam
        ipam.refuse = {call: AWAY} if trouble == "refuse" else {}
        ipam.lose = {call: LOST} if trouble == "lose" else {}
        try:
            asyncio.run(work())
        except (Problem, CniError, InjectedError):
            pass
        finally:
            ipam.refuse, ipam.lose = {}, {}


AnyOrder.TestCase.settings = settings(max_examples=25, stateful_step_count=15)
TestAnyOrder = AnyOrder.TestCase


@given(st.binary(min_size=6, max_size=6))
def test_every_mac_is_unicast_and_locally_administered(octets: bytes) -> None:
    from cni_plugins.attachment import Host

    host = Bench(Path("/nonexistent")).host(random=lambda _: octets)
    assert isinstance(host, Host)
    first = int(host.new_mac()[:2], 16)
    assert first & 3 == 2
