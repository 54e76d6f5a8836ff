"""Vmacs in the kernel: looked at, made, given addresses and routes, mended, taken away again.

Each function is one job with a `Net` of the host's namespace. Nothing is changed that is as wanted;
what was changed is told in words. Only vmacs by our names, and what `Place` says moved, is touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from typing import Final

import hostnet
from cni_plugins.services.book import OwnRoute, Place
from cni_plugins.services.wanted import KERNEL, ROUTER, STATIC, Seen, Wanted
from hostnet import Link, LinkRoute, Net
from hostnet.leading import FORWARDING, ensure_forwarding, set_in_words
from hostnet.neighbours import delete_neighbour
from netspace.handover import ROUTE_PROTOCOL

Network = IPv4Network | IPv6Network

ANSWERING: Final = (("1", "arp_ignore"), ("2", "arp_announce"))
"""Of a vmac and the link below it, for IPv4: else both answer for the node's addresses."""

QUIET: Final = (
    ("0", "ipv4", "send_redirects"),
    ("0", "ipv6", "accept_ra"),
    ("0", "ipv6", "disable_ipv6"),
    ("1", "ipv6", "keep_addr_on_down"),
    ("0", "ipv6", "dad_transmits"),
)
"""Of a vmac alone. Its link-local address follows from its MAC, which is unique by construction;
until it may be used the node cannot ask for a pod's MAC on another's behalf."""


def look(net: Net) -> Seen:
    """What of the host's links counts for vmacs."""
    links = {link.index: link for link in hostnet.list_links(net)}
    addresses: dict[str, list[str]] = {}
    for address in hostnet.list_addresses(net):
        if address.scope == "global" and address.link in links:
            name = links[address.link].name
            addresses.setdefault(name, []).append(str(address.interface))
    routes: dict[str, list[OwnRoute]] = {}
    uplinks = []
    for found in hostnet.list_routes(net, but=ROUTE_PROTOCOL):
        if found.link not in links:
            continue
        name = links[found.link].name
        if found.route.destination.prefixlen == 0:
            uplinks.append(name)
        if found.protocol not in (KERNEL, ROUTER):
            routes.setdefault(name, []).append(_own(found))
    return Seen(
        {link.name: link.kind for link in links.values()},
        {name: tuple(texts) for name, texts in addresses.items()},
        {name: tuple(each) for name, each in routes.items()},
        tuple(dict.fromkeys(uplinks)),
    )


def ensure_vmacs(net: Net, wanted: Wanted, before: Sequence[Place]) -> list[str]:
    """Makes all vmacs as they should be. `before`: those of the last time; what is not wanted of
    them any more goes."""
    done = []
    kept = {place.name for place in wanted.places}
    for place in before:
        if place.name not in kept:
            done += _remove(net, place)
    if not wanted.places:
        return done
    done += ensure_forwarding(net)
    for place in wanted.places:
        parent = hostnet.find_link(net, place.parent)
        if parent is None:
            continue  # It was just deleted, and is made again first.
        earlier = next((each for each in before if each.name == place.name), None)
        done += _ensure(net, place, parent, earlier)
        pods = [pod.address for pod in wanted.pods if pod.vmac == place.name]
        done += _pod_routes(net, place, pods, wanted)
    return done


def settings_of(places: Iterable[Place]) -> list[tuple[str, tuple[str, ...]]]:
    """All settings that vmacs need: the value and the path below net/."""
    found = [(value, tuple(path)) for value, *path in FORWARDING]
    for place in places:
        for link in (place.parent, place.name):
            found += [(value, ("ipv4", "conf", link, name)) for value, name in ANSWERING]
        found += [(value, (family, "conf", place.name, name)) for value, family, name in QUIET]
    return found


def settings_differ(net: Net, places: Sequence[Place]) -> bool:
    """Whether somebody changed a setting; one that cannot be read counts as changed."""
    if not places:
        return False
    try:
        return any(
            hostnet.read_sysctl(net, *path) != value
            for value, path in settings_of(places)
            if path[0] == "ipv4" or hostnet.has_ipv6()
        )
    except hostnet.KernelError:
        return True


def _ensure(net: Net, place: Place, parent: Link, earlier: Place | None) -> list[str]:
    done = []
    link = hostnet.find_link(net, place.name)
    if link is not None and link.kind != "macvlan":
        raise hostnet.NameTaken(
            f"make the vmac {place.name} on",
            place.parent,
            f"there is a link of this name, a {link.kind or 'network card'}",
            "rename that one",
        )
    if link is not None and (link.parent, link.mac) != (parent.index, place.mac):
        hostnet.delete_link(net, link.index)
        link = None
    made = link is None
    if link is None:
        net.change(
            "make the vmac on",
            place.parent,
            "link",
            "add",
            kind="macvlan",
            ifname=place.name,
            link=parent.index,
            macvlan_mode="bridge",
            address=place.mac,
        )
        link = hostnet.get_link(net, place.name)
        done.append(f"made {place.name} on {place.parent}")
    for value, path in settings_of([place])[len(FORWARDING) :]:
        changed = set_in_words(net, value, *path)
        done += [] if made else changed
    if link.mtu != parent.mtu:
        hostnet.set_mtu(net, link, parent.mtu)
    if not link.up:
        hostnet.set_up(net, link)
        done += [] if made else [f"set up {place.name}"]
    return done + _addresses(net, place, parent, link, earlier)


def _addresses(
    net: Net, place: Place, parent: Link, link: Link, earlier: Place | None
) -> list[str]:
    there: dict[int, set[str]] = {parent.index: set(), link.index: set()}
    for address in hostnet.list_addresses(net):
        if address.link in there:
            there[address.link].add(str(address.interface))
    done, fresh = [], []
    for text in place.addresses:
        interface = ip_interface(text)
        if text not in there[link.index]:
            try:
                hostnet.add_address(net, link, interface)
            except hostnet.AlreadyThere:
                _delete_same(net, link, text, there[link.index])
                hostnet.add_address(net, link, interface)
            fresh.append(interface.ip)
            done.append(f"gave {place.name} the address {text}")
        if text in place.own and text in there[parent.index]:
            hostnet.delete_address(net, parent, interface)
            done.append(f"moved {text} from {place.parent} to {place.name}")
    for text in set(earlier.addresses if earlier else ()) - set(place.addresses):
        if text in there[link.index]:
            hostnet.delete_address(net, link, ip_interface(text))
            done.append(f"took {text} from {place.name}")
    if place.routes:
        present = {_own(each) for each in hostnet.list_routes(net, link, but=ROUTE_PROTOCOL)}
        for route in place.routes:
            if route not in present:
                hostnet.replace_route(net, link, _kernel_route(route))
                done.append(f"gave {place.name} the route to {route.destination}")
    if fresh:
        with suppress(hostnet.KernelError):
            # Whoever knew another MAC for it learns this one.
            hostnet.announce(net, hostnet.get_link(net, link.index), fresh)
    return done


def _delete_same(net: Net, link: Link, text: str, there: Iterable[str]) -> None:
    address = ip_interface(text).ip
    for other in there:
        if ip_interface(other).ip == address:
            hostnet.delete_address(net, link, ip_interface(other))


def _pod_routes(net: Net, place: Place, pods: Sequence[str], known: Wanted) -> list[str]:
    """The node's routes to its pods, and, where pods are federated, to the pods of other nodes on
    the VLAN: another cluster's packets may come in by any node."""
    link = hostnet.get_link(net, place.name)
    speaking = {ip_address(text).version: ip_address(text) for text in known.sources}
    wanted = {ip_network(address): speaking.get(ip_network(address).version) for address in pods}
    moved = {ip_network(route.destination) for route in place.routes}
    texts = [text for each in place.segments for text in (each.ipv4, each.ipv6)]
    subnets = {ip_network(text) for text in texts if text is not None}
    found, others = {}, set()
    for each in hostnet.list_routes(net, but=ROUTE_PROTOCOL):
        route, destination = each.route, each.route.destination
        ours = each.link == link.index and each.protocol == STATIC and route.gateway is None
        single = destination.prefixlen == destination.max_prefixlen
        if ours and (single or destination in subnets):
            found[destination] = route.source
        else:
            others.add(destination)
    wanted |= {subnet: None for subnet in subnets - others if _federated(subnet, known)}
    missing = [each for each in wanted.items() if each not in found.items()]
    for destination, source in missing:
        hostnet.replace_route(net, link, hostnet.Route(destination, source=source))
    gone = found.keys() - wanted.keys() - moved
    for destination in gone:
        hostnet.delete_route(net, link, hostnet.Route(destination))
        if destination.prefixlen == destination.max_prefixlen:
            # On another node it has another MAC, and what it said of that was not let in while it
            # was still known as a pod of this one.
            address = destination.network_address
            with suppress(hostnet.KernelError):
                net.do("forget", str(address), delete_neighbour(link.index, address.packed))
    lines = [f"gave {place.name} {len(missing)} routes to pods"] if missing else []
    return lines + ([f"took {len(gone)} routes to pods from {place.name}"] if gone else [])


def _federated(subnet: Network, known: Wanted) -> bool:
    local = [ip_network(text) for text in known.handed.local] if known.handed else []
    return any(subnet.overlaps(each) for each in local if each.version == subnet.version)


def _remove(net: Net, place: Place) -> list[str]:
    """The vmac goes, and what it had of the VLAN interface's goes back there."""
    done = []
    if hostnet.delete_link(net, place.name):
        done.append(f"deleted {place.name}")
    parent = hostnet.find_link(net, place.parent)
    if parent is None or not place.own:
        return done
    for text in place.own:
        hostnet.add_address(net, parent, ip_interface(text))
    for route in place.routes:
        hostnet.replace_route(net, parent, _kernel_route(route))
    with suppress(hostnet.KernelError):
        hostnet.announce(net, parent, [ip_interface(text).ip for text in place.own])
    return [*done, f"moved {', '.join(place.own)} back to {place.parent}"]


def _own(found: LinkRoute) -> OwnRoute:
    route = found.route
    return OwnRoute(
        destination=str(route.destination),
        gateway=None if route.gateway is None else str(route.gateway),
        source=None if route.source is None else str(route.source),
        priority=route.priority,
    )


def _kernel_route(route: OwnRoute) -> hostnet.Route:
    return hostnet.Route(
        ip_network(route.destination),
        None if route.gateway is None else ip_address(route.gateway),
        source=None if route.source is None else ip_address(route.source),
        priority=route.priority,
    )
