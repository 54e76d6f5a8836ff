"""Kubernetes as a witness: what two words on a fenced node prove, against a plain account of them.

The rules alone, over a state in memory; `tests/etcd/test_fenced_nodes.py` has the server.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ipam_server.keys import SlotId
from ipam_server.reclaim import NodeReports, absences, held_by
from ipam_server.witnesses import KubernetesWord, candidates, fenced, verdict
from netspace.kubernetes import Fencing, GoneHolder
from netspace.messages import NewNetwork, NewPool, Selection
from netspace.upkeep import AttachmentsReport
from tests.unit.cluster_world import World, ask

GRACE = 300_000
PODS = ["p0", "p1", "p2"]
SHOP = Selection(application="shop")


def world() -> World:
    made = World()
    made.add_network(NewNetwork(name="red", vlan=910, ipv4="10.0.0.0/28"))
    made.add_pool(
        NewPool(name="main", kind="default", network="red", size="12", cooldown=0, retention=3600)
    )
    return made


def slot_of(world: World, pod: str) -> SlotId | None:
    found = [
        slot
        for slot in world.state.names.get(("default", pod, "eth0"), ())
        if world.state.held(slot) is not None
    ]
    return found[0] if found else None


def gone(world: World, *slots: SlotId) -> list[GoneHolder]:
    said = []
    for slot in slots:
        held = world.state.held(slot)
        assert held is not None
        said.append(GoneHolder(network=slot[0], slot=str(slot[1]), generation=held.generation))
    return said


def say(world: World, asked: Fencing, node: str = "node-1") -> None:
    record = fenced(world.state, node, asked, world.now)
    world.put(world.keys.fenced(node), msgspec.json.encode(record))


def proved(world: World) -> list[SlotId]:
    return [slot for slot, _, found in candidates(world.state, GRACE) if found.proved]


def test_one_word_proves_nothing_and_two_a_grace_apart_do() -> None:
    blue = world()
    index, _ = blue.allocate(ask("c0", "p0"))
    slot = ("red", index)
    say(blue, Fencing(seen=blue.revision, why="deleted", gone=gone(blue, slot)))
    ((_, _, found),) = candidates(blue.state, GRACE)
    assert (found.proved, found.witness) == (False, "kubernetes")
    assert "at least 300.0 s after" in found.missing and "Node object is deleted" in found.missing
    blue.now += GRACE
    assert proved(blue) == []
    say(blue, Fencing(seen=blue.revision, why="out-of-service", gone=gone(blue, slot)))
    assert proved(blue) == [slot]


def test_a_second_word_from_before_the_first_one_was_stored_proves_nothing() -> None:
    blue = world()
    index, _ = blue.allocate(ask("c0", "p0"))
    seen, said = blue.revision, gone(blue, ("red", index))
    say(blue, Fencing(seen=seen, why="deleted", gone=said))
    blue.now += GRACE
    say(blue, Fencing(seen=seen, why="deleted", gone=said))
    assert proved(blue) == []


@pytest.mark.parametrize("what", ["another node's", "a reservation", "newer", "another generation"])
def test_a_word_counts_for_pods_of_the_node_that_the_look_could_see(what: str) -> None:
    blue = world()
    index, _ = blue.allocate(
        ask("c0", "p0", node="node-2" if what == "another node's" else "node-1")
    )
    slot = ("red", index)
    if what == "a reservation":
        slot = ("red", 9)
        blue.reserve(slot)
    said = gone(blue, slot)
    if what == "another generation":
        said = [msgspec.structs.replace(each, generation=each.generation - 1) for each in said]
    seen = blue.revision - 1 if what == "newer" else blue.revision
    say(blue, Fencing(seen=seen, why="deleted", gone=said))
    assert candidates(blue.state, GRACE) == []


def test_without_a_fenced_node_kubernetes_frees_nothing_and_says_so() -> None:
    blue = world()
    index, _ = blue.allocate(ask("c0", "p0"))
    held = blue.state.held(("red", index))
    assert held is not None
    word = KubernetesWord(blue.state, GRACE).verdict(("red", index), held)
    assert not word.proved and "is not fenced" in word.missing
    # Nor does it hide what the node's own reports prove.
    for _ in range(2):
        report = AttachmentsReport(seen=blue.revision, since=0, attachments=[])
        held_now = dict(held_by(blue.state, "node-1"))
        record = absences(blue.state, held_now, "node-1", report, blue.now)
        blue.put(blue.keys.absences("node-1"), msgspec.json.encode(record))
        blue.now += GRACE
    assert verdict(blue.state, GRACE, ("red", index), held).witness == "node"
    assert NodeReports(blue.state, GRACE).verdict(("red", index), held).proved


@dataclass
class Said:
    """What was said of one generation: since when without a break, and when last."""

    since: int
    last: int


@dataclass
class Account:
    """`stored`: the revision of the last word on the node; None where it is not fenced."""

    stored: int | None = None
    said: dict[tuple[SlotId, int], Said] = field(default_factory=dict)


class FencedNode(RuleBasedStateMachine):
    """Pods come and go, the controller says what it likes, the node is heard of or not: an address
    is reclaimed exactly where two words, made one after the other, a grace apart and with none to
    the contrary between them, named this generation, and the node was silent meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.world = world()
        self.account = Account()
        self.number = 0
        self.looks: list[tuple[int, list[GoneHolder]]] = []

    @rule(pod=st.sampled_from(PODS))
    def a_pod_comes(self, pod: str) -> None:
        if slot_of(self.world, pod) is None:
            self.number += 1
            self.world.allocate(ask(f"c{self.number}", pod))
            self.heard()

    @rule(pod=st.sampled_from(PODS))
    def a_pod_goes(self, pod: str) -> None:
        slot = slot_of(self.world, pod)
        if slot is not None:
            self.world.release(slot)

    @rule(seconds=st.sampled_from([1, 100, 299, 300, 1000]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += seconds * 1000

    @rule(pods=st.sets(st.sampled_from(PODS)))
    def the_controller_looks(self, pods: set[str]) -> None:
        slots = [slot for pod in sorted(pods) if (slot := slot_of(self.world, pod)) is not None]
        self.looks.append((self.world.revision, gone(self.world, *slots)))

    @precondition(lambda self: self.looks)
    @rule(data=st.data(), why=st.sampled_from(["deleted", "out-of-service"]))
    def the_controller_says(self, data: st.DataObject, why: str) -> None:
        seen, said = data.draw(st.sampled_from(self.looks[-2:]))
        self.account_for(seen, said)
        say(
            self.world,
            msgspec.convert(
                {"seen": seen, "why": why, "gone": said}, Fencing, from_attributes=True
            ),
        )
        self.account.stored = self.world.revision

    @rule()
    def heard(self) -> None:
        """The node reports, or asks for an address."""
        if self.account.stored is not None:
            self.world.delete(self.world.keys.fenced("node-1"))
            self.account = Account()

    def account_for(self, seen: int, said: list[GoneHolder]) -> None:
        late = self.account.stored is not None and seen < self.account.stored
        named = {((each.network, int(each.slot)), each.generation) for each in said}
        there = {
            (("red", index), held.generation)
            for index, held in self.world.network("red").held.items()
        }
        kept = {}
        for key in named & there:
            before = self.account.said.get(key)
            if before is not None:
                kept[key] = before if late else Said(before.since, self.world.now)
            elif not late:
                kept[key] = Said(self.world.now, self.world.now)
        self.account.said = kept

    @invariant()
    def what_is_proved_is_what_was_said_twice(self) -> None:
        held = self.world.network("red").held
        expected = sorted(
            slot
            for (slot, generation), said in self.account.said.items()
            if slot[1] in held
            and held[slot[1]].generation == generation
            and said.last - said.since >= GRACE
        )
        assert proved(self.world) == expected

    @invariant()
    def a_reload_says_the_same(self) -> None:
        assert self.world.reloaded().fenced == self.world.state.fenced


TestFencedNode = FencedNode.TestCase
