"""Pods with two families and with two interfaces: all or nothing, whatever else is asked."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam_server import views
from netspace.messages import AllocateRequest, AttachmentId, NewNetwork, NewPool, Selection
from netspace.problems import Problem
from tests.unit.cluster_world import World, ask

BOTH: tuple[str, ...] = ("ipv4", "ipv6")


def made(size: int) -> World:
    """Two networks of both families, each with a pool: `red` of so many addresses, `green` of 4."""
    world = World()
    for name, number in (("red", 0), ("green", 1)):
        world.add_network(
            NewNetwork(name=name, ipv4=f"10.{number}.0.0/24", ipv6=f"fd0{number}::/64")
        )
    world.add_pool(NewPool(name="main", kind="default", network="red", size=str(size), cooldown=0))
    world.add_pool(
        NewPool(
            name="second", kind="netspace", network="green", size="4", namespaces=["*"], cooldown=0
        )
    )
    return world


@given(
    size=st.integers(1, 6),
    pods=st.lists(st.sampled_from([("ipv4", "ipv6"), ("ipv4",), ("ipv6",)]), max_size=12),
    order=st.randoms(use_true_random=False),
)
def test_two_dual_stack_pods_never_hold_one_family_each_and_wait_for_the_other(
    size: int, pods: list[tuple[str, ...]], order: object
) -> None:
    world = made(size)
    served = []
    for number, families in enumerate(pods):
        selection = Selection(families=families)  # type: ignore[arg-type]
        try:
            world.allocate(ask(f"c{number}", f"p{number}", selection=selection))
        except Problem as problem:
            assert problem.code == "pool-exhausted"
            assert (f"c{number}", "eth0") not in world.state.attachments
        else:
            served.append((number, families))
    # As many as there are slots, whichever families they asked for: none is kept from another.
    assert len(served) == min(size, len(pods))
    for number, families in served:
        slot = world.state.attachments[f"c{number}", "eth0"]
        held = world.state.held(slot)
        assert held is not None
        told = views.allocation(world.state, slot, held.holder, held.generation, "repeated")
        assert {name for name in BOTH if getattr(told, name) is not None} == set(families)


def interface(name: str, container: str, removed: tuple[str, ...], pool: str) -> AllocateRequest:
    selection = Selection(netspace=pool) if pool else Selection()
    request = ask(container, "web-0", uid="u", removed=removed, selection=selection)
    return msgspec.structs.replace(
        request,
        attachment=AttachmentId(container=container, ifname=name),
        claim=f"{(container + name).encode().hex():0>32}"[-32:],
    )


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_retries_of_a_pod_whose_second_interface_finds_its_pool_empty_drain_no_other_pool(
    deleted: list[bool],
) -> None:
    """Each retry is a sandbox of its own; its DEL came, or came not."""
    world = made(1)
    world.allocate(ask("other", "somebody"))
    removed: tuple[str, ...] = ()
    slots = set()
    for number, comes in enumerate(deleted):
        container = f"c{number}"
        world.allocate(interface("eth0", container, removed, "second"))
        slot = world.state.attachments[container, "eth0"]
        slots.add(slot)
        with pytest.raises(Problem, match="pool main has 1 addresses, 1 used"):
            world.allocate(interface("net1", container, removed, ""))
        assert world.pool("second").used == 1
        removed = (container,)
        if comes:
            world.release(slot)
    assert len(slots) == 1, "every retry has the same address"
