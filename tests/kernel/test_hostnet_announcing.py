"""What the neighbours of a new pod see on the wire."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr
from scapy.layers.l2 import ARP

from hostnet import (
    Link,
    Macvlan,
    Net,
    Netns,
    add_address,
    add_macvlan,
    announce,
    get_link,
    prepare_pod_link,
    run_between,
    run_in,
    set_down,
    set_up,
)
from tests.wires import Tap, between, namespaces, wire

FOUR, SIX = ip_interface("10.9.1.5/24"), ip_interface("fd00:9::5/64")
MAC = "02:00:00:00:00:05"


@pytest.fixture
def place() -> Iterator[tuple[Netns, Netns, Netns]]:
    """A host with the link up0 to a neighbour's port0, and an empty pod."""
    with namespaces(3) as (host, pod, neighbour):
        wire(host, "up0", neighbour, "port0")
        yield host, pod, neighbour


def setting_up(pod: Netns, *, announced: bool) -> Callable[[Net, Net], Link]:
    def job(home: Net, there: Net) -> Link:
        link = add_macvlan(home, there, pod, Macvlan("eth0", "up0", mac=MAC))
        prepare_pod_link(there, link, ipv6=True)
        for interface in (FOUR, SIX):
            add_address(there, link, interface)
        set_up(there, link)
        prepare_pod_link(there, link, ipv6=True, up=True)
        if announced:
            assert announce(there, link, [FOUR.ip, SIX.ip])
        return link

    return job


def arps(frames: list[Any]) -> set[int]:
    """The operations of the ARP announcements of the pod's address."""
    return {
        f[ARP].op
        for f in frames
        if ARP in f and (f[ARP].psrc, f[ARP].pdst, f[ARP].hwsrc) == (str(FOUR.ip),) * 2 + (MAC,)
    }


def advertised(frames: list[Any]) -> bool:
    return any(
        f[ICMPv6NDOptDstLLAddr].lladdr == MAC
        for f in frames
        if ICMPv6ND_NA in f and ip_address(f[ICMPv6ND_NA].tgt) == SIX.ip and f[ICMPv6ND_NA].O
    )


def test_a_new_pods_neighbours_hear_of_both_its_addresses(
    place: tuple[Netns, Netns, Netns],
) -> None:
    host, pod, neighbour = place
    with Tap(neighbour, "port0") as tap:
        between(host, pod, setting_up(pod, announced=True))
        frames = tap.frames(2, lambda seen: arps(seen) == {1, 2} and advertised(seen))
    assert arps(frames) == {1, 2}
    assert advertised(frames)


def test_the_sysctls_alone_announce_it_when_the_link_comes_up_later(
    place: tuple[Netns, Netns, Netns],
) -> None:
    host, pod, neighbour = place
    between(host, pod, setting_up(pod, announced=True))
    with Tap(neighbour, "port0") as tap:
        run_in(pod, lambda net: set_down(net, get_link(net, "eth0")))
        run_in(pod, lambda net: set_up(net, get_link(net, "eth0")))
        frames = tap.frames(2, lambda seen: 1 in arps(seen) and advertised(seen))
    assert 1 in arps(frames)
    assert advertised(frames)


def test_a_neighbour_learns_that_a_reused_address_has_moved(
    place: tuple[Netns, Netns, Netns],
) -> None:
    host, pod, neighbour = place

    def knows(net: Net, address: IPv4Address | IPv6Address) -> str | None:
        for entry in net.look("list", "neighbours", "neigh", "dump"):
            if entry.get_attr("NDA_DST") == str(address):
                return str(entry.get_attr("NDA_LLADDR"))
        return None

    def believe_the_old(net: Net) -> None:
        port = get_link(net, "port0")
        for address, prefix in ((FOUR, "10.9.1.1/24"), (SIX, "fd00:9::1/64")):
            add_address(net, port, ip_interface(prefix))
            net.change(
                "know",
                str(address),
                "neigh",
                "add",
                dst=str(address.ip),
                lladdr="02:00:00:00:00:99",
                ifindex=port.index,
                state="stale",
            )

    run_in(neighbour, believe_the_old)
    between(host, pod, setting_up(pod, announced=True))
    deadline = time.monotonic() + 3
    known: list[str | None] = []
    while known != [MAC, MAC] and time.monotonic() < deadline:
        known = [run_in(neighbour, partial(knows, address=a.ip)) for a in (FOUR, SIX)]
    assert known == [MAC, MAC]


def test_without_a_carrier_nothing_is_sent_and_it_says_so() -> None:
    with namespaces(2) as (one, other):
        wire(one, "eth0", other, "port0")
        run_in(other, lambda net: set_down(net, get_link(net, "port0")))
        begun = time.monotonic()
        assert not run_in(one, lambda net: announce(net, get_link(net, "eth0"), [FOUR.ip]))
        assert time.monotonic() - begun < 10


def test_the_hosts_side_of_a_job_between_sends_nothing(place: tuple[Netns, Netns, Netns]) -> None:
    _, pod, _ = place
    with pytest.raises(RuntimeError, match="another namespace"):
        run_between(pod, lambda home, _: announce(home, get_link(home, "lo"), [FOUR.ip]))
