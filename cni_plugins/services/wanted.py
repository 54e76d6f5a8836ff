"""What a node's way to Services should be: vmacs, their addresses and routes, pods on them. Pure.

A vmac is the host's own macvlan beside its pods' on one VLAN: vmac910 for VLAN 910 on bond0. It has
the address that the VLAN interface had there, or one from the server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from typing import Final, Literal

from cni_plugins.node_config import ServicesSection
from cni_plugins.records import Record
from cni_plugins.results import Route
from cni_plugins.services.book import Book, OwnRoute, Place, Segment
from hostnet import vlan_name
from netspace.handover import Handover
from netspace.messages import Network

USUAL: Final = "bond0"
"""The parent whose vmacs have the short names."""

PREFIX: Final = "vmac"
KERNEL, ROUTER, STATIC = 2, 9, 4
"""Who made a route (rtnetlink(7)): the kernel for an address, a router's advertisement, we."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What of the host's links counts here. `kinds` by name; `addresses`: the global ones by link,
    with prefix length; `routes`: by link those of others than the kernel; `uplinks`: the links of
    default routes."""

    kinds: Mapping[str, str] = field(default_factory=dict)
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    routes: Mapping[str, tuple[OwnRoute, ...]] = field(default_factory=dict)
    uplinks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LocalPod:
    """One address of a pod of this node. `vmac`: the name of the vmac on its VLAN."""

    vmac: str
    address: str
    mac: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """All of it. `subnets`: of every network of the cluster, on this node or not. `sources`: the
    node's address of each family from which it speaks to its pods, so that who answers on all
    addresses answers from the one that pods ask. `handed`: what the federation agent wants for
    pods."""

    places: tuple[Place, ...] = ()
    pods: tuple[LocalPod, ...] = ()
    routes: Mapping[str, tuple[Route, ...]] = field(default_factory=dict)
    subnets: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    handed: Handover = field(default_factory=Handover)

    @property
    def book(self) -> Book:
        return Book(places=self.places, routes=dict(self.routes), sources=self.sources)


def vmac_name(master: str, vlan: int | None) -> str:
    """The vmac's name for a VLAN of a link, untagged 0: vmac910 on bond0, and on another link with
    the first six digits of the SHA-256 of that link's name, vmac910~1f3a9c: 15 bytes at most."""
    name = f"{PREFIX}{vlan or 0}"
    if master == USUAL:
        return name
    return f"{name}~{hashlib.sha256(master.encode()).hexdigest()[:6]}"


def vmac_mac(cluster: str, node: str, name: str) -> str:
    """The vmac's MAC: always the same one, so that neighbours need not learn it anew when it was
    made again. A unicast address of the locally administered kind (IEEE 802, clause 8.4)."""
    digest = hashlib.sha256(f"{cluster}/{node}/{name}".encode()).digest()
    first, *rest = digest[:6]
    return ":".join(f"{octet:02x}" for octet in (first & 0xFC | 0x02, *rest))


def parent_of(network: Network) -> str:
    """The name of the link that the network's macvlans lie on."""
    return network.parent if network.vlan is None else vlan_name(network.parent, network.vlan)


def own_addresses(network: Network, seen: Seen, book: Book) -> dict[Literal[4, 6], str]:
    """The VLAN interface's own address in the network, by family, with prefix length; wherever it
    is by now. None is taken from an untagged link: its addresses are the node's own everywhere."""
    if network.vlan is None:
        return {}
    there = seen.addresses.get(parent_of(network), ())
    moved = next((place.own for place in book.places if place.name == _name(network)), ())
    found: dict[Literal[4, 6], str] = {}
    for text in (*there, *moved):
        address = ip_interface(text)
        subnet = network.ipv4 if address.version == 4 else network.ipv6
        if subnet is not None and address.ip in ip_network(subnet):
            found.setdefault(4 if address.version == 4 else 6, text)
    return found


def lacks_address(network: Network, seen: Seen, book: Book) -> bool:
    """Whether the server is to be asked for an address of this node's on the network."""
    own = own_addresses(network, seen, book)
    return (network.ipv4 is not None and 4 not in own) or (
        network.ipv6 is not None and 6 not in own
    )


def wanted_of(
    section: ServicesSection,
    identity: tuple[str, str],
    networks: Sequence[Network],
    given: Mapping[str, tuple[str | None, str | None]],
    records: Iterable[Record],
    seen: Seen,
    book: Book,
) -> Wanted:
    """What there should be. `identity`: cluster and node; `given`: the addresses that the server
    gave, by network. A network whose parent this node has not, or for which there is no address at
    all, is left out."""
    by_name: dict[str, list[Network]] = {}
    for network in sorted(networks, key=lambda each: each.name):
        if parent_of(network) in seen.kinds:
            by_name.setdefault(_name(network), []).append(network)
    places = []
    for name, sharing in sorted(by_name.items()):
        place = _place(name, vmac_mac(*identity, name), sharing, given, seen, book)
        if place.segments:
            places.append(place)
    nodes = node_addresses(section, seen, places)
    segments = [segment for place in places for segment in place.segments]
    subnets = {text for n in networks for text in (n.ipv4, n.ipv6) if text is not None}
    return Wanted(
        places=tuple(places),
        pods=_pods(places, records),
        routes={each.network: pod_routes(section, nodes, each) for each in segments},
        subnets=tuple(sorted(subnets)),
        sources=_sources(nodes, seen, places),
    )


def remembered(book: Book, records: Iterable[Record]) -> Wanted:
    """The same as it was, for a node that has not heard of its networks yet."""
    subnets = {
        text
        for place in book.places
        for segment in place.segments
        for text in (segment.ipv4, segment.ipv6)
        if text is not None
    }
    pods = _pods(book.places, records)
    return Wanted(book.places, pods, book.routes, tuple(sorted(subnets)), book.sources)


def node_addresses(
    section: ServicesSection, seen: Seen, places: Sequence[Place]
) -> tuple[str, ...]:
    """The node's own addresses that pods reach by their vmac: those configured, or all of network
    cards, bonds, VLAN interfaces and of the links with a default route, moved ones included."""
    if section.node_addresses != "auto":
        return tuple(section.node_addresses)
    links = [
        name
        for name, kind in seen.kinds.items()
        if kind in ("", "bond", "team", "vlan") or name in seen.uplinks
    ]
    links.sort(key=lambda name: (name not in seen.uplinks, name))
    found = [text for name in links for text in seen.addresses.get(name, ())]
    found += [text for place in places for text in place.own]
    found = [text for text in found if not ip_interface(text).is_loopback]
    return tuple(dict.fromkeys(str(ip_interface(text).ip) for text in found))


def pod_routes(
    section: ServicesSection, nodes: Sequence[str], segment: Segment
) -> tuple[Route, ...]:
    """The routes of a pod on the network: the vmac on the link, all the rest by it."""
    routes = []
    for gateway, version in ((segment.address4, 4), (segment.address6, 6)):
        if gateway is None:
            continue
        whole = 32 if version == 4 else 128
        routes.append(Route(dst=f"{gateway}/{whole}"))
        beyond = [*section.cidrs, *(f"{address}/{128 if ':' in address else 32}"
                                    for address in nodes), *section.extra]  # fmt: skip
        for text in dict.fromkeys(str(ip_network(each, strict=False)) for each in beyond):
            if ip_network(text).version == version and text != f"{gateway}/{whole}":
                routes.append(Route(dst=text, gw=gateway))
    return tuple(routes)


def _sources(nodes: Sequence[str], seen: Seen, places: Sequence[Place]) -> tuple[str, ...]:
    """The first of the node's addresses of each family that it really has."""
    there = {str(ip_interface(text).ip) for texts in seen.addresses.values() for text in texts}
    there |= {str(ip_interface(text).ip) for place in places for text in place.own}
    found: dict[int, str] = {}
    for text in nodes:
        if text in there:
            found.setdefault(ip_address(text).version, text)
    return tuple(found.values())


def _name(network: Network) -> str:
    return vmac_name(network.parent, network.vlan)


def _place(
    name: str,
    mac: str,
    networks: Sequence[Network],
    given: Mapping[str, tuple[str | None, str | None]],
    seen: Seen,
    book: Book,
) -> Place:
    parent = parent_of(networks[0])
    there = seen.addresses.get(parent, ())
    known = next((place for place in book.places if place.name == name), None)
    segments, addresses, own = [], [], []
    for network in networks:
        mine = own_addresses(network, seen, book)
        four, six = given.get(network.name, (None, None))
        chosen: dict[int, str | None] = {}
        for version, subnet, server in ((4, network.ipv4, four), (6, network.ipv6, six)):
            moved = mine.get(4 if version == 4 else 6)
            if moved is not None:
                own.append(moved)
                addresses.append(moved)
                chosen[version] = str(ip_interface(moved).ip)
            elif server is not None and subnet is not None:
                addresses.append(f"{server}/{_length(subnet, there)}")
                chosen[version] = server
        if chosen:
            segments.append(
                Segment(
                    network=network.name,
                    ipv4=network.ipv4,
                    ipv6=network.ipv6,
                    address4=chosen.get(4),
                    address6=chosen.get(6),
                    services=network.services,
                )
            )
    routes = seen.routes.get(parent, ()) if own else ()
    if not routes and known is not None:
        routes = known.routes
    return Place(
        name=name,
        parent=parent,
        mac=mac,
        segments=tuple(segments),
        addresses=tuple(addresses),
        own=tuple(own),
        routes=tuple(routes) if own else (),
    )


def _length(subnet: str, there: Iterable[str]) -> int:
    """The prefix length of a vmac's address from the server: the subnet's, unless the link below
    reaches the subnet itself: two links with one subnet would answer for each other."""
    network = ip_network(subnet)
    taken = any(ip_interface(text).ip in network for text in there)
    return network.max_prefixlen if taken else network.prefixlen


def _pods(places: Sequence[Place], records: Iterable[Record]) -> tuple[LocalPod, ...]:
    found = []
    for record in records:
        if record.state != "held" or record.plugin != "netspace" or record.result is None:
            continue
        if record.in_container or not record.master:
            continue
        vmac = vmac_name(record.master, record.vlan)
        place = next((each for each in places if each.name == vmac), None)
        if place is None:
            continue
        subnets = [
            ip_network(text)
            for s in place.segments
            for text in (s.ipv4, s.ipv6)
            if text is not None
        ]
        for ip in record.result.ips:
            address = ip_interface(ip.address).ip
            # Another IPAM plugin's addresses are none of ours.
            if any(address in subnet for subnet in subnets):
                found.append(LocalPod(vmac, str(address), record.mac))
    return tuple(sorted(found, key=lambda pod: (pod.vmac, ip_address(pod.address).packed)))
