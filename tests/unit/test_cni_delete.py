"""DEL, CHECK, GC and the IPAM plugin on its own."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from cni_plugins import add, delete, ipam
from cni_plugins.check import check
from cni_plugins.leases import replay_pending
from cni_plugins.operations import operate
from cni_plugins.protocol import CniError
from cni_plugins.records import Key, Record, Records
from cni_plugins.results import Result
from netspace.problems import Problem
from tests.unit.cni_bench import (
    AWAY,
    EVERYTHING_GOES,
    Bench,
    added,
    deleted,
    error_of,
    fail_at,
    invocation,
    prev_result,
)
from tests.unit.cni_doubles import CONTAINER, NETNS, InjectedError

# DEL


@pytest.mark.parametrize("netns", [NETNS, ""])
def test_del_takes_all_away_and_may_be_repeated(bench: Bench, netns: str) -> None:
    added(bench)
    bench.wiring.vlans.clear()
    for _ in range(3):
        deleted(bench, netns=netns)
        assert bench.nothing_left()


def test_the_address_goes_back_once_the_interface_has_ended_and_del_waits_for_the_kernel(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    added(bench)
    bench.wiring.vlans.clear()
    seen: list[str] = []

    async def detach(netns: str, ifname: str, mac: str, gone: Callable[[], None]) -> bool:
        await asyncio.sleep(0.01)
        seen.append("held" if bench.ipam.holders else "free")
        gone()
        async with asyncio.timeout(5):
            while bench.ipam.holders:
                await asyncio.sleep(0.001)
        seen.append("free")
        bench.wiring.links.clear()
        return True

    monkeypatch.setattr(bench.wiring, "detach", detach)
    deleted(bench)
    assert seen == ["held", "free"]
    assert bench.nothing_left()


def test_del_of_what_never_was_succeeds(bench: Bench) -> None:
    deleted(bench)
    deleted(bench, netns="")
    assert bench.nothing_left()


@pytest.mark.parametrize("code", ["unavailable", "state-full", "state-unavailable", "not-leader"])
def test_del_with_the_server_away_or_its_store_full_succeeds_and_keeps_the_release(
    bench: Bench, code: str
) -> None:
    added(bench)
    bench.ipam.refuse["release"] = Problem(code, "not now")
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


def test_a_release_that_is_refused_is_reported_stays_pending_and_leaks_nothing(
    bench: Bench,
) -> None:
    added(bench)
    bench.ipam.refuse["release"] = Problem("forbidden", "the node is another cluster's")
    for _ in range(2):
        error = error_of(lambda: deleted(bench))
        assert error.code == 120
        assert "the node is another cluster's" in str(error)
        record = bench.records.load(Key(CONTAINER, "eth0"))
        assert record is not None and record.pending and record.claim is not None
        assert not bench.wiring.links
    bench.ipam.refuse = {}
    deleted(bench)
    assert bench.ipam.holders == {} and bench.files() == []


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


def test_del_takes_away_what_an_add_that_was_killed_had_written_of_its_record(
    bench: Bench,
) -> None:
    added(bench)
    bench.wiring.vlans.clear()
    [record] = (bench.records.folder / "attachments").glob("*.json")
    record.rename(record.with_name(f"{record.name}.new"))
    deleted(bench)
    assert bench.nothing_left()
    assert list(record.parent.iterdir()) == []


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


def test_del_on_a_full_disk_takes_all_away(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    added(bench)
    bench.wiring.vlans.clear()

    def full(self: Records, record: Record) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(Records, "save", full)
    deleted(bench)
    assert bench.nothing_left()
