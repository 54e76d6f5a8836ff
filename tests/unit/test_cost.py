"""What allocating and releasing cost: the same in a pool of any size, counted in lines of code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from netspace.messages import NewNetwork, NewPool
from tests.unit.cluster_world import World, ask

PODS = 50


def lines(work: Callable[[], object]) -> int:
    """How many lines of Python the work takes: a measure that no other process disturbs."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def pods_come_and_go(ipv4: str | None = None, ipv6: str | None = None) -> int:
    """The lines for 50 pods that come, go and come again, in a pool of the whole network."""
    world = World()
    world.add_network(NewNetwork(name="red", ipv4=ipv4, ipv6=ipv6))
    size = world.network("red").total.size
    world.add_pool(NewPool(name="main", kind="default", network="red", size=str(size), cooldown=0))

    def come_and_go() -> None:
        for round in range(2):
            for number in range(PODS):
                world.allocate(ask(f"c{round}-{number}", f"p{number}"))
            for number in range(PODS):
                world.release(world.state.attachments[f"c{round}-{number}", "eth0"])

    come_and_go()
    return lines(come_and_go)


SMALL = pods_come_and_go(ipv4="10.0.0.0/20")


@pytest.mark.parametrize(
    "subnets",
    [
        {"ipv4": "10.0.0.0/10"},
        {"ipv4": "10.0.0.0/8"},
        {"ipv6": "fd00::/64"},
        {"ipv4": "10.0.0.0/10", "ipv6": "fd00::/64"},
    ],
    ids=["a /10", "a /8", "a /64", "a /10 and a /64"],
)
def test_a_large_pool_costs_no_more_than_a_20(subnets: dict[str, str]) -> None:
    assert pods_come_and_go(**subnets) <= 1.05 * SMALL
