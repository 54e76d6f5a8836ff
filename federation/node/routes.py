"""The node's own routes to the ranges of heterogeneous peers, which lead packets to where the IPsec
policies take them.

A route goes by the link and gateway that packets to the peer's gateway leave by now, and follows
them. Ours are known by their protocol; a range to which another has a route is told and left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

import hostnet
from federation.desired import ROUTE_PROTOCOL, DesiredNode, Network, RangeRoute
from federation.node.keeping import Done
from federation.node.own import own_addresses
from federation.node.vxlan import is_ours
from hostnet import Kernel, KernelError, Link, LinkRoute, Net, Route
from hostnet.leading import ensure_forwarding

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Way:
    """How packets to an underlay address leave; `gateway` None: it is on the link itself."""

    link: int
    gateway: Address | None


def route_of(wanted: RangeRoute, way: Way, sources: Mapping[int, Address]) -> Route:
    """The range's route by that way. Where the way is of the other family the link alone is given:
    the policy takes the packet before a neighbour is asked for."""
    version = wanted.destination.version
    gateway = way.gateway or ip_address(wanted.towards)
    return Route(
        wanted.destination,
        gateway if gateway.version == version else None,
        source=sources.get(version),
        mtu=wanted.mtu,
        onlink=version == 4 and gateway.version == version,
    )


def longest(address: Address, routes: Iterable[LinkRoute]) -> LinkRoute | None:
    """The route that an address takes, of these."""
    covering = [
        each
        for each in routes
        if each.route.destination.version == address.version and address in each.route.destination
    ]
    return max(
        covering,
        key=lambda each: (each.route.destination.prefixlen, -each.route.priority),
        default=None,
    )


class RoutesDriver:
    """Call it with the desired node to bring its routes in line."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._links: frozenset[int] = frozenset()

    async def __call__(self, desired: DesiredNode) -> Done:
        return await self._kernel.run(None, lambda net: self._ensure(net, desired))

    def concerns(self, index: int) -> bool:
        """Whether news of the link with this index may be news of our routes or of the way to a
        gateway; 0 is news of no link in particular."""
        return not index or index in self._links

    def _ensure(self, net: Net, desired: DesiredNode) -> Done:
        links = {link.index: link for link in hostnet.list_links(net)}
        found = list(_of_ranges(net, links, desired.routes))
        others = [each for each in found if each.protocol != ROUTE_PROTOCOL]
        done, faults = [], []
        if desired.routes:
            done += ensure_forwarding(net)
        own = own_addresses(net, links.values(), desired.local) if desired.routes else ()
        sources: dict[int, Address] = {address.version: address for address in own}
        taken = {each.route.destination: each for each in others}
        ways: dict[str, Way | None] = {}
        whys: dict[str, str] = {}
        kept: set[tuple[Network, int]] = set()
        for wanted in desired.routes:
            if wanted.towards not in ways:
                try:
                    ways[wanted.towards] = _way(net, wanted.towards, desired.routes)
                except KernelError as error:
                    # A route that leads nowhere (blackhole, prohibit) is no way either.
                    ways[wanted.towards], whys[wanted.towards] = None, f": {error}"
            way = ways[wanted.towards]
            if (holder := taken.get(wanted.destination)) is not None:
                name = links[holder.link].name if holder.link in links else holder.link
                faults.append(
                    f"another route to {wanted.destination} is there, by {name} (protocol "
                    f"{holder.protocol}): it is left, take it away"
                )
            elif way is None or way.link not in links:
                # What is there leads nowhere else: it stays until the way is back.
                kept |= {
                    (each.route.destination, each.link)
                    for each in found
                    if each.route.destination == wanted.destination
                }
                why = whys.get(wanted.towards, "")
                faults.append(
                    f"no route to {wanted.towards}, which {wanted.destination} is behind{why}"
                )
            else:
                kept.add((wanted.destination, way.link))
                route = route_of(wanted, way, sources)
                try:
                    done += _put(net, links[way.link], route, found)
                except KernelError as error:
                    faults.append(str(error))
        left = []
        for each in _surplus(links, found, kept):
            try:
                if hostnet.delete_route(net, links[each.link], each.route, protocol=ROUTE_PROTOCOL):
                    name = links[each.link].name
                    done.append(f"took the route to {each.route.destination} from {name}")
            except KernelError as error:
                faults.append(str(error))
                left.append(each.route.destination)
        self._links = frozenset(way.link for way in ways.values() if way is not None)
        return Done(tuple(done), tuple(faults), tuple(left))


def _of_ranges(
    net: Net, links: Mapping[int, Link], wanted: Sequence[RangeRoute]
) -> Iterator[LinkRoute]:
    """Our routes but those of VXLAN devices, and others' to the same ranges."""
    ranges = {each.destination for each in wanted}
    devices = {index for index, link in links.items() if is_ours(link.name)}
    for each in hostnet.list_routes(net, but_by=devices):
        ours = each.protocol == ROUTE_PROTOCOL
        if ours or each.route.destination in ranges:
            yield each


def _way(net: Net, towards: str, wanted: Sequence[RangeRoute]) -> Way | None:
    address = ip_address(towards)
    if any(address in each.destination for each in wanted if _same_family(each, address)):
        # The kernel would answer with our own route.
        found = longest(address, hostnet.list_routes(net, but=ROUTE_PROTOCOL))
    else:
        found = hostnet.find_route(net, address)
    return None if found is None else Way(found.link, found.route.gateway)


def _same_family(route: RangeRoute, address: Address) -> bool:
    return route.destination.version == address.version


def _put(net: Net, link: Link, route: Route, found: Sequence[LinkRoute]) -> list[str]:
    there = [
        each
        for each in found
        if each.protocol == ROUTE_PROTOCOL and each.route.destination == route.destination
    ]
    if any(each.link == link.index and _alike(each.route, route) for each in there):
        return []
    hostnet.replace_route(net, link, route, protocol=ROUTE_PROTOCOL)
    return [f"{route.destination} goes by {route.gateway or ''} {link.name}"]


def _alike(there: Route, wanted: Route) -> bool:
    return (there.gateway, there.source, there.mtu) == (wanted.gateway, wanted.source, wanted.mtu)


def _surplus(
    links: Mapping[int, Link], found: Sequence[LinkRoute], kept: set[tuple[Network, int]]
) -> list[LinkRoute]:
    """Our routes that are not to be there."""
    return [
        each
        for each in found
        if each.protocol == ROUTE_PROTOCOL
        and (each.route.destination, each.link) not in kept
        and each.link in links
    ]
