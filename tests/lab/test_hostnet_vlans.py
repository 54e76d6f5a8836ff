"""VLAN interfaces over a bond, what is on the wire, and traffic when a card is lost."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA
from scapy.layers.l2 import ARP, Dot1Q

from hostnet import (
    InvalidMtu,
    Net,
    Netns,
    NotThatVlan,
    VlanIdTaken,
    bond_state,
    ensure_bond,
    ensure_vlan,
    get_link,
    run_in,
    set_down,
)
from tests.bonded import BOND, Place, wait_for_active
from tests.wires import Tap, arrives, udp


@pytest.fixture
def place() -> Iterator[Place]:
    with ExitStack() as opened:
        yield Place(opened)


def test_a_vlan_is_made_once_and_comes_up_with_its_parent(place: Place) -> None:
    place.ensure()
    run_in(place.node, lambda net: set_down(net, get_link(net, "bond0")))
    vlan = run_in(place.node, lambda net: ensure_vlan(net, "bond0", 910))
    assert (vlan.name, vlan.kind, vlan.vlan_id, vlan.up) == ("bond0.910", "vlan", 910, True)
    assert vlan.parent == place.links()["bond0"].index
    assert place.links()["bond0"].up
    steps: list[str] = []
    again = run_in(place.node, lambda net: ensure_vlan(net, "bond0", 910), steps.append)
    assert (again.index, steps) == (vlan.index, [])


def test_many_may_make_the_same_vlan_at_once(place: Place) -> None:
    place.ensure()
    together = threading.Barrier(8, timeout=30)
    made: list[int] = []

    def one() -> None:
        def job(net: Net) -> int:
            together.wait()
            return ensure_vlan(net, "bond0", 910).index

        made.append(run_in(place.node, job))

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1


def test_another_vlan_under_the_name_is_refused(place: Place) -> None:
    def job(net: Net) -> None:
        ensure_bond(net, BOND)
        ensure_vlan(net, "bond0", 910, name="storage")
        with pytest.raises(NotThatVlan, match="storage exists and is VLAN 910"):
            ensure_vlan(net, "bond0", 920, name="storage")
        with pytest.raises(VlanIdTaken, match="it has this VLAN already, as storage"):
            ensure_vlan(net, "bond0", 910)

    run_in(place.node, job)


def test_a_vlan_of_another_parent_under_the_name_is_refused(place: Place) -> None:
    def job(net: Net) -> None:
        ensure_vlan(net, "card0", 910, name="tenant")
        with pytest.raises(NotThatVlan, match="tenant exists and is VLAN 910 on the link"):
            ensure_vlan(net, "card1", 910, name="tenant")

    run_in(place.node, job)


def test_a_vlan_carries_what_its_parent_carries_or_less(place: Place) -> None:
    def job(net: Net) -> None:
        ensure_bond(net, replace(BOND, mtu=1400))
        assert ensure_vlan(net, "bond0", 910).mtu == 1400
        assert ensure_vlan(net, "bond0", 910, mtu=1300).mtu == 1300
        assert ensure_vlan(net, "bond0", 910).mtu == 1300
        with pytest.raises(InvalidMtu, match="above 1400"):
            ensure_vlan(net, "bond0", 920, mtu=1500)

    run_in(place.node, job)


def test_a_pods_announcements_leave_the_node_with_its_vlans_tag(place: Place) -> None:
    place.ensure()

    def complete(seen: list[object]) -> bool:
        return _tags(seen, ARP) == {910} and _tags(seen, ICMPv6ND_NA) == {910}

    with Tap(place.switch, "a0") as one, Tap(place.switch, "a1") as other:
        place.pod(place.node, 910, "10.9.1.5/24", "fd00:9::5/64")
        state = run_in(place.node, lambda net: bond_state(net, "bond0"))
        tap = one if state.active == "card0" else other
        frames = tap.frames(3, complete)
    assert complete(frames)


def test_no_frame_of_one_vlan_is_seen_in_another(place: Place) -> None:
    for node in (place.node, place.other):
        run_in(node, lambda net: ensure_bond(net, BOND))
    sender = place.pod(place.node, 910, "10.9.1.5/24", "fd00:9::5/64")
    mac = run_in(sender, lambda net: get_link(net, "eth0")).mac
    same = place.pod(place.other, 910, "10.9.1.6/24", "fd00:9::6/64")
    beside = place.pod(place.node, 920, "10.9.1.7/24", "fd00:9::7/64")
    beyond = place.pod(place.other, 920, "10.9.1.8/24", "fd00:9::8/64")
    with (
        Tap(same, "eth0") as heard,
        Tap(beside, "eth0") as near,
        Tap(beyond, "eth0") as far,
        udp(sender, "10.9.1.5") as source,
    ):
        source.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for target in ("10.9.1.255", "10.9.1.6", "10.9.1.7", "10.9.1.8"):
            source.sendto(b"to whom it may concern", (target, 9))

        def from_sender(seen: list[Any]) -> list[Any]:
            return [frame for frame in seen if frame.src == mac]

        assert from_sender(heard.frames(3, lambda seen: bool(from_sender(seen))))
        for tap in (near, far):
            assert not from_sender(tap.frames(1, lambda seen: bool(from_sender(seen))))


def _tags(frames: list[object], kind: object) -> set[int | None]:
    return {
        f[Dot1Q].vlan if Dot1Q in f else None  # type: ignore[operator, index]
        for f in frames
        if kind in f  # type: ignore[operator]
    }


def test_traffic_goes_on_when_the_bond_loses_a_card(place: Place) -> None:
    wanted = replace(BOND, miimon=20)
    for node in (place.node, place.other):
        run_in(node, lambda net: ensure_bond(net, wanted))
    near = place.pod(place.node, 910, "10.9.1.5/24", "fd00:9::5/64")
    far = place.pod(place.other, 910, "10.9.1.6/24", "fd00:9::6/64")
    apart = place.pod(place.other, 920, "10.9.1.7/24", "fd00:9::7/64")
    with ExitStack() as opened:

        def at(pod: Netns, address: str) -> socket.socket:
            return opened.enter_context(udp(pod, address))

        four, six = at(near, "10.9.1.5"), at(near, "fd00:9::5")
        far_four, far_six = at(far, "10.9.1.6"), at(far, "fd00:9::6")
        assert arrives(four, far_four)
        assert arrives(six, far_six)
        assert not arrives(four, at(apart, "10.9.1.7"), tries=3)
        active = run_in(place.node, lambda net: bond_state(net, "bond0")).active
        port, rest = ("a0", "card1") if active == "card0" else ("a1", "card0")
        run_in(place.switch, lambda net: set_down(net, get_link(net, port)))
        wait_for_active(place, rest)
        assert arrives(four, far_four)
        assert arrives(six, far_six)
