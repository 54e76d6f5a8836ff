"""The order of choice, one rule at a time, and what each refusal tells."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ipam_server.allocator import Choice, choose
from netspace.messages import AllocateRequest, NewNetwork, NewPool, Selection
from netspace.problems import Problem
from tests.unit.cluster_world import World, ask


@pytest.fixture
def world() -> World:
    """Pool `main` of 10.0.0.1 to 10.0.0.4, whose addresses rest for 30 s."""
    world = World()
    world.add_network(NewNetwork(name="red", ipv4="10.0.0.0/24", ipv6="fd00::/64"))
    world.add_pool(NewPool(name="main", kind="default", network="red", size="4", cooldown=30))
    return world


def chosen(world: World, request: AllocateRequest) -> tuple[int, str]:
    choice = choose(world.state, request, world.now)
    assert isinstance(choice, Choice)
    return choice.slot[1], choice.how


def problem(world: World, request: AllocateRequest) -> Problem:
    with pytest.raises(Problem) as caught:
        choose(world.state, request, world.now)
    return caught.value


def fill(world: World, *releases: int) -> None:
    """Pods p1 to p4 hold the pool, then these of them go, all in one revision."""
    for index in range(1, 5):
        world.allocate(ask(f"c{index}", f"p{index}"))
    changes = [world.begin(world.freeing(("red", index))) for index in releases]
    world.commit(*changes)


def test_a_new_pod_gets_never_used_addresses_in_order_then_the_longest_released(
    world: World,
) -> None:
    world.allocate(ask("c1", "p1"))
    world.release(("red", 1))
    world.now = 30_000
    assert [world.allocate(ask(f"d{n}", f"q{n}"))[0] for n in range(4)] == [2, 3, 4, 1]


def test_inside_of_one_revision_the_number_of_the_release_decides(world: World) -> None:
    fill(world, 3, 1, 4, 2)
    world.now = 30_000
    assert chosen(world, ask("d", "q")) == (3, "longest-released")
    world.state = world.reloaded()
    assert chosen(world, ask("d", "q")) == (3, "longest-released")


def test_an_address_rests_to_the_millisecond(world: World) -> None:
    fill(world, 2)
    world.now = 29_999
    told = problem(world, ask("d", "q"))
    assert (told.code, told.retry_after) == ("pool-cooling", 0.001)
    assert "4 addresses, 3 used, and 1 in cool-down" in str(told)
    world.now = 30_000
    assert chosen(world, ask("d", "q")) == (2, "longest-released")


def test_a_named_pod_gets_its_own_address_back_though_it_rests(world: World) -> None:
    fill(world, 2, 3)
    assert chosen(world, ask("d", "p3", node="node-2")) == (3, "returned")
    assert problem(world, ask("d", "p3", namespace="other")).code == "pool-cooling"
    assert problem(world, ask("d")).code == "pool-cooling"


def test_a_restarted_pod_whose_address_another_has_gets_the_last_released(world: World) -> None:
    fill(world, 1)
    world.now = 30_000
    # p1's address goes to another pod: that it was p1's before is remembered as long.
    assert world.allocate(ask("d", "q"))[0] == 1
    world.commit(*(world.begin(world.freeing(("red", index))) for index in (2, 3, 4)))
    world.now = 60_000
    assert chosen(world, ask("e", "p1")) == (4, "last-released")
    assert chosen(world, ask("e", "new")) == (2, "longest-released")
    world.state = world.reloaded()
    assert chosen(world, ask("e", "p1")) == (4, "last-released")
    world.release(("red", 1))
    world.now = 90_000
    assert chosen(world, ask("e", "p1")) == (2, "longest-released")


def test_an_address_for_which_another_machine_answers_is_the_last_that_anybody_gets(
    world: World,
) -> None:
    fill(world, 1)
    world.now = 30_000
    assert world.allocate(ask("d", "q"))[0] == 1
    slots = [("red", index) for index in (2, 3, 4)]
    world.commit(*(world.begin(world.freeing(slot, conflict=slot[1] == 4)) for slot in slots))
    world.now = 60_000
    assert chosen(world, ask("e", "p1")) == (2, "longest-released")
    world.allocate(ask("e", "p1"))
    world.allocate(ask("f", "new"))
    assert chosen(world, ask("g", "p1"))[0] == 4


def test_an_old_sandboxs_address_is_taken_over_only_once_its_interface_is_gone(
    world: World,
) -> None:
    _, generation = world.allocate(ask("old", "p1", uid="u1"))
    again = ask("new", "p1", uid="u1")
    assert chosen(world, again) == (2, "never")
    told = ask("new", "p1", uid="u1", removed=("old",))
    assert chosen(world, told) == (1, "taken-over")
    # Another node cannot know, and another pod has no right.
    assert chosen(world, ask("new", "p1", node="node-2", removed=("old",)))[0] == 2
    assert chosen(world, ask("new", "p2", removed=("old",)))[0] == 2
    assert world.allocate(told)[1] > generation


def test_an_exhausted_pool_says_its_size_and_use(world: World) -> None:
    fill(world)
    told = problem(world, ask("d", "q"))
    assert told.code == "pool-exhausted"
    assert "pool main has 4 addresses, 4 used" in str(told)
    world.release(("red", 4))
    world.now = 30_000
    world.state.take(("red", 4))
    assert problem(world, ask("d", "q")).code == "busy"


@pytest.mark.parametrize(
    ("wanted", "code", "match"),
    [
        ({"ip": ("10.0.0.1",)}, "address-taken", "held by default/p1 on node node-1"),
        ({"ip": ("fd00::1",)}, "address-taken", "held by"),
        ({"ip": ("10.0.0.2",)}, "address-cooling", "rests for 30.0 s more"),
        ({"ip": ("10.0.0.9",)}, "address-unusable", "lies in no pool"),
        ({"ip": ("10.9.0.9",)}, "address-unusable", "lies in no pool"),
        ({"ip": ("10.0.0.3", "fd00::4")}, "address-unusable", "lies in no pool"),
        ({"ip": ("10.0.0.5",)}, "pool-forbidden", "pool tenant does not list namespace default"),
        ({"ip": ("10.0.0.6",), "netspace": "open"}, "address-unusable", "does not lie in pool"),
        (
            {"ip": ("10.0.0.7", "fd00::8"), "netspace": "open"},
            "address-unusable",
            "not of one slot",
        ),
        ({"ip": ("10.0.0.8",)}, "address-taken", r"reserved \(printer\)"),
        ({"netspace": "none"}, "pool-unknown", "no netspace pool none"),
        ({"application": "open"}, "pool-unknown", "use the annotation for that kind"),
        ({"netspace": "tenant"}, "pool-forbidden", "does not list namespace default"),
        ({"families": ("ipv4",), "netspace": "six"}, "family-missing", "has no ipv4"),
    ],
)
def test_every_refusal_says_why(
    world: World, wanted: dict[str, Any], code: str, match: str
) -> None:
    world.add_network(NewNetwork(name="blue", vlan=911, ipv6="fd02::/64"))
    for new in (
        NewPool(name="tenant", kind="netspace", network="red", ranges=["10.0.0.5-10.0.0.6"]),
        NewPool(
            name="open",
            kind="netspace",
            network="red",
            ranges=["10.0.0.7-10.0.0.8"],
            namespaces=["*"],
        ),
        NewPool(name="six", kind="netspace", network="blue", size="1", namespaces=["*"]),
    ):
        world.add_pool(new)
    for index in (1, 2):
        world.allocate(ask(f"c{index}", f"p{index}"))
    world.release(("red", 2))
    world.reserve(("red", 8), "printer")
    told = problem(world, ask("d", "q", selection=Selection(**wanted)))
    assert told.code == code
    assert re.search(match, str(told)), told


def test_an_address_in_several_networks_needs_its_pools_name(world: World) -> None:
    world.add_network(NewNetwork(name="twin", fabric="other", ipv4="10.0.0.0/24"))
    world.add_pool(NewPool(name="far", kind="netspace", network="twin", size="4", namespaces=["*"]))
    told = problem(world, ask("d", selection=Selection(ip=("10.0.0.3",))))
    assert told.code == "address-unusable" and "several pools" in str(told)
    named = Selection(ip=("10.0.0.3",), netspace="far")
    assert chosen(world, ask("d", selection=named)) == (3, "fixed")


def test_a_pods_own_wish_comes_before_the_conflists(world: World) -> None:
    for name in ("a", "b"):
        world.add_pool(
            NewPool(name=name, kind="netspace", network="red", size="2", namespaces=["*"])
        )
    default = Selection(netspace="a", families=("ipv6",))
    assert chosen(world, ask("d", default=default))[0] == 5
    own = Selection(netspace="b")
    choice = choose(world.state, ask("d", selection=own, default=default), 0)
    assert isinstance(choice, Choice)
    assert (choice.slot[1], choice.holder.families) == (7, ("ipv6",))
    # An address alone chooses its pool; the conflist's pool is no more than a default.
    fixed = Selection(ip=("10.0.0.8",))
    assert chosen(world, ask("d", selection=fixed, default=default)) == (8, "fixed")
