"""Elastic pools in one another, at any depth: when one grows, those around it grow with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipam_server import elastic
from ipam_server.allocator import Choice, Wait, choose
from ipam_server.changes import resizing
from ipam_server.records import PoolRecord, stored_ranges
from netspace.messages import Elastic, NewNetwork, Selection
from netspace.problems import Problem
from netspace.ranges import Ranges
from tests.unit.cluster_world import World, ask, summary


@dataclass(frozen=True)
class Nest:
    """A pool and those in it. Without a `maximum` it is not elastic."""

    name: str
    maximum: int | None
    step: int = 2
    low: int = 0
    inner: tuple[Nest, ...] = ()

    @property
    def size(self) -> int:
        """One address of its own, and what the pools in it have."""
        return 1 + sum(each.size for each in self.inner)


def nested(*tops: Nest, ipv4: str = "10.0.0.0/27", **fields: Any) -> World:
    """A network whose pools lie one behind the other, each with one address of its own."""
    world = World()
    world.add_network(NewNetwork(name="red", ipv4=ipv4))

    def add(nest: Nest, parent: str | None, first: int) -> None:
        size = nest.size
        bounds = (
            Elastic(minimum=1, maximum=max(nest.maximum, size), step=nest.step, low=nest.low)
            if nest.maximum
            else None
        )
        record = PoolRecord(
            kind="application",
            network="red",
            parent=parent,
            ranges=stored_ranges(Ranges(((first, first + size - 1),))),
            namespaces=["*"],
            cooldown=0,
            elastic=bounds,
            **fields,
        )
        world.put(world.keys.pool(nest.name), msgspec.json.encode(record))
        at = first + 1
        for each in nest.inner:
            add(each, nest.name, at)
            at += each.size

    at = 1
    for top in tops:
        add(top, None, at)
        at += top.size
    return world


def take(world: World, pool: str, number: int) -> int:
    request = ask(f"c{number}", f"p{number}", selection=Selection(application=pool))
    return world.allocate(request)[0]


def refused(world: World, pool: str) -> str:
    with pytest.raises(Problem) as caught:
        choose(world.state, ask("x", "x", selection=Selection(application=pool)), world.now)
    assert caught.value.code == "pool-exhausted"
    return str(caught.value)


def sizes(world: World) -> dict[str, int]:
    return {name: pool.ranges.size for name, pool in world.state.pools.items()}


def test_a_pool_grows_together_with_all_around_it_in_one_transaction() -> None:
    world = nested(Nest("b", 20, 4, inner=(Nest("c", 9, 2, inner=(Nest("a", 9, 3),)),)))
    for number, pool in enumerate("abc"):
        take(world, pool, number)
    before = world.revision
    index = take(world, "a", 3)
    assert world.revision == before + 1
    # Each as much as its step, and at least what the one in it wants.
    assert sizes(world) == {"a": 4, "c": 5, "b": 7}
    held = world.state.held(("red", index))
    assert held is not None and held.holder.pool == "a"
    _same_after_a_reload(world)


def test_the_level_that_stopped_it_is_named_with_its_size_and_use() -> None:
    world = nested(Nest("b", 4, inner=(Nest("a", 9, 1),)))
    for number, pool in enumerate("baaa"):
        take(world, pool, number)
    assert "pool a has 3 addresses, 3 used" in refused(world, "a")
    told = "pool b has none left to grow from: it has 4 addresses, 1 used, 3 in nested pools"
    assert f"{told}; its maximum is 4" in refused(world, "a")
    fixed = nested(Nest("b", None, inner=(Nest("a", 9),)))
    take(fixed, "a", 0)
    take(fixed, "b", 1)
    told = "pool b has none left to grow from: it has 2 addresses, 1 used, 1 in nested pools"
    assert told in refused(fixed, "a") and "maximum" not in refused(fixed, "a")
    small = nested(Nest("b", 9, inner=(Nest("a", 9),)), ipv4="10.0.0.0/30")
    take(small, "a", 0)
    take(small, "b", 1)
    told = "the total pool has none left to grow from: network red has 2 addresses, 2 in pools"
    assert told in refused(small, "a")


def test_growing_ahead_of_need_takes_the_pool_around_along() -> None:
    world = nested(Nest("b", 9, inner=(Nest("a", 9, 2, low=1),)))
    take(world, "a", 0)
    take(world, "b", 1)
    grown = elastic.ahead(world.state, world.pool("a"), 0)
    assert grown is not None
    world.do(resizing(world.keys, grown))
    assert sizes(world) == {"a": 3, "b": 4}


def test_what_a_pool_takes_from_the_one_around_it_is_nobody_elses_meanwhile() -> None:
    world = nested(Nest("b", None, inner=(Nest("a", None),)))
    b = world.pool("b")
    more = msgspec.structs.replace(b.record, ranges=stored_ranges(Ranges(((1, 9),))))
    world.rewrite("b", more)
    bounds = Elastic(minimum=1, maximum=9, step=4)
    world.rewrite("a", msgspec.structs.replace(world.pool("a").record, elastic=bounds))
    take(world, "a", 0)
    first = choose(world.state, ask("x", "x", selection=Selection(application="a")), 0)
    assert isinstance(first, Choice) and first.grown is not None
    change = world.begin(world.giving(first))
    block = set(first.grown.block)
    assert len(block) == 4
    others = {take(world, "b", number) for number in range(1, 5)}
    assert not others & block
    world.commit(change)
    for index in others:
        assert world.network("red").owner(index) is world.pool("b")


def test_replicas_have_the_pool_around_grow_as_well() -> None:
    world = nested(Nest("b", 9, 1, inner=(Nest("a", None),)))
    pool = world.pool("a")
    record = msgspec.structs.replace(pool.record, replicas=6)
    world.do(resizing(world.keys, elastic.sized(world.state, pool, record, 0)))
    assert sizes(world) == {"a": 6, "b": 6}
    record = msgspec.structs.replace(world.pool("a").record, replicas=12)
    with pytest.raises(Problem, match="needs 6 more addresses for 12 replicas"):
        elastic.sized(world.state, world.pool("a"), record, 0)


def test_space_is_given_back_level_by_level() -> None:
    world = nested(Nest("b", 12, 2, inner=(Nest("a", 9, 2),)))
    given_out = [take(world, "a", number) for number in range(7)]
    top = sizes(world)["b"]
    for index in given_out:
        world.release(("red", index))
    assert _shrink(world, "b") is False
    while _shrink(world, "a"):
        assert sizes(world)["b"] == top
    while _shrink(world, "b"):
        pass
    assert sizes(world) == {"a": 1, "b": 1}


def _shrink(world: World, name: str) -> bool:
    pool = world.pool(name)
    elastic.spare(world.state, pool, world.now)
    count = elastic.spare(world.state, pool, world.now)
    gone = elastic.given_back(pool, count) if count else None
    if gone is not None:
        world.do(resizing(world.keys, gone))
        return True
    return False


def _same_after_a_reload(world: World) -> None:
    anew = world.reloaded()
    for state in (anew, world.state):
        for pool in state.pools.values():
            state.settle(pool, world.now)
    assert summary(anew) == summary(world.state)


NAMES = tuple("abcdefg")


@st.composite
def trees(draw: st.DrawFn) -> tuple[Nest, ...]:
    """Up to seven pools, in any order of their names: transactions come in that order."""
    names = list(draw(st.permutations(NAMES)))[: draw(st.integers(2, 7))]

    def below(depth: int) -> tuple[Nest, ...]:
        found = []
        while names and (depth == 0 or draw(st.booleans())):
            name = names.pop()
            maximum = draw(st.sampled_from([None, 3, 6, 9, 30]))
            step, low = draw(st.integers(1, 4)), draw(st.integers(0, 2))
            found.append(Nest(name, maximum, step, low, below(depth + 1) if depth < 4 else ()))
        return tuple(found)

    return below(0)


STEPS = st.lists(
    st.tuples(st.sampled_from(["take"] * 5 + ["fly", "land", "free", "ahead", "shrink"]),
              st.integers(0, 99)),
    max_size=40,
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(tops=trees(), steps=STEPS)
def test_however_pools_are_nested_no_rule_is_broken(tops: tuple[Nest, ...], steps: Any) -> None:
    world = nested(*tops)
    pools = sorted(world.state.pools)
    flying: list[Any] = []
    for number, (what, which) in enumerate(steps):
        name = pools[which % len(pools)]
        if what in ("take", "fly"):
            request = ask(f"c{number}", "", selection=Selection(application=name))
            try:
                choice = choose(world.state, request, world.now)
            except Problem as problem:
                if not flying:
                    _check_stop(world, name, str(problem))
                continue
            if isinstance(choice, Wait):
                continue
            assert isinstance(choice, Choice)
            flying.append(world.begin(world.giving(choice)))
        held = sorted(world.network("red").held)
        if what in ("take", "land"):
            for change in flying:
                assert world.commit(change) != [None]
            flying = []
        elif what == "free" and held and not flying:
            world.release(("red", held[which % len(held)]))
        elif what == "ahead" and not flying:
            if (grown := elastic.ahead(world.state, world.pool(name), world.now)) is not None:
                world.do(resizing(world.keys, grown))
        elif what == "shrink" and not flying:
            _shrink(world, name)
        _check(world)
        if not flying:
            _same_after_a_reload(world)


def _check(world: World) -> None:
    known = world.state.pools
    total = world.network("red").total
    for name, pool in known.items():
        parent = known.get(pool.record.parent or "")
        assert pool.ranges.issubset(parent.ranges if parent else total), name
        assert pool.record.elastic is None or pool.ranges.size <= pool.record.elastic.maximum
    for one, other in combinations(known.values(), 2):
        assert one.record.parent != other.record.parent or not one.ranges & other.ranges
        assert not one.own & other.own
    for index, held in world.network("red").held.items():
        owner = world.network("red").owner(index)
        assert owner is not None and owner.name == held.holder.pool


def _check_stop(world: World, name: str, told: str) -> None:
    """Nothing that could grow was left out, and who stopped it is named."""
    pool = world.pool(name)
    while True:
        bounds = pool.record.elastic
        assert not set(pool.own) - set(world.network("red").held)
        if bounds is None or pool.ranges.size >= bounds.maximum:
            size = pool.size if pool.name == name else pool.ranges.size
            assert re.search(f"pool {pool.name} has .*{size} addresses, ", told)
            return
        if pool.record.parent is None:
            carved = Ranges(i for p in world.state.pools.values() for i in p.ranges.intervals)
            assert not world.network("red").total - carved
            assert "the total pool has none left" in told
            return
        pool = world.pool(pool.record.parent)
