"""Routes: adding, replacing, listing, deleting; all may be repeated.

Source: rtnetlink(7), ip-route(8) for the meaning of scope, onlink and the metrics.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hostnet import route_messages
from hostnet.errors import (
    AlreadyThere,
    GatewayUnreachable,
    InvalidValue,
    KernelError,
    NotThere,
    RouteConflict,
)
from hostnet.links import Link
from hostnet.netlink import Net
from hostnet.route_messages import STATIC, RouteFields, set_route
from hostnet.rtnetlink import Message

MAIN_TABLE = 254
_ONLINK = 0x04
_CLONED = 0x200
_IPV6_PRIORITY = 1024
_SCOPES = {"global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
_SCOPE_NAMES = {number: name for name, number in _SCOPES.items()}


@dataclass(frozen=True, slots=True)
class Route:
    """One unicast route.

    ``destination``: 0.0.0.0/0 or ::/0 for the default route; ``gateway`` None: on the link
    itself; ``scope`` None: "link" without a gateway, "global" with one (IPv6 has "global"
    only); ``source``: the preferred own address; ``mtu`` and ``advmss`` in bytes, 0: not
    set; ``priority``: the metric, lower wins, 0: the family's default; ``onlink``: reach
    the gateway on the link even though no address of it covers the gateway.
    """

    destination: IPv4Network | IPv6Network
    gateway: IPv4Address | IPv6Address | None = None
    scope: str | None = None
    source: IPv4Address | IPv6Address | None = None
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int = MAIN_TABLE
    onlink: bool = False


@dataclass(frozen=True, slots=True)
class LinkRoute:
    """A route as the kernel shows it, with the index of its link and who made it.

    ``protocol``: 2 for the kernel itself, 3 boot, 4 static and so on (rtnetlink(7)).
    """

    route: Route
    link: int
    protocol: int


def default_route(gateway: IPv4Address | IPv6Address, *, onlink: bool = False) -> Route:
    """The default route of the gateway's family."""
    everything = "0.0.0.0/0" if gateway.version == 4 else "::/0"
    return Route(ipaddress.ip_network(everything), gateway, onlink=onlink)


def add_route(net: Net, link: Link, route: Route, *, protocol: int = STATIC) -> bool:
    """Add the route by the link; False when exactly that one was there. ``protocol``: who makes
    it, as in ``LinkRoute``.

    Errors: ``RouteConflict`` (another route to the destination with the same metric),
    ``GatewayUnreachable`` (the gateway lies in no network of the link, and not ``onlink``),
    ``LinkDown``, ``InvalidValue``.
    """
    return _set(net, link, route, "add", protocol)


def replace_route(net: Net, link: Link, route: Route, *, protocol: int = STATIC) -> bool:
    """Add the route, or put it in the place of the one with its destination and metric."""
    return _set(net, link, route, "replace", protocol)


def delete_route(net: Net, link: Link, route: Route, *, protocol: int = STATIC) -> bool:
    """Delete the route; False when it was not there. With another protocol than the usual one
    only that one's is."""
    message = _message("del", link, route, protocol)
    try:
        net.do(f"delete the route to {route.destination} by", link.name, message)
    except NotThere:
        return False
    return True


def list_routes(
    net: Net,
    link: Link | None = None,
    *,
    table: int | None = MAIN_TABLE,
    but: int | None = None,
    but_by: Collection[int] = (),
) -> list[LinkRoute]:
    """The unicast routes of one table (None: of all), of the link or of all links; both
    families. `but`: those of this protocol are passed over, at next to no cost; `but_by`: those by
    links with these indices."""
    which = "the namespace" if link is None else link.name
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for body in net.ask("list the routes of", which, route_messages.list_routes(int(family))):
            if but is not None and route_messages.route_protocol(body) == but:
                continue
            if but_by and route_messages.route_link(body) in but_by:
                continue
            if link is not None and route_messages.route_link(body) != link.index:
                continue
            fields = route_messages.read_route(body)
            if fields is None or (table is not None and fields.table != table):
                continue
            # A clone, which the kernel keeps of a route for one destination.
            if not fields.flags & _CLONED:
                found.append(_route(fields))
    return found


def find_route(net: Net, address: IPv4Address | IPv6Address) -> LinkRoute | None:
    """How packets of the host's own to the address leave now: link, gateway, source. None where
    they do not, or stay on the host."""
    try:
        bodies = net.ask(
            "find the route to", str(address), route_messages.get_route(address.packed)
        )
    except (GatewayUnreachable, NotThere):
        return None
    fields = route_messages.read_route(bodies[0])
    return None if fields is None else _route(fields)


def _set(net: Net, link: Link, route: Route, command: str, protocol: int) -> bool:
    what = f"{command} the route to {route.destination} by"
    gateway = route.gateway
    _check_gateway(what, link, route)
    try:
        net.do(what, link.name, _message(command, link, route, protocol))
    except AlreadyThere as error:
        existing = [r for r in list_routes(net, table=route.table) if _same_place(r.route, route)]
        if any(r.link == link.index and _complete(route) == r.route for r in existing):
            return False
        raise RouteConflict(
            what,
            link.name,
            f"another one is there: {existing[0].route if existing else error.why}",
            "delete or replace it, or give another priority",
            errno=error.errno,
        ) from None
    except KernelError as error:
        if gateway is not None and isinstance(error, GatewayUnreachable):
            raise GatewayUnreachable(
                what,
                link.name,
                f"its gateway {gateway} is in no network of the link",
                "add an address of the gateway's network first, or set onlink",
                errno=error.errno,
            ) from None
        raise
    return True


def route_request(link: Link, route: Route) -> Message:
    """What ``add_route`` asks of the kernel; ``InvalidValue``."""
    _check_gateway(f"add the route to {route.destination} by", link, route)
    return _message("add", link, route, STATIC)


def _check_gateway(what: str, link: Link, route: Route) -> None:
    gateway = route.gateway
    if gateway is not None and gateway.version != route.destination.version:
        raise InvalidValue(
            what, link.name, f"its gateway {gateway} is of the other family", "correct it"
        )


def _message(command: str, link: Link, route: Route, protocol: int) -> Message:
    route = _complete(route)
    assert route.scope is not None
    return set_route(
        command,
        link.index,
        route.destination.network_address.packed,
        route.destination.prefixlen,
        scope=_SCOPES[route.scope],
        table=route.table,
        gateway=None if route.gateway is None else route.gateway.packed,
        source=None if route.source is None else route.source.packed,
        priority=route.priority,
        flags=_ONLINK if route.onlink else 0,
        metrics={k: v for k, v in (("mtu", route.mtu), ("advmss", route.advmss)) if v},
        protocol=protocol,
    )


def _complete(route: Route) -> Route:
    """The route with its defaults as the kernel would show them."""
    scope = route.scope
    priority = route.priority
    if route.destination.version == 6:
        scope, priority = "global", priority or _IPV6_PRIORITY
    elif scope is None:
        scope = "link" if route.gateway is None else "global"
    if scope not in _SCOPES:
        raise InvalidValue(
            "use the route scope", repr(scope), "it is none", f"use {', '.join(_SCOPES)}"
        )
    return Route(
        route.destination,
        route.gateway,
        scope,
        route.source,
        route.mtu,
        route.advmss,
        priority,
        route.table,
        route.onlink,
    )


def _same_place(one: Route, other: Route) -> bool:
    one, other = _complete(one), _complete(other)
    return (one.destination, one.priority) == (other.destination, other.priority)


def _route(fields: RouteFields) -> LinkRoute:
    destination = ipaddress.ip_address(fields.destination)
    return LinkRoute(
        Route(
            ipaddress.ip_network((destination, fields.prefixlen)),
            ipaddress.ip_address(fields.gateway) if fields.gateway else None,
            _SCOPE_NAMES.get(fields.scope, "global"),
            ipaddress.ip_address(fields.source) if fields.source else None,
            fields.mtu,
            fields.advmss,
            fields.priority,
            fields.table,
            bool(fields.flags & _ONLINK),
        ),
        fields.link,
        fields.protocol,
    )
