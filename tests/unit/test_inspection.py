"""The audit of a stored state: every rule broken by hand is named, mends mend, no false alarm."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import invariant

from ipam_server import keys as key_names
from ipam_server import networks as rules
from ipam_server.flaws import MEANINGS, Flaw
from ipam_server.inspection import Inspector
from ipam_server.records import AbsencesRecord, Disputed, FabricRecord, Release
from netspace.messages import NewNetwork, NewPool, Selection
from statestore import KeyValue
from tests.unit.cluster_world import World, ask
from tests.unit.test_allocation_rules import Allocation

FABRIC = key_names.fabric("default")


def fabric_of(world: World) -> FabricRecord:
    """The fabric as it must be for the world's networks."""
    record = FabricRecord(name="default")
    for name, network in world.state.networks.items():
        record = rules.joined(record, world.state.name, name, network.record)
    return record


def inspected(world: World, fabrics: dict[str, KeyValue], now: int | None = None) -> list[Flaw]:
    inspector = Inspector(world.state.name, fabrics, now)
    stored = [world.stored[key] for key in sorted(world.stored)]
    for at in range(0, len(stored), 5):
        inspector.add(kv for kv in stored[at : at + 5] if kv.key.startswith(world.keys.prefix))
    return inspector.flaws()


class Broken:
    """A healthy cluster, to break. Slot 1 is p1's, 2 p2's, 3 was p3's, 4 is reserved; tenant's 20
    is a pod's of team-a, and an application's pool lies in tenant."""

    def __init__(self) -> None:
        world = self.world = World()
        self.keys = world.keys
        world.add_network(NewNetwork(name="red", vlan=1, ipv4="10.0.0.0/24", gateway4="10.0.0.254"))
        world.add_network(NewNetwork(name="six", vlan=2, ipv6="fd00::/64"))
        world.add_pool(NewPool(name="main", kind="default", network="red", size="10", cooldown=5))
        world.add_pool(
            NewPool(
                name="tenant", kind="netspace", network="red",
                ranges=["10.0.0.20-10.0.0.29"], namespaces=["team-a"],
            )
        )  # fmt: skip
        world.add_pool(
            NewPool(
                name="shop", kind="application", network="red", parent="tenant",
                ranges=["10.0.0.28-10.0.0.29"],
            )
        )  # fmt: skip
        for number in (1, 2, 3):
            world.now += 1000
            world.allocate(ask(f"c{number}", f"p{number}"))
        world.allocate(ask("c4", "p4", namespace="team-a", selection=Selection(netspace="tenant")))
        world.release(("red", 3))
        world.reserve(("red", 4), "printer")
        self.put(world.keys.clock, b"%d" % world.now)
        self.put(FABRIC, msgspec.json.encode(fabric_of(world)))
        assert self.flaws() == []

    def put_vmacs(self, *indices: int) -> None:
        for index in indices:
            self.put(slot(index), b'{"n":"node-1"}')

    def put(self, key: bytes, value: bytes) -> None:
        """Somebody writes past every server."""
        self.world.revision += 1
        self.world.stored[key] = KeyValue(key, value, self.world.revision, self.world.revision)

    def drop(self, key: bytes) -> None:
        self.world.revision += 1
        del self.world.stored[key]

    def edit(self, key: bytes, **fields: object) -> None:
        """Changes fields of a value, under the names they are stored by."""
        value = msgspec.json.decode(self.world.stored[key].value)
        self.put(key, msgspec.json.encode({**value, **fields}))

    def flaws(self) -> list[Flaw]:
        kv = self.world.stored.get(FABRIC)
        return inspected(self.world, {} if kv is None else {"default": kv})


def slot(number: int) -> bytes:
    return World().keys.slot(("red", number))


def attachment(container: str) -> bytes:
    return World().keys.attachment((container, "eth0"))


K = World().keys
DISPUTE = msgspec.json.encode(
    AbsencesRecord(at=0, seen=0, disputed=[Disputed("red", "1", "c9", "eth0", "default", "p9")])
)
RELEASE = msgspec.json.encode(Release(at=0, sequence=1))

# What is done, what is found, and whether a repair mends it.
BREAKS: dict[str, tuple[Callable[[Broken], None], list[str], bool]] = {
    "a holder that is no JSON": (
        lambda b: b.put(slot(1), b"{"), ["unreadable", "attachment-dangling"], False),
    "a holder of another shape": (
        lambda b: b.put(slot(4), b'{"t": 7}'), ["unreadable"], False),
    "a network that is no JSON": (
        lambda b: b.put(K.network("red"), b"?"), ["unreadable"], False),
    "a network with impossible subnets": (
        lambda b: b.edit(K.network("six"), ipv6="fd00::1/64"), ["unreadable"], False),
    "a pool without its fields": (
        lambda b: b.put(K.pool("spare"), b"{}"), ["unreadable"], False),
    "a pool with ranges that are none": (
        lambda b: b.edit(K.pool("shop"), ranges=[["z", "1"]]), ["unreadable"], False),
    "a release that is no JSON": (
        lambda b: b.put(K.released(("red", 3)), b"\xff"), ["unreadable"], False),
    "a node that is no JSON": (lambda b: b.put(K.node("n1"), b""), ["unreadable"], False),
    "an audit entry that is no JSON": (
        lambda b: b.put(K.audit(1, 1), b"x"), ["unreadable"], False),
    "a clock that is no number": (
        lambda b: b.put(K.clock, b"-3"), ["unreadable", "clock"], False),
    "a fabric that is no JSON": (lambda b: b.put(FABRIC, b"x"), ["unreadable"], False),
    "a key of nobody": (
        lambda b: b.put(K.prefix + b"wishes/1", b""), ["unknown-key"], False),
    "a slot's key with a short index": (
        lambda b: b.put(K.prefix + b"slots/red/7", b"{}"), ["malformed-key"], False),
    "a key that is no text": (
        lambda b: b.put(K.prefix + b"slots/\xff", b"{}"), ["malformed-key"], False),
    "a released claim without a moment": (
        lambda b: b.put(K.prefix + b"buried/soon/" + b"a" * 32, b""), ["malformed-key"], False),
    "an attachment's key without an interface": (
        lambda b: b.put(K.attachments + b"c1", b"red/1"), ["malformed-key"], False),
    "a node with two vmacs": (
        lambda b: b.put_vmacs(8, 9), ["vmac-twice"], False),
    "a holder in no network": (
        lambda b: b.put(K.slot(("old", 1)), b'{"t":"x"}'), ["network-missing"], False),
    "a release in no network": (
        lambda b: b.put(K.released(("old", 1)), RELEASE), ["network-missing"], True),
    "a network out of its fabric": (
        lambda b: b.put(FABRIC, msgspec.json.encode(FabricRecord(name="default"))),
        ["fabric-member-missing"] * 2, True),
    "a fabric that nobody made": (
        lambda b: b.drop(FABRIC), ["fabric-member-missing"] * 2, True),
    "a network in the fabric that is gone": (
        lambda b: b.drop(K.network("six")), ["fabric-member-stray"], True),
    "networks of two clusters over each other": (
        lambda b: b.put(FABRIC, msgspec.json.encode(rules.joined(
            FabricRecord(name="default"), "green", "other",
            rules.declare(NewNetwork(name="other", vlan=9, ipv4="10.0.0.0/25"), "u")))),
        ["fabric-overlap", "fabric-member-missing"], False),
    "a pool in no network": (
        lambda b: b.edit(K.pool("shop"), network="old", parent=None), ["pool-network"], False),
    "a pool beyond its network": (
        lambda b: b.edit(K.pool("main"), ranges=[["1", "a"], ["ff", "100"]]),
        ["pool-outside"], False),
    "two pools over each other": (
        lambda b: b.edit(K.pool("main"), ranges=[["1", "a"], ["16", "16"]]),
        ["pool-overlap"], False),
    "a nested pool that leaves its parent": (
        lambda b: b.edit(K.pool("shop"), ranges=[["1c", "20"]]), ["pool-nesting"], False),
    "a nested pool without its parent": (
        lambda b: b.edit(K.pool("shop"), parent="gone"), ["pool-nesting"], False),
    "a nested pool for strangers": (
        lambda b: b.edit(K.pool("shop"), namespaces=["team-b"]), ["pool-namespaces"], False),
    "a namespace that chooses two pools": (
        lambda b: b.put(K.namespace("team-a"), b'{"netspace":"tenant","application":"shop"}'),
        ["unreadable"], False),
    "a namespace's key with a part too many": (
        lambda b: b.put(K.namespace("team-a/x"), b"{}"), ["malformed-key"], False),
    "a namespace that is no JSON": (
        lambda b: b.put(K.namespace("team-a"), b"{"), ["unreadable"], False),
    "a fenced node that is no JSON": (
        lambda b: b.put(K.fenced("node-1"), b"[]"), ["unreadable"], False),
    "two default pools": (
        lambda b: b.edit(K.pool("shop"), kind="default", parent=None, ranges=[["40", "41"]]),
        ["default-pools"], False),
    "a holder of the gateway's address": (
        lambda b: b.put(slot(254), b'{"t":"x"}'), ["slot-outside"], False),
    "a holder beyond the subnet": (
        lambda b: b.put(slot(300), b'{"t":"x"}'), ["slot-outside"], False),
    "a holder in another pool than it says": (
        lambda b: b.edit(slot(1), o="tenant"), ["slot-pool"], False),
    "a holder in no pool": (
        lambda b: b.edit(K.pool("main"), ranges=[["2", "a"]]), ["slot-pool"], False),
    "a holder without a claim": (lambda b: b.edit(slot(1), l=""), ["holder-form"], False),
    "a holder on no node": (lambda b: b.edit(slot(1), n="Not a node"), ["holder-form"], False),
    "a reservation with a claim": (
        lambda b: b.edit(slot(4), l="a" * 32), ["holder-form"], False),
    "a holder under a dead claim": (
        lambda b: b.put(K.buried(0, (ask("c1").claim, "c1", "eth0")), b""),
        ["claim-buried"], False),
    "an attachment with two addresses": (
        lambda b: b.put(slot(7), b.world.stored[slot(1)].value), ["attachment-twice"], False),
    "a holder whose attachment is lost": (
        lambda b: b.drop(attachment("c1")), ["attachment-missing"], True),
    "an attachment that names another slot": (
        lambda b: b.put(attachment("c1"), b"red/9"), ["attachment-missing"], True),
    "an attachment that is unreadable": (
        lambda b: b.put(attachment("c1"), b"red"), ["attachment-missing"], True),
    "an attachment that holds nothing": (
        lambda b: b.put(attachment("c9"), b"red/9"), ["attachment-dangling"], True),
    "a slot that is held and released": (
        lambda b: b.put(K.released(("red", 1)), RELEASE), ["held-and-released"], True),
    "a release of tomorrow": (
        lambda b: b.edit(K.released(("red", 3)), a=10**9), ["release-clock"], True),
    "a release before all time": (
        lambda b: b.edit(K.released(("red", 3)), a=-5), ["release-clock"], True),
    "an address that a node's pod has and another holds": (
        lambda b: b.put(K.absences("node-9"), DISPUTE), ["address-disputed"], False),
    "a claim released tomorrow": (
        lambda b: b.put(K.buried(10**9, ("e" * 32, "c9", "eth0")), b""), ["buried-clock"], True),
}  # fmt: skip


@pytest.mark.parametrize("what", BREAKS)
def test_what_is_broken_is_named_and_what_can_be_mended_is(what: str) -> None:
    breaks, codes, mended = BREAKS[what]
    broken = Broken()
    breaks(broken)
    found = broken.flaws()
    assert sorted(flaw.code for flaw in found) == sorted(codes)
    for flaw in found:
        finding = flaw.finding()
        assert finding.safe == (flaw.change is not None)
        assert finding.what and finding.why and finding.mend and finding.keys
    assert all(flaw.change for flaw in found) == mended
    for _ in range(3):
        changes = [flaw.change for flaw in broken.flaws() if flaw.change is not None]
        for change in changes:
            # As the server does: one after the other, and some are overtaken.
            broken.world.commit(change)
    left = [flaw.code for flaw in broken.flaws()]
    assert left == [flaw.code for flaw in found if flaw.change is None]


def test_every_rule_is_broken_once() -> None:
    assert {code for _, codes, _ in BREAKS.values() for code in codes} == set(MEANINGS)


def test_a_mend_that_was_overtaken_changes_nothing() -> None:
    broken = Broken()
    broken.drop(attachment("c1"))
    (flaw,) = broken.flaws()
    assert flaw.change is not None
    broken.edit(slot(1), n="node-2")
    before = dict(broken.world.stored)
    assert broken.world.commit(flaw.change) == [None]
    assert broken.world.stored == before


def test_a_release_stays_while_its_network_may_only_be_lost() -> None:
    broken = Broken()
    broken.drop(K.network("red"))
    broken.drop(FABRIC)
    found = broken.flaws()
    assert {flaw.code for flaw in found} == {
        "network-missing", "pool-network", "fabric-member-missing"
    }  # fmt: skip
    assert not any(flaw.change for flaw in found if flaw.code == "network-missing")


class Healthy(Allocation):
    """Whatever nodes and admins do, the audit finds nothing."""

    @invariant()
    def nothing_is_wrong(self) -> None:
        if self.world.state.networks:
            value = msgspec.json.encode(fabric_of(self.world))
            fabrics = {"default": KeyValue(FABRIC, value, 1, 1)}
            assert inspected(self.world, fabrics, self.world.now) == []


Healthy.TestCase.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestHealthy = Healthy.TestCase
