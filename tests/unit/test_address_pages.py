"""Lists of addresses page by page: each page costs what a page costs."""

from __future__ import annotations

from typing import Any

import pytest

from ipam_server import views
from ipam_server.views import AddressFilter, address_page
from netspace.messages import NewNetwork, NewPool, Selection
from tests.unit.cluster_world import World, ask


@pytest.fixture
def world() -> World:
    """Two networks; of `red` the default pool and in it pool `team`, with pods in both."""
    world = World()
    for name, ipv4 in (("red", "10.0.0.0/24"), ("blue", "10.1.0.0/24")):
        world.add_network(NewNetwork(name=name, ipv4=ipv4))
    fields: dict[str, Any] = {"network": "red", "cooldown": 0}
    world.add_pool(NewPool(name="main", kind="default", size="50", **fields))
    world.add_pool(NewPool(name="team", kind="netspace", size="50", namespaces=["*"], **fields))
    for number in range(40):
        team = Selection(netspace="team" if number % 2 else None)
        world.allocate(ask(f"c{number}", f"p{number}", node=f"n{number % 4}", selection=team))
    for index in (1, 3, 5):
        world.release(("red", index))
    world.reserve(("blue", 7))
    return world


def listed(world: World, limit: int, **wanted: Any) -> list[tuple[str, int]]:
    """All pages put together."""
    found: list[tuple[str, int]] = []
    after: str | None = None
    for _ in range(1000):
        page = address_page(world.state, AddressFilter(**wanted), limit, after, world.now)
        assert len(page.items) <= limit
        found += [(item.network, int(item.slot)) for item in page.items]
        after = page.next
        if after is None:
            return found
    raise AssertionError("the pages have no end")


@pytest.mark.parametrize("looked", [1, 3, 1000])
@pytest.mark.parametrize("limit", [1, 7, 100])
@pytest.mark.parametrize(
    "wanted",
    [{}, {"pool": "team"}, {"pool": "none"}, {"node": "n1"}, {"network": "blue"},
     {"state": "free"}, {"pod": "p4", "pool": "main"}],
)  # fmt: skip
def test_pages_have_everything_that_is_wanted_once_and_in_order(
    world: World, monkeypatch: pytest.MonkeyPatch, looked: int, limit: int, wanted: dict[str, Any]
) -> None:
    monkeypatch.setattr(views, "LOOKED", looked)
    everything = [
        (name, index)
        for name, network in sorted(world.state.networks.items())
        if wanted.get("network") in (None, name)
        for index in sorted({*network.held, *network.released})
    ]
    matches = views._filter(world.state, AddressFilter(**wanted), world.now)
    assert listed(world, limit, **wanted) == [slot for slot in everything if matches(slot)]


def test_a_filter_that_matches_nothing_ends_a_page_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "LOOKED", 10)
    page = address_page(world.state, AddressFilter(pod="nobody"), 100, None, world.now)
    assert page.items == [] and page.next is not None


def test_what_comes_and_goes_between_two_pages_shifts_nothing(world: World) -> None:
    first = address_page(world.state, AddressFilter(), 5, None, world.now)
    world.release(("red", 2))
    world.allocate(ask("new", "new"))
    rest = address_page(world.state, AddressFilter(), 100, first.next, world.now)
    slots = [(item.network, int(item.slot)) for item in (*first.items, *rest.items)]
    assert slots == sorted(set(slots))
