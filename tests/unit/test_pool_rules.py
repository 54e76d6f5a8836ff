"""How pools are carved, grown, shrunk and deleted, and every refusal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from ipam_server import pools
from netspace.messages import (
    ChangeNetwork,
    ChangePool,
    NewNetwork,
    NewPool,
    ResizePool,
    Selection,
)
from netspace.problems import Problem
from netspace.ranges import Ranges
from tests.unit.cluster_world import World, ask


@pytest.fixture
def world() -> World:
    """Network `red`, 10.0.0.1 to 10.0.0.254; network `big`, an IPv6 /64."""
    world = World()
    world.add_network(NewNetwork(name="red", ipv4="10.0.0.0/24", ipv6="fd00::/64"))
    world.add_network(NewNetwork(name="big", vlan=920, ipv6="fd01::/64"))
    return world


def new(name: str, kind: Any = "netspace", network: str = "red", **fields: Any) -> NewPool:
    return NewPool(name=name, kind=kind, network=network, **fields)


def carve(world: World, name: str, kind: Any = "netspace", **fields: Any) -> Ranges:
    """A pool's own indices after it was made."""
    world.add_pool(new(name, kind, **fields))
    return world.pool(name).own


def resized(*ranges: str, size: str | None = None) -> ResizePool:
    return ResizePool(ranges=list(ranges), size=size)


@contextlib.contextmanager
def refused(code: str, match: str) -> Iterator[None]:
    """That a problem of this code is raised."""
    with pytest.raises(Problem, match=match) as caught:
        yield
    assert caught.value.code == code


# Carving


def test_by_size_a_pool_gets_the_lowest_free_block(world: World) -> None:
    assert carve(world, "a", size="10") == Ranges([(1, 10)])
    assert carve(world, "b", size="5") == Ranges([(11, 15)])
    world.delete_pool("a")
    assert carve(world, "c", size="12") == Ranges([(16, 27)])
    assert carve(world, "d", size="10") == Ranges([(1, 10)])


def test_by_size_a_pool_takes_several_blocks_where_no_one_block_does(world: World) -> None:
    carve(world, "a", ranges=["10.0.0.3-10.0.0.250"])
    assert carve(world, "b", size="5") == Ranges([(1, 2), (251, 253)])


def test_by_ranges_a_pool_gets_exactly_those_named_in_either_family(world: World) -> None:
    assert carve(world, "a", ranges=["10.0.0.20", "fd00::30-fd00::3f"]) == Ranges(
        [(20, 20), (48, 63)]
    )


def test_a_pool_of_half_of_a_64_costs_nothing(world: World) -> None:
    assert carve(world, "a", network="big", size=str(1 << 63)).size == 1 << 63
    assert world.pool("a").never.first() == 1


@pytest.mark.parametrize(
    ("fields", "code", "match"),
    [
        ({"name": "taken", "size": "1"}, "exists", "pool taken exists already"),
        ({"network": "blue", "size": "1"}, "not-found", "no network blue"),
        ({}, "invalid", "either a size or ranges"),
        ({"size": "1", "ranges": ["10.0.0.9"]}, "invalid", "either a size or ranges"),
        ({"size": "0"}, "invalid", "it is 0"),
        ({"size": "245"}, "no-space", "has 244 free addresses, not 245"),
        ({"ranges": ["10.0.1.9"]}, "invalid", "is not in"),
        ({"ranges": ["10.0.0.10-10.0.0.11"]}, "overlap", "10.0.0.10 is not free in the total pool"),
        ({"ranges": ["10.0.0.255"]}, "overlap", "is not free"),
        ({"ranges": ["10.0.0.0/24"]}, "overlap", "is not free"),
        ({"kind": "default", "namespaces": ["a"], "size": "1"}, "invalid", "every namespace"),
        ({"parent": "taken", "size": "1"}, "invalid", "not from a pool"),
        ({"kind": "default", "parent": "taken", "size": "1"}, "invalid", "not from a pool"),
        ({"kind": "application", "parent": "none", "size": "1"}, "not-found", "no pool none"),
        (
            {"kind": "application", "parent": "taken", "network": "big", "size": "1"},
            "invalid",
            "lies in network red",
        ),
        (
            {"kind": "application", "parent": "taken", "size": "11"},
            "no-space",
            "pool taken has 10 free addresses, not 11",
        ),
        (
            {"kind": "application", "parent": "taken", "ranges": ["10.0.0.11"]},
            "overlap",
            "10.0.0.11 is not free in pool taken",
        ),
        (
            {"kind": "application", "parent": "taken", "namespaces": ["x", "ns"], "size": "1"},
            "invalid",
            "lists x, which pool taken does not",
        ),
        (
            {"kind": "application", "parent": "taken", "namespaces": ["*"], "size": "1"},
            "invalid",
            "lists \\*, which pool taken does not",
        ),
    ],
)
def test_a_pool_that_cannot_be_carved_is_refused(
    world: World, fields: dict[str, Any], code: str, match: str
) -> None:
    carve(world, "taken", ranges=["10.0.0.1-10.0.0.10"], namespaces=["ns"])
    with refused(code, match):
        carve(world, **{"name": "p", **fields})


@pytest.mark.parametrize("kind", ["default", "application"])
def test_nothing_is_carved_from_a_default_or_an_application_pool(world: World, kind: str) -> None:
    carve(world, "outer", kind, size="8")
    with refused("invalid", f"outer is of kind {kind}"):
        carve(world, "inner", "application", parent="outer", size="1")


def test_a_cluster_has_one_default_pool(world: World) -> None:
    carve(world, "first", "default", size="8")
    with refused("exists", "has its default pool: first"):
        carve(world, "second", "default", network="big", size="8")
    world.delete_pool("first")
    carve(world, "second", "default", network="big", size="8")


def test_a_nested_pool_is_subtracted_from_its_parent(world: World) -> None:
    carve(world, "outer", size="10")
    assert carve(world, "inner", "application", parent="outer", size="4") == Ranges([(1, 4)])
    assert world.pool("outer").own == Ranges([(5, 10)])
    assert (world.pool("outer").size, world.pool("outer").never.count) == (6, 6)
    with refused("overlap", "10.0.0.4 is not free in pool outer"):
        carve(world, "other", "application", parent="outer", ranges=["10.0.0.4-10.0.0.5"])


def test_a_nested_pool_gets_no_address_that_a_pod_of_the_parent_holds(world: World) -> None:
    carve(world, "outer", "netspace", size="4", namespaces=["*"])
    for name in ("c1", "c2"):
        world.allocate(ask(name, name, selection=Selection(netspace="outer")))
    world.release(("red", 1))
    with refused("overlap", "10.0.0.2 is not free in pool outer"):
        carve(world, "inner", "application", parent="outer", ranges=["10.0.0.2"])
    with refused("no-space", "has 2 free"):
        carve(world, "inner", "application", parent="outer", size="3")
    # What was released rests by its pool's rules, and belongs to it as long.
    with refused("overlap", "10.0.0.1 is not free in pool outer"):
        carve(world, "inner", "application", parent="outer", ranges=["10.0.0.1"])
    world.now += 30_000
    assert carve(world, "inner", "application", parent="outer", size="3") == Ranges(
        [(1, 1), (3, 4)]
    )
    assert (world.pool("outer").size, world.pool("outer").used) == (1, 1)


def test_by_size_no_reserved_address_is_carved_and_by_name_it_can_be(world: World) -> None:
    world.reserve(("red", 2), "printer")
    assert carve(world, "a", size="3") == Ranges([(3, 5)])
    assert carve(world, "b", ranges=["10.0.0.1-10.0.0.2"]) == Ranges([(1, 2)])
    assert world.pool("b").used == 1


# Who may name it


def test_a_nested_pools_namespaces_are_its_parents_unless_it_names_some(world: World) -> None:
    carve(world, "outer", size="10", namespaces=["b", "a", "a"])
    carve(world, "same", "application", parent="outer", size="1")
    carve(world, "some", "application", parent="outer", size="1", namespaces=["b"])
    assert world.pool("outer").record.namespaces == ["a", "b"]
    assert world.pool("same").record.namespaces == ["a", "b"]
    assert world.pool("some").record.namespaces == ["b"]


def test_a_parent_keeps_the_namespaces_its_nested_pools_list(world: World) -> None:
    carve(world, "outer", size="10", namespaces=["a", "b"])
    carve(world, "inner", "application", parent="outer", size="1", namespaces=["b"])
    outer, inner = world.pool("outer"), world.pool("inner")
    with refused("invalid", "inner lists b, which pool outer does not"):
        pools.change(world.state, outer, ChangePool(namespaces=["a"]))
    with refused("invalid", "which pool outer does not"):
        pools.change(world.state, inner, ChangePool(namespaces=["c"]))
    assert pools.change(world.state, outer, ChangePool(namespaces=["*"])).namespaces == ["*"]
    assert pools.change(world.state, inner, ChangePool(namespaces=["a"])).namespaces == ["a"]


def test_a_default_pool_lists_nobody(world: World) -> None:
    carve(world, "p", "default", size="1")
    with refused("invalid", "every namespace"):
        pools.change(world.state, world.pool("p"), ChangePool(namespaces=["a"]))


def test_a_change_names_something_and_what_was_seen(world: World) -> None:
    carve(world, "p", size="1")
    with refused("invalid", "names nothing"):
        pools.change(world.state, world.pool("p"), ChangePool())
    seen = world.pool("p").revision
    world.rewrite("p", pools.change(world.state, world.pool("p"), ChangePool(cooldown=5)))
    with refused("changed", "was changed since"):
        pools.change(world.state, world.pool("p"), ChangePool(cooldown=6, revision=seen))


def test_another_cooldown_counts_for_what_was_released_before(world: World) -> None:
    carve(world, "p", "default", size="1", cooldown=60)
    world.allocate(ask("c1", "p1"))
    world.release(("red", 1))
    with refused("pool-cooling", "the next for 60.0 s more"):
        world.allocate(ask("c2", "p2"))
    world.rewrite("p", pools.change(world.state, world.pool("p"), ChangePool(cooldown=5)))
    world.now = 5000
    assert world.allocate(ask("c2", "p2"))[0] == 1


# Growing


def test_a_pool_grows_beside_what_it_has_if_that_is_free(world: World) -> None:
    carve(world, "a", ranges=["10.0.0.100-10.0.0.109"])
    world.grow("a", resized(size="5"))
    assert world.pool("a").own == Ranges([(100, 114)])
    carve(world, "b", ranges=["10.0.0.116"])
    world.grow("a", resized(size="5"))
    assert world.pool("a").own == Ranges([(1, 5), (100, 114)])


def test_a_nested_pool_grows_only_from_its_parent(world: World) -> None:
    carve(world, "outer", ranges=["10.0.0.10-10.0.0.19"])
    carve(world, "inner", "application", parent="outer", size="4")
    world.grow("inner", resized(size="2"))
    assert world.pool("inner").own == Ranges([(10, 15)])
    assert world.pool("outer").own == Ranges([(16, 19)])
    with refused("overlap", "10.0.0.20 is not free in pool outer"):
        world.grow("inner", resized("10.0.0.19-10.0.0.20"))
    with refused("no-space", "pool outer has 4 free addresses"):
        world.grow("inner", resized(size="5"))


def test_a_pool_never_grows_into_another(world: World) -> None:
    carve(world, "a", size="4")
    carve(world, "b", ranges=["10.0.0.10-10.0.0.19"])
    carve(world, "inner", "application", parent="b", size="4")
    for index in (10, 14):
        with refused("overlap", f"10.0.0.{index} is not free in the total pool"):
            world.grow("a", resized(f"10.0.0.{index}"))
    with refused("no-space", "has 240 free"):
        world.grow("a", resized(size="241"))


def test_growing_leaves_what_is_used_and_released_as_it_was(world: World) -> None:
    carve(world, "p", "default", size="2")
    for name in ("c1", "c2"):
        world.allocate(ask(name, name))
    world.release(("red", 2))
    world.grow("p", resized(size="2"))
    pool = world.pool("p")
    assert (pool.size, pool.used, len(pool.cooling), pool.never.count) == (4, 1, 1, 2)
    assert world.allocate(ask("c3", "c3"))[0] == 3


# Shrinking


def test_by_size_the_highest_idle_addresses_go(world: World) -> None:
    carve(world, "p", "default", size="6")
    for name in ("c1", "c2"):
        world.allocate(ask(name, name))
    world.reserve(("red", 6))
    world.shrink("p", resized(size="2"))
    assert world.pool("p").own == Ranges([(1, 3), (6, 6)])
    with refused("in-use", "can give up 1 of its 4 addresses now, not 2"):
        world.shrink("p", resized(size="2"))


def test_a_pool_never_shrinks_into_use_or_cooldown(world: World) -> None:
    carve(world, "p", "default", size="4", cooldown=30)
    for name in ("c1", "c2"):
        world.allocate(ask(name, name))
    world.release(("red", 2))
    for index in (1, 2):
        with refused("in-use", "10.0.0.2 of pool p is in use, in cool-down"):
            world.shrink("p", resized(f"10.0.0.{index}-10.0.0.4"))
    with refused("in-use", "can give up 2 of its 4"):
        world.shrink("p", resized(size="3"))
    world.now = 29_999
    with refused("in-use", "in cool-down"):
        world.shrink("p", resized("10.0.0.2"))
    world.now = 30_000
    world.shrink("p", resized("10.0.0.2"))
    assert world.pool("p").own == Ranges([(1, 1), (3, 4)])
    # Who had the address before finds it in no pool now.
    assert world.allocate(ask("c3", "c2"))[0] == 3


def test_a_slot_in_flight_is_not_shrunk_away(world: World) -> None:
    carve(world, "p", "default", size="4")
    world.state.take(("red", 4))
    with refused("in-use", "10.0.0.4"):
        world.shrink("p", resized("10.0.0.4"))


def test_a_pool_is_not_shrunk_under_its_nested_pools(world: World) -> None:
    carve(world, "outer", size="8")
    carve(world, "inner", "application", parent="outer", ranges=["10.0.0.7-10.0.0.8"])
    with refused("in-use", "10.0.0.7 of pool outer is in use"):
        world.shrink("outer", resized("10.0.0.6-10.0.0.7"))
    world.shrink("outer", resized(size="2"))
    assert world.pool("outer").own == Ranges([(1, 4)])
    assert world.pool("inner").own == Ranges([(7, 8)])


def test_an_excluded_address_of_a_nested_pool_keeps_its_parent_too(world: World) -> None:
    carve(world, "outer", size="8")
    carve(world, "inner", "application", parent="outer", ranges=["10.0.0.7-10.0.0.8"])
    world.change_network("red", ChangeNetwork(exclude=["10.0.0.7"]))
    with refused("in-use", "10.0.0.7 of pool outer"):
        world.shrink("outer", resized("10.0.0.7"))
    with refused("overlap", "10.0.0.7 is not free"):
        carve(world, "other", ranges=["10.0.0.7"])


@pytest.mark.parametrize(
    ("asked", "code", "match"),
    [
        (resized(), "invalid", "either a size or ranges"),
        (resized("10.0.0.1", size="1"), "invalid", "either a size or ranges"),
        (resized(size="0"), "invalid", "it is 0"),
        (resized("10.0.0.4-10.0.0.5"), "invalid", "10.0.0.5 is not in pool p"),
        (resized("10.0.0.4/"), "invalid", "not a subnet"),
        (resized("10.0.0.1-10.0.0.4"), "invalid", "nothing would be left"),
        (resized(size="4"), "invalid", "nothing would be left"),
        (resized(size="5"), "in-use", "can give up 4"),
    ],
)
def test_a_shrinking_that_cannot_be_is_refused(
    world: World, asked: ResizePool, code: str, match: str
) -> None:
    carve(world, "p", size="4")
    with refused(code, match):
        world.shrink("p", asked)


# Deleting


def test_deleting_is_refused_while_addresses_are_in_use_or_pools_are_nested(world: World) -> None:
    carve(world, "p", "default", size="4")
    world.allocate(ask("c1", "p1"))
    with refused("in-use", "1 addresses of pool p are in use"):
        world.delete_pool("p")
    world.release(("red", 1))
    world.delete_pool("p")
    carve(world, "outer", size="4")
    carve(world, "inner", "application", parent="outer", size="1")
    with refused("in-use", "has nested pools: inner"):
        world.delete_pool("outer")
    world.delete_pool("inner")
    assert world.pool("outer").own == Ranges([(1, 4)])
    world.delete_pool("outer")


def test_a_released_address_keeps_its_cooldown_in_the_next_pool(world: World) -> None:
    carve(world, "p", "default", size="1")
    world.allocate(ask("c1", "p1"))
    world.release(("red", 1))
    world.delete_pool("p")
    carve(world, "q", "default", size="1", cooldown=10)
    with refused("pool-cooling", "10.0 s more"):
        world.allocate(ask("c2", "p2"))
    world.now = 10_000
    assert world.allocate(ask("c2", "p2"))[0] == 1


def test_an_address_in_dispute_is_free_in_no_pool_that_gets_it_by_hand(world: World) -> None:
    carve(world, "a", ranges=["10.0.0.1-10.0.0.4"])
    world.state.disputed["red", 6] = 1
    world.grow("a", resized("10.0.0.5-10.0.0.8"))
    assert [index in world.pool("a").never for index in (5, 6, 7)] == [True, False, True]
    with refused("overlap", "10.0.0.6 is not free"):
        carve(world, "b", "application", parent="a", ranges=["10.0.0.6"])
