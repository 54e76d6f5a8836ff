"""What a node has and the state does not know: taken back, or in dispute, and never given twice."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam_server.adoption import adopt, shown, unknown
from ipam_server.allocator import Choice, Wait
from ipam_server.records import AbsencesRecord, Disputed
from netspace.messages import NewNetwork, NewPool, Pod, Selection
from netspace.problems import Problem
from netspace.upkeep import Holding, LiveAttachment
from tests.unit.cluster_world import World, ask, summary

CLAIM = "c1a1" * 8


@pytest.fixture
def world() -> World:
    return made()


def made() -> World:
    """Network `red` with a pool of 8; slot 1 is p1's, 2 was p2's, 3 is reserved."""
    world = World()
    world.add_network(
        NewNetwork(name="red", ipv4="10.0.0.0/24", ipv6="fd00::/64", gateway4="10.0.0.254")
    )
    world.add_pool(NewPool(name="main", kind="default", network="red", size="8", cooldown=0))
    for number in (1, 2):
        world.allocate(ask(f"c{number}", f"p{number}"))
    world.release(("red", 2))
    world.reserve(("red", 3), "printer")
    return world


def live(
    slot: int,
    ipv4: str | None = "",
    ipv6: str | None = "",
    *,
    container: str = "late",
    network: str = "red",
    claim: str = CLAIM,
) -> LiveAttachment:
    """A report of one attachment; addresses that are not given are the slot's."""
    return LiveAttachment(
        container=container,
        ifname="eth0",
        generation=7,
        holding=Holding(
            claim=claim,
            pod=Pod(namespace="shop", name="web-0", uid="u1"),
            pool="main",
            network=network,
            slot=str(slot),
            ipv4=f"10.0.0.{slot}" if ipv4 == "" else ipv4,
            ipv6=f"fd00::{slot:x}" if ipv6 == "" else ipv6,
        ),
    )


def take_back(world: World, attachment: LiveAttachment) -> Choice:
    choice = adopt(world.state, "node-1", attachment)
    assert isinstance(choice, Choice)
    world.do(world.giving(choice))
    return choice


@pytest.mark.parametrize("slot", [2, 4], ids=["released", "never used"])
def test_a_free_slot_is_its_attachments_again(world: World, slot: int) -> None:
    take_back(world, live(slot))
    held = world.state.held(("red", slot))
    assert held is not None
    holder = held.holder
    assert (holder.attachment, holder.claim, holder.node) == (("late", "eth0"), CLAIM, "node-1")
    assert (holder.identity, holder.uid) == (("shop", "web-0", "eth0"), "u1")
    assert list(unknown(world.state, [live(slot)])) == []
    assert world.state.released(("red", slot)) is None
    reloaded = world.reloaded()
    assert summary(reloaded) == summary(world.state)


def test_one_family_is_taken_back_as_that_family(world: World) -> None:
    assert take_back(world, live(4, ipv4=None)).holder.families == ("ipv6",)


def test_a_slot_that_is_being_given_is_waited_for(world: World) -> None:
    world.state.take(("red", 4))
    assert adopt(world.state, "node-1", live(4)) == Wait(("red", 4))


def test_what_is_known_or_was_released_a_moment_ago_is_no_question(world: World) -> None:
    known = live(1, container="c1")
    buried = live(4, claim="b" * 32)
    world.put(world.keys.buried(0, ("b" * 32, buried.container, buried.ifname)), b"")
    nothing = LiveAttachment(container="c7", ifname="eth0", generation=3)
    assert list(unknown(world.state, [known, buried, nothing])) == []


@pytest.mark.parametrize(
    "attachment",
    [
        live(1),
        live(3),
        live(5, container="c1"),
        live(5, network="blue"),
        live(5, ipv4="10.0.0.6", ipv6="fd00::6"),
        live(5, ipv6="fd00::6"),
        live(5, ipv4=None, ipv6=None),
        live(0),
        live(254),
        live(99_999, ipv4="10.1.134.159"),
    ],
    ids=[
        "held", "reserved", "an attachment that has another", "a network that is not there",
        "other addresses", "another slot's family", "no address", "the network's own",
        "the gateway's", "outside",
    ],
)  # fmt: skip
def test_what_cannot_be_the_nodes_is_in_dispute(world: World, attachment: LiveAttachment) -> None:
    disputed = adopt(world.state, "node-1", attachment)
    assert isinstance(disputed, Disputed)
    where, why = shown(world.state, disputed)
    assert where and why


ADDRESSES = st.none() | st.sampled_from(["10.0.0.1", "10.0.0.4", "fd00::4", "10.0.0.9", "x"])


@given(
    st.integers(0, 300), ADDRESSES, ADDRESSES, st.sampled_from(["c1", "c9"]), st.booleans()
)  # fmt: skip
def test_whatever_is_reported_only_a_free_slot_with_its_own_addresses_is_taken_back(
    slot: int, ipv4: str | None, ipv6: str | None, container: str, mine: bool
) -> None:
    world = made()
    attachment = live(slot, container=container) if mine else live(slot, ipv4, ipv6)
    choice = adopt(world.state, "node-1", attachment)
    free = world.state.held(("red", slot)) is None and 1 <= slot <= 253
    if isinstance(choice, Choice):
        assert free and attachment.container not in ("c1",)
        assert attachment.holding is not None
        assert attachment.holding.ipv4 in (None, f"10.0.0.{slot}")
        assert attachment.holding.ipv6 in (None, f"fd00::{slot:x}")
        (landed,) = world.commit(world.begin(world.giving(choice)))
        assert landed is not None
    else:
        assert not (mine and free and container != "c1")


def test_a_slot_in_dispute_is_given_to_nobody_until_the_dispute_ends(world: World) -> None:
    disputed = [Disputed("red", "2", "late", "eth0", "shop", "web-0")]
    record = AbsencesRecord(at=0, seen=1, disputed=disputed)
    key = world.keys.absences("node-1")
    world.put(key, msgspec.json.encode(record))
    assert summary(world.reloaded()) == summary(world.state)
    given = [world.allocate(ask(f"d{n}", f"d{n}"))[0] for n in range(5)]
    assert given == [4, 5, 6, 7, 8]
    for request in (
        ask("e1", "e1"),
        ask("e2", "p2"),
        ask("e3", "e3", selection=Selection(ip=("10.0.0.2",))),
    ):
        with pytest.raises(Problem):
            world.allocate(request)
    world.put(key, msgspec.json.encode(AbsencesRecord(at=0, seen=1)))
    assert summary(world.reloaded()) == summary(world.state)
    assert world.allocate(ask("e2", "p2"))[0] == 2
