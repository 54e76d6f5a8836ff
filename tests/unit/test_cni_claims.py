"""Repeated ADDs, claims, older sandboxes of the same pod."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from cni_plugins import add
from cni_plugins.leases import replay_pending
from cni_plugins.records import Key
from tests.unit.cni_bench import (
    AWAY,
    LOST,
    Bench,
    added,
    deleted,
    error_of,
    fail_at,
    invocation,
)
from tests.unit.cni_doubles import CONTAINER, NETNS, InjectedError, MemoryIpam

# Repeats and claims


def test_a_repeated_add_gives_the_same_answer_and_changes_nothing(bench: Bench) -> None:
    first = added(bench)
    links, holders = dict(bench.wiring.links), dict(bench.ipam.holders)
    record = bench.records.load(Key(CONTAINER, "eth0"))
    assert record is not None
    assert record.allocation is not None
    record.allocation.how = "repeated"
    for _ in range(2):
        assert added(bench) == first
        assert (bench.wiring.links, bench.ipam.holders) == (links, holders)
        assert bench.records.load(Key(CONTAINER, "eth0")) == record


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


def test_an_add_does_the_pending_release_of_its_attachment_first(bench: Bench) -> None:
    added(bench)
    (old,) = [request.claim for request, _ in bench.ipam.holders.values()]
    bench.ipam.refuse["release"] = AWAY
    deleted(bench)
    bench.ipam.refuse = {}
    added(bench)
    (new,) = [request.claim for request, _ in bench.ipam.holders.values()]
    assert new != old, "a release of the old claim that arrives late must free nothing"
    assert asyncio.run(replay_pending(bench.host(), most=9, within=5)) == (0, 0)
    assert bench.ipam.holders


def test_a_journal_replayed_after_the_address_was_given_again_frees_nothing(
    tmp_path: Path,
) -> None:
    """A node with one address: its release was done, but the answer to it was lost."""
    bench = Bench(tmp_path, MemoryIpam(size=1))
    first = added(bench)
    bench.ipam.lose["release"] = LOST
    deleted(bench)
    bench.ipam.lose = {}
    assert not bench.ipam.holders
    args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;K8S_POD_UID=u2"
    second = added(bench, container="second", netns="/var/run/netns/second", args=args)
    assert second.ips == first.ips, "the address was given again"
    held = dict(bench.ipam.holders)
    assert asyncio.run(replay_pending(bench.host(), most=9, within=5)) == (1, 0)
    assert bench.ipam.holders == held
    assert list(bench.wiring.links) == [("/var/run/netns/second", "eth0")]
    assert bench.records.load(Key(CONTAINER, "eth0")) is None


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
