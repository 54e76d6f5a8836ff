"""Addresses that wait for their pods, and rest before others get them; who held them before."""

from __future__ import annotations

import pytest

from ipam_server import views
from ipam_server.allocator import choose
from ipam_server.history import forgetting
from netspace.messages import NewNetwork, NewPool, ResizePool, Selection
from netspace.problems import Problem
from statestore import Page
from tests.unit.cluster_world import World, ask

DB = Selection(application="db")
HOUR = 3_600_000


@pytest.fixture
def world() -> World:
    """Application pool `db` of 10.0.0.1 to 10.0.0.4: cool-down 30 s, retention an hour."""
    world = World()
    world.add_network(NewNetwork(name="red", ipv4="10.0.0.0/24"))
    world.add_pool(
        NewPool(
            name="db", kind="application", network="red", size="4", namespaces=["*"],
            cooldown=30, retention=3600,
        )
    )  # fmt: skip
    return world


def start(world: World, number: int, pod: str | None = None) -> int:
    """The index that pod `db-NUMBER` gets, or another pod."""
    name = f"db-{number}" if pod is None else pod
    return world.allocate(ask(f"c{number}-{world.revision}", name, selection=DB))[0]


def refused(world: World, pod: str) -> Problem:
    with pytest.raises(Problem) as caught:
        choose(world.state, ask("x", pod, selection=DB), world.now)
    return caught.value


def test_a_stateful_set_scaled_down_and_up_again_has_its_addresses_back(world: World) -> None:
    before = {number: start(world, number) for number in range(4)}
    for number in (3, 2, 1):
        world.release(("red", before[number]))
    world.now += HOUR - 1
    assert refused(world, "other").code == "pool-exhausted"
    assert {number: start(world, number) for number in (2, 1, 3)} == {
        number: before[number] for number in (1, 2, 3)
    }


def test_retention_is_over_when_the_pool_says_so(world: World) -> None:
    indices = [start(world, number) for number in range(4)]
    world.release(("red", indices[0]))
    world.now += HOUR
    assert start(world, 9, "other") == indices[0]


def test_an_address_is_not_given_again_while_old_connections_may_reach_it(world: World) -> None:
    for number in range(4):
        start(world, number, "")
    world.release(("red", 2))
    world.now += 29_999
    told = refused(world, "other")
    assert (told.code, told.retry_after) == ("pool-cooling", 0.001)
    world.now += 1
    assert start(world, 9, "other") == 2


def test_a_full_pool_says_how_many_addresses_are_retained(world: World) -> None:
    for number in range(4):
        start(world, number)
    world.release(("red", 4))
    assert "3 used and 1 retained for the pods that had them" in str(refused(world, "other"))
    pool = views.pool(world.state, world.pool("db"), world.now)
    assert (pool.used, pool.cooling, pool.retained, pool.free) == (3, 0, 1, "0")
    entry = views.address(world.state, ("red", 4), world.now)
    assert (entry.state, entry.retention_left, entry.cooldown_left) == ("retained", 3600, None)
    wanted = Selection(application="db", ip=("10.0.0.4",))
    with pytest.raises(Problem, match=r"10\.0\.0\.4 is kept for the pod that had it for 3600\.0 s"):
        choose(world.state, ask("x", "other", selection=wanted), world.now)


def test_shrinking_passes_over_what_is_retained(world: World) -> None:
    start(world, 0)
    world.release(("red", 1))
    world.shrink("db", ResizePool(size="3"))
    assert world.pool("db").ranges.intervals == ((1, 1),)
    with pytest.raises(Problem, match="retained"):
        world.shrink("db", ResizePool(ranges=["10.0.0.1"]))


def test_an_empty_family_or_pool_keeps_nothing_of_another_back() -> None:
    """Retries of a pod that cannot be served hold no address, of no pool and no family."""
    world = World()
    world.add_network(NewNetwork(name="red", ipv4="10.0.0.0/24", ipv6="fd00::/64"))
    world.add_network(NewNetwork(name="six", ipv6="fd01::/64"))
    world.add_pool(NewPool(name="main", kind="default", network="red", size="1"))
    world.add_pool(NewPool(name="six", kind="netspace", network="six", size="4", namespaces=["*"]))
    world.allocate(ask("a", "web-0"))
    before = dict(world.stored)
    for number in range(20):
        for selection in (Selection(), Selection(netspace="six", families=("ipv4", "ipv6"))):
            with pytest.raises(Problem):
                choose(world.state, ask(f"b{number}", "web-1", selection=selection), 0)
    assert world.stored == before
    assert world.pool("six").never.count == 4


def test_what_is_forgotten_of_the_history_is_what_is_too_old(world: World) -> None:
    for pod, seconds in (("a", 0), ("b", 100), ("c", 200)):
        world.now = seconds * 1000
        index = start(world, 0, pod) if pod == "a" else _again(world, pod)
        world.release(("red", index))
        world.now += HOUR
    items = tuple(kv for key, kv in world.stored.items() if key.startswith(world.keys.histories))
    assert [name for name, _ in world.past(("red", 1))] == [
        ("default", "a", "eth0"),
        ("default", "b", "eth0"),
    ]
    page = Page(world.revision, items)
    (change,) = forgetting(page, now=150_000, age=100_000)
    world.commit(change)
    assert [name for name, _ in world.past(("red", 1))] == [("default", "b", "eth0")]


def _again(world: World, pod: str) -> int:
    """The first address, for another pod."""
    wanted = Selection(application="db", ip=("10.0.0.1",))
    world.now += 2 * HOUR
    index, _ = world.allocate(ask(f"c-{pod}", pod, selection=wanted))
    world.now -= 2 * HOUR
    return index
