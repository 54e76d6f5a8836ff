"""Pools that grow when they must and shrink when they may."""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from ipam_server import elastic, pools
from ipam_server.allocator import Choice, Wait, choose
from ipam_server.changes import resizing
from ipam_server.records import Holder, stored_ranges
from ipam_server.state import ClusterState
from netspace.messages import ChangePool, Elastic, NewNetwork, NewPool, ResizePool, Selection
from netspace.problems import Problem
from netspace.ranges import Ranges
from statestore import Event
from tests.unit.cluster_world import World, ask, order, summary

BOUNDS = Elastic(minimum=4, maximum=10, step=4, quiet=60)


def made(bounds: Elastic = BOUNDS, ipv4: str = "10.0.0.0/24", **fields: Any) -> World:
    """Elastic pool `main`, whose addresses rest for 30 s."""
    world = World()
    world.add_network(NewNetwork(name="red", ipv4=ipv4))
    known: dict[str, Any] = {"cooldown": 30, **fields}
    world.add_pool(NewPool(name="main", kind="default", network="red", elastic=bounds, **known))
    return world


def fill(world: World, count: int, **wish: Any) -> list[int]:
    start = world.revision
    return [world.allocate(ask(f"c{start}-{n}", f"p{start}-{n}", **wish))[0] for n in range(count)]


def refused(world: World, **wish: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        choose(world.state, ask("x", "x", **wish), world.now)
    return caught.value


def same_after_a_reload(world: World) -> bool:
    anew = world.reloaded()
    for state in (anew, world.state):
        for pool in state.pools.values():
            state.settle(pool, world.now)
    return summary(anew) == summary(world.state)


def test_a_pool_begins_with_its_minimum_and_grows_inside_the_allocation_that_needs_it() -> None:
    world = made()
    assert world.pool("main").size == 4
    fill(world, 4)
    before = world.revision
    assert fill(world, 1) == [5]
    assert world.revision == before + 1
    assert world.pool("main").size == 8
    assert same_after_a_reload(world)


def test_growing_comes_before_waiting_for_a_cooldown() -> None:
    world = made()
    fill(world, 4)
    world.release(("red", 1))
    assert fill(world, 1) == [5]


def test_at_its_maximum_a_pool_waits_or_says_so() -> None:
    world = made()
    assert fill(world, 10) == list(range(1, 11))
    assert "its maximum is 10" in str(refused(world))
    world.release(("red", 3))
    assert refused(world).code == "pool-cooling"


def test_an_empty_total_pool_is_named() -> None:
    world = made(ipv4="10.0.0.0/29")
    assert fill(world, 6) == [1, 2, 3, 4, 5, 6]
    told = refused(world)
    assert told.code == "pool-exhausted"
    assert "the total pool has none left to grow from" in str(told)


def test_a_second_allocation_waits_for_the_growth_under_way() -> None:
    world = made()
    fill(world, 4)
    first = choose(world.state, ask("a", "a"), 0)
    assert isinstance(first, Choice)
    change = world.begin(world.giving(first))
    assert choose(world.state, ask("b", "b"), 0) == Wait("red")
    world.commit(change)
    second = choose(world.state, ask("b", "b"), 0)
    assert isinstance(second, Choice)
    assert (second.slot, second.grown) == (("red", 6), None)


def test_a_growth_that_did_not_reach_etcd_leaves_nothing() -> None:
    world = made()
    fill(world, 4)
    before = summary(world.state)
    first = choose(world.state, ask("a", "a"), 0)
    assert isinstance(first, Choice)
    world.abandon(world.begin(world.giving(first)))
    assert summary(world.state) == before
    assert choose(world.state, ask("a", "a"), 0) == first


def test_a_late_copy_of_a_growth_falls_out() -> None:
    world = made()
    fill(world, 4)
    choice = choose(world.state, ask("a", "a"), 0)
    assert isinstance(choice, Choice)
    change = world.begin(world.giving(choice))
    world.commit(change)
    world.release(choice.slot)
    before = dict(world.stored)
    assert world.commit(replace(change, resizes=None)) == [None]
    assert world.stored == before


def test_a_nested_pool_grows_from_its_parent_and_never_into_what_is_held() -> None:
    world = World()
    world.add_network(NewNetwork(name="red", ipv4="10.0.0.0/24"))
    world.add_pool(
        NewPool(name="team", kind="netspace", network="red", size="8", namespaces=["*"], cooldown=0)
    )
    world.add_pool(
        NewPool(
            name="db", kind="application", network="red", parent="team",
            elastic=Elastic(minimum=2, maximum=9, step=2),
        )
    )  # fmt: skip
    assert fill(world, 1, selection=Selection(netspace="team")) == [3]
    db = Selection(application="db")
    assert fill(world, 7, selection=db) == [1, 2, 4, 5, 6, 7, 8]
    assert "pool team has none left to grow from" in str(refused(world, selection=db))
    assert world.pool("team").own.intervals == ((3, 3),)
    assert same_after_a_reload(world)


def test_a_pool_takes_nothing_that_would_have_to_rest_in_it() -> None:
    world = made(ipv4="10.0.0.0/29")
    world.add_pool(
        NewPool(name="b", kind="netspace", network="red", size="2", namespaces=["*"], cooldown=0)
    )
    for index in fill(world, 2, selection=Selection(netspace="b")):
        world.release(("red", index))
    world.delete_pool("b")
    fill(world, 4)
    assert "none left to grow from" in str(refused(world))
    world.now = 30_000
    assert sorted(fill(world, 2)) == [5, 6]


def test_below_the_low_watermark_it_grows_ahead_of_need() -> None:
    world = made(Elastic(minimum=4, maximum=10, step=4, low=2))
    fill(world, 2)
    assert elastic.ahead(world.state, world.pool("main"), 0) is None
    fill(world, 1)
    grown = elastic.ahead(world.state, world.pool("main"), 0)
    assert grown is not None
    world.do(resizing(world.keys, grown))
    assert world.pool("main").own.intervals == ((1, 8),)


def test_what_is_given_back_is_never_used_cooling_or_retained() -> None:
    world = made(Elastic(minimum=2, maximum=12, step=4), cooldown=30, retention=600)
    fill(world, 12)
    for index in (1, 2, 3, 4, 5, 6, 7, 8, 10):
        world.release(("red", index))
    pool = world.pool("main")
    assert elastic.spare(world.state, pool, world.now) == 0
    world.now = 600_000
    world.state.settle(pool, world.now)
    elastic.spare(world.state, pool, world.now)
    assert elastic.spare(world.state, pool, world.now) == 4
    gone = elastic.shrinkage(pool, 4)
    assert gone is not None and gone.block.intervals == ((5, 8),)
    change = world.begin(resizing(world.keys, gone))
    taken = {choose(world.state, ask("x", "x"), world.now).slot}
    assert not taken & set(gone.slots)
    world.commit(change)
    assert world.pool("main").own.intervals == ((1, 4), (9, 12))
    assert same_after_a_reload(world)


def test_a_pool_is_never_smaller_than_its_minimum() -> None:
    world = made(Elastic(minimum=4, maximum=10, step=4), size="6")
    pool = world.pool("main")
    assert elastic.spare(world.state, pool, 0) == 2
    gone = elastic.shrinkage(pool, 2)
    assert gone is not None
    world.do(resizing(world.keys, gone))
    assert elastic.spare(world.state, world.pool("main"), 0) == 0


def test_a_burst_between_two_looks_counts_as_need() -> None:
    world = made(Elastic(minimum=4, maximum=12, step=4), size="8", cooldown=0)
    for index in fill(world, 6):
        world.release(("red", index))
    pool = world.pool("main")
    assert elastic.spare(world.state, pool, 0) == 0
    assert elastic.spare(world.state, pool, 0) == 4


@pytest.mark.parametrize("bounds", [Elastic(minimum=5, maximum=4), Elastic(minimum=1, maximum=3)])
def test_bounds_that_cannot_be_kept_are_refused(bounds: Elastic) -> None:
    world = made()
    with pytest.raises(Problem, match="maximum"):
        pools.change(world.state, world.pool("main"), ChangePool(elastic=bounds))


def test_growing_costs_the_same_however_many_addresses_are_held() -> None:
    def seconds(held: int) -> float:
        world = made(Elastic(minimum=4, maximum=2**20, step=64), ipv4="10.0.0.0/8")
        record = msgspec.structs.replace(
            world.pool("main").record, ranges=stored_ranges(Ranges(((1, max(held, 4)),)))
        )
        world.rewrite("main", record)
        world.revision += 1
        load(world.state, held, world.revision)
        # What else lies on the heap is no cost of growing.
        gc.collect()
        gc.disable()
        began = time.process_time()
        for _ in range(20):
            grown = elastic.growth(world.state, world.pool("main"), 0)
            assert isinstance(grown, elastic.Resize)
            world.revision += 1
            value = msgspec.json.encode(grown.record)
            key = world.keys.pool("main")
            event = Event("put", key, value, world.revision, world.revision)
            world.state.apply(world.revision, [event])
        took = time.process_time() - began
        gc.enable()
        assert world.pool("main").size == max(held, 4) + 20 * 64
        return took

    seconds(1000)
    assert seconds(200_000) < 3 * seconds(1000) + 0.05


def load(state: ClusterState, held: int, revision: int) -> None:
    """So many addresses held, from the first on."""
    events = (
        Event(
            "put",
            state.keys.slot(("red", index)),
            msgspec.json.encode(Holder(container=f"{index:x}", ifname="eth0")),
            revision,
            revision,
        )
        for index in range(1, held + 1)
    )
    state.apply(revision, events)


def test_what_is_in_no_pool_is_in_no_queue() -> None:
    world = made(Elastic(minimum=2, maximum=12, step=4), cooldown=0)
    for index in fill(world, 6):
        world.release(("red", index))
    pool = world.pool("main")
    elastic.spare(world.state, pool, 0)
    gone = elastic.shrinkage(pool, elastic.spare(world.state, pool, 0))
    assert gone is not None
    world.do(resizing(world.keys, gone))
    queued = [*order(pool.ready), *order(pool.cooling), *pool.never.ranges()]
    assert sorted(queued) == list(pool.own) and len(queued) == pool.size


DB = Selection(application="db")


def for_an_application(**fields: Any) -> World:
    """Application pool `db` of one address, which keeps its pods' addresses for an hour."""
    world = World()
    world.add_network(NewNetwork(name="red", ipv4="10.0.0.0/28"))
    new = NewPool(
        name="db", kind="application", network="red", size="1", namespaces=["*"], retention=3600,
        **fields,
    )  # fmt: skip
    world.add_pool(new)
    return world


def scale(world: World, **asked: Any) -> None:
    """What a change of the pool's replicas does at once."""
    pool = world.pool("db")
    record = pools.change(world.state, pool, ChangePool(**asked))
    world.do(resizing(world.keys, elastic.sized(world.state, pool, record, world.now)))


def give_back(world: World) -> None:
    """What the leader does until nothing more is left over."""
    pool = world.pool("db")
    elastic.spare(world.state, pool, world.now)
    while count := elastic.spare(world.state, pool, world.now):
        gone = elastic.given_back(pool, count)
        if gone is None:
            return
        world.do(resizing(world.keys, gone))


def test_an_applications_pool_has_an_address_for_each_replica_and_a_surplus() -> None:
    world = for_an_application()
    scale(world, replicas=5, surplus=2)
    assert world.pool("db").size == 7
    scale(world, replicas=3)
    give_back(world)
    assert world.pool("db").size == 5
    scale(world, replicas=None)
    give_back(world)
    assert (world.pool("db").size, world.pool("db").record.surplus) == (5, 0)
    assert same_after_a_reload(world)


def test_scaled_down_and_up_again_each_replica_has_its_address_back() -> None:
    world = for_an_application()
    scale(world, replicas=5)
    before = [world.allocate(ask(f"a{n}", f"db-{n}", selection=DB))[0] for n in range(5)]
    for index in before[2:]:
        world.release(("red", index))
    scale(world, replicas=2)
    give_back(world)
    assert world.pool("db").size == 5
    scale(world, replicas=2, surplus=4)
    scale(world, surplus=0)
    give_back(world)
    assert world.pool("db").size == 5
    scale(world, replicas=5)
    for n in (4, 2, 3):
        index, _ = world.allocate(ask(f"b{n}", f"db-{n}", selection=DB))
        assert index == before[n]


def test_what_is_retained_no_longer_goes_back() -> None:
    world = for_an_application()
    scale(world, replicas=5)
    for n in range(5):
        world.allocate(ask(f"a{n}", f"db-{n}", selection=DB))
    for index in (1, 3, 5):
        world.release(("red", index))
    scale(world, replicas=2)
    world.now = 3_600_000
    give_back(world)
    assert list(world.pool("db").own) == [2, 4]
    assert same_after_a_reload(world)


def test_replicas_that_there_is_no_room_for_are_refused() -> None:
    world = for_an_application()
    before = dict(world.stored)
    with pytest.raises(Problem, match="needs 19 more addresses for 20 replicas"):
        scale(world, replicas=20)
    with pytest.raises(Problem, match="more than the maximum of pool db, 4"):
        scale(for_an_application(elastic=Elastic(minimum=1, maximum=4)), replicas=5)
    assert world.stored == before


def test_only_an_applications_pool_has_replicas_and_then_no_size_of_its_own() -> None:
    world = made()
    with pytest.raises(Problem, match="for no application"):
        pools.change(world.state, world.pool("main"), ChangePool(replicas=3))
    world = for_an_application()
    scale(world, replicas=3)
    with pytest.raises(Problem, match="follows the 3 replicas"):
        pools.grow(world.state, world.pool("db"), ResizePool(size="1"), 0)
    with pytest.raises(Problem, match="follows the 3 replicas"):
        pools.shrink(world.state, world.pool("db"), ResizePool(size="1"), 0)
