"""What a pod sends under another's address goes nowhere, whichever way the kernel filters it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from hostnet import (
    Link,
    Macvlan,
    Net,
    Netns,
    Refused,
    Sources,
    add_address,
    add_macvlan,
    egress,
    egress_ways,
    filter_egress,
    filters_egress,
    get_link,
    run_in,
    set_up,
)
from hostnet.rtnetlink import attribute
from tests.wires import Tap, arrives, between, namespaces, send_from, udp, wire

MAC, OTHER_MAC, NEIGHBOUR = "02:aa:bb:cc:dd:01", "02:aa:bb:cc:dd:99", "02:aa:bb:cc:dd:02"
FOUR, SIX, OWN_LOCAL = "10.1.0.5", "fd00:1::5", "fe80::aa:bbff:fecc:dd01"
GATEWAY4, GATEWAY6, ROUTER = "10.1.0.1", "fd00:1::1", "fe80::1"
EVERYBODY = "ff02::1"
WAYS = egress.WAYS


def frame(*layers: Packet, source: str = MAC, to: str = "ff:ff:ff:ff:ff:ff") -> bytes:
    made: Any = Ether(src=source, dst=to)
    for layer in layers:
        made = made / layer
    return bytes(made)


def advertisement(source: str, target: str) -> IPv6:
    return IPv6(src=source, dst=EVERYBODY, hlim=255) / ICMPv6ND_NA(tgt=target, R=0, S=0, O=1)


def solicitation(source: str, target: str) -> IPv6:
    return IPv6(src=source, dst=EVERYBODY, hlim=255) / ICMPv6ND_NS(tgt=target)


def said(sender: str, mac: str = MAC, operation: int = 2) -> ARP:
    return ARP(op=operation, hwsrc=mac, psrc=sender, hwdst=OTHER_MAC, pdst=GATEWAY4)


PORTS = UDP(sport=1234, dport=5678)
OWN = {
    "IPv4": frame(IP(src=FOUR, dst=GATEWAY4), PORTS),
    "IPv6": frame(IPv6(src=SIX, dst=GATEWAY6), PORTS),
    "IPv6 with options": frame(IPv6(src=SIX, dst=GATEWAY6), IPv6ExtHdrDestOpt(), PORTS),
    "link-local": frame(IPv6(src=OWN_LOCAL, dst=ROUTER), PORTS),
    "ARP": frame(said(FOUR)),
    "ARP probe": frame(said("0.0.0.0", operation=1)),
    "advertisement": frame(advertisement(SIX, SIX)),
    "link-local advertisement": frame(advertisement(OWN_LOCAL, OWN_LOCAL)),
    "solicitation": frame(solicitation(SIX, GATEWAY6)),
    "duplicate address detection": frame(solicitation("::", SIX)),
    "groups joined": frame(
        IPv6(src="::", dst="ff02::16", hlim=1),
        IPv6ExtHdrHopByHop(options=[RouterAlert()]),
        ICMPv6MLReport2(),
    ),
    "another protocol": frame(b"\x01" * 50)[:12] + b"\x88\xb5" + b"\x01" * 50,
}
SPOOFED = {
    "IPv4 of another": frame(IP(src="10.1.0.6", dst=GATEWAY4), PORTS),
    "IPv4 of the gateway": frame(IP(src=GATEWAY4, dst="10.1.0.6"), PORTS),
    "no IPv4": frame(IP(src="0.0.0.0", dst="255.255.255.255"), PORTS),
    "IPv6 of another": frame(IPv6(src="fd00:1::6", dst=GATEWAY6), PORTS),
    "link-local of the router": frame(IPv6(src=ROUTER, dst=EVERYBODY), PORTS),
    "ARP of the gateway": frame(said(GATEWAY4)),
    "ARP with another MAC": frame(said(FOUR, OTHER_MAC)),
    "ARP request of another": frame(said("10.1.0.6", operation=1)),
    "advertisement of the gateway": frame(advertisement(SIX, GATEWAY6)),
    "advertisement from the gateway": frame(advertisement(GATEWAY6, GATEWAY6)),
    "advertisement behind options": frame(
        IPv6(src=SIX, dst=EVERYBODY, hlim=255),
        IPv6ExtHdrDestOpt(),
        ICMPv6ND_NA(tgt=GATEWAY6, S=0),
    ),
    "another's address detected": frame(solicitation("::", "fd00:1::6")),
    "router advertisement": frame(IPv6(src=OWN_LOCAL, dst=EVERYBODY, hlim=255), ICMPv6ND_RA()),
    "redirect": frame(
        IPv6(src=OWN_LOCAL, dst=EVERYBODY, hlim=255), ICMPv6ND_Redirect(tgt=SIX, dst=GATEWAY6)
    ),
    "another's MAC": frame(IP(src=FOUR, dst=GATEWAY4), PORTS, source=OTHER_MAC),
    "priority tag": frame(Dot1Q(vlan=0), IP(src=GATEWAY4, dst="10.1.0.6"), PORTS),
}
END = frame(IP(src=FOUR, dst=GATEWAY4), UDP(sport=1, dport=9))


@dataclass
class Pods:
    """A pod, a neighbour on the same link, and the wire behind it."""

    pod: Netns
    neighbour: Netns
    outside: Netns

    def filtered(self, way: str) -> None:
        """The pod's link is filtered in this way and no other; or in none."""
        own = Sources(bytes.fromhex(MAC.replace(":", "")), (ip_address(FOUR), ip_address(SIX)))
        known = dict(egress._lacking)
        egress._lacking.update({other: other != way for other in WAYS})
        try:
            chosen = run_in(self.pod, lambda net: filter_egress(net, get_link(net, "eth0"), own))
        finally:
            egress._lacking.clear()
            egress._lacking.update(known)
        assert chosen == way

    def arriving(self, frames: dict[str, bytes], *, bypass: bool = False) -> set[str]:
        """Which of the frames that the pod sends are seen outside and by the neighbour."""
        with Tap(self.outside, "far0") as far, Tap(self.neighbour, "eth0") as near:
            send_from(self.pod, "eth0", [*frames.values(), END], bypass=bypass)
            seen = [tap.frames(5, _ended) for tap in (far, near)]
        names = {data: name for name, data in frames.items()}
        there, here = ({names.get(bytes(f)) for f in found} - {None} for found in seen)
        assert there == here
        return {name for name in there if name}


def _ended(seen: list[Any]) -> bool:
    return bool(seen) and bytes(seen[-1]) == END


@pytest.fixture
def pods() -> Iterator[Pods]:
    with namespaces(4) as (host, outside, pod, neighbour):
        wire(host, "up0", outside, "far0")
        for netns, mac, last in ((pod, MAC, 5), (neighbour, NEIGHBOUR, 6)):

            def make(home: Net, there: Net, to: Netns = netns, mac: str = mac) -> Link:
                return add_macvlan(home, there, to, Macvlan("eth0", "up0", mac=mac))

            link = between(host, netns, make)

            def configure(net: Net, link: Link = link, last: int = last) -> None:
                for text in (f"10.1.0.{last}/24", f"fd00:1::{last}/64"):
                    add_address(net, link, ip_interface(text))
                set_up(net, link)

            run_in(netns, configure)
        yield Pods(pod, neighbour, outside)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    if request.param not in egress_ways():
        pytest.skip(f"this kernel cannot filter by {request.param}")
    return str(request.param)


def test_without_a_filter_all_of_it_arrives(pods: Pods) -> None:
    everything = OWN | SPOOFED
    assert pods.arriving(everything) == set(everything)


def test_only_what_is_the_pods_own_leaves_it(pods: Pods, way: str) -> None:
    pods.filtered(way)
    assert pods.arriving(OWN | SPOOFED) == set(OWN)


def test_a_packet_socket_goes_round_tc_but_not_round_nftables(pods: Pods, way: str) -> None:
    pods.filtered(way)
    expected = set(OWN) if way == "nftables" else set(OWN) | set(SPOOFED)
    assert pods.arriving(OWN | SPOOFED, bypass=True) == expected


def test_pods_with_filters_talk(pods: Pods, way: str) -> None:
    pods.filtered(way)
    for ours, theirs in ((FOUR, "10.1.0.6"), (SIX, "fd00:1::6")):
        with udp(pods.pod, ours) as one, udp(pods.neighbour, theirs) as other:
            assert arrives(one, other, 100)
            assert arrives(other, one, 100)


def test_a_filter_is_known_and_one_that_was_changed_or_removed_is_not(pods: Pods, way: str) -> None:
    pods.filtered(way)
    mac = bytes.fromhex(MAC.replace(":", ""))
    own = Sources(mac, (ip_address(FOUR), ip_address(SIX)))
    others = Sources(mac, (ip_address(FOUR),))

    def known(net: Net) -> tuple[bool, bool]:
        link = get_link(net, "eth0")
        return filters_egress(net, link, own), filters_egress(net, link, others)

    assert run_in(pods.pod, known) == (True, False)
    pods.filtered(way)
    assert run_in(pods.pod, known) == (True, False)
    assert run_in(pods.neighbour, known) == (False, False)


def test_a_link_that_refuses_its_filter_is_told_of_and_says_nothing_of_the_others(
    pods: Pods,
) -> None:
    """Who may change it has given the link all the chains that it can have."""
    own = Sources(bytes.fromhex(MAC.replace(":", "")), (ip_address(FOUR),))
    if "nftables" not in egress_ways():
        pytest.skip("this kernel cannot filter by nftables")

    def fill(net: Net) -> None:
        table = attribute(1, b"mine\0")
        egress._talked(net, "eth0", *egress._batch([egress._nft(egress._NEWTABLE, 0x400, table)]))
        with suppress(Refused):
            for number in range(1100):
                hook = attribute(1, egress._number(1)) + attribute(2, bytes(4))
                hook += attribute(3, b"eth0\0")
                body = table + attribute(3, b"c%d\0" % number) + attribute(4, hook)
                body += attribute(7, b"filter\0")
                chain = egress._nft(egress._NEWCHAIN, 0x400, body)
                egress._talked(net, "eth0", *egress._batch([chain]))

    run_in(pods.pod, fill)
    with pytest.raises(Refused):
        run_in(pods.pod, lambda net: filter_egress(net, get_link(net, "eth0"), own))
    neighbour = run_in(pods.neighbour, lambda net: filter_egress(net, get_link(net, "eth0"), own))
    assert neighbour == "nftables"
