"""Netlink messages of routes as bytes: packing the requests, reading the answers. Pure.

Source: rtnetlink(7), and the kernel's Documentation/netlink/specs/rt_route.yaml.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hostnet.rtnetlink import (
    CREATE,
    DELROUTE,
    DUMP,
    EXCLUSIVE,
    GETROUTE,
    NEWROUTE,
    REPLACE,
    Message,
    attribute,
    attributes,
    family_of,
    nested,
    number,
)

STATIC: Final = 4
"""The protocol of routes that an administrator, or a program for one, has set (rtnetlink(7))."""

_ROUTE = struct.Struct("=BBBBBBBBI")
_U32 = struct.Struct("=I")
_U16 = struct.Struct("=H")
_UNICAST = 1
_UNSPECIFIED_TABLE, _MOST_TABLE = 0, 255
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC = 1, 4, 5, 6, 7
_RTA_METRICS, _RTA_TABLE, _RTA_VIA = 8, 15, 18
_RTAX_MTU, _RTAX_ADVMSS = 2, 8


@dataclass(frozen=True, slots=True)
class RouteFields:
    """A unicast route by one link, as RTM_NEWROUTE tells it: addresses of 4 or 16 bytes. Empty or 0
    where it does not say."""

    destination: bytes
    prefixlen: int
    link: int
    gateway: bytes
    source: bytes
    priority: int
    table: int
    protocol: int
    scope: int
    flags: int
    mtu: int
    advmss: int


def set_route(
    command: str,
    index: int,
    destination: bytes,
    prefixlen: int,
    *,
    scope: int,
    table: int,
    gateway: bytes | None = None,
    source: bytes | None = None,
    priority: int = 0,
    flags: int = 0,
    metrics: Mapping[str, int] | None = None,
    protocol: int = STATIC,
) -> Message:
    """A route by the link with the index: `command` is "add", "replace" or "del". `protocol`: who
    makes it; one that is taken away matches whoever made it, but where another is given. An IPv4
    route may have an IPv6 gateway."""
    kind, how = {
        "add": (NEWROUTE, CREATE | EXCLUSIVE),
        "replace": (NEWROUTE, CREATE | REPLACE),
        "del": (DELROUTE, 0),
    }[command]
    named = table if table <= _MOST_TABLE else _UNSPECIFIED_TABLE
    made_by, route_type = protocol, _UNICAST
    if kind == DELROUTE:
        made_by, route_type = (0 if protocol == STATIC else protocol), 0
    body = _ROUTE.pack(
        family_of(destination), prefixlen, 0, 0, named, made_by, scope, route_type, flags
    )
    if prefixlen:
        body += attribute(_RTA_DST, destination)
    body += attribute(_RTA_OIF, _U32.pack(index)) + attribute(_RTA_TABLE, _U32.pack(table))
    if gateway is not None:
        body += gateway_attribute(gateway, len(destination))
    if source is not None:
        body += attribute(_RTA_PREFSRC, source)
    if priority:
        body += attribute(_RTA_PRIORITY, _U32.pack(priority))
    if metrics:
        numbers = {"mtu": _RTAX_MTU, "advmss": _RTAX_ADVMSS}
        inner = b"".join(attribute(numbers[n], _U32.pack(v)) for n, v in metrics.items())
        body += nested(_RTA_METRICS, inner)
    return Message(kind, how, body, f"route {command}")


def gateway_attribute(gateway: bytes, size: int) -> bytes:
    """The gateway of a route whose addresses have so many bytes."""
    if len(gateway) == size:
        return attribute(_RTA_GATEWAY, gateway)
    return attribute(_RTA_VIA, _U16.pack(family_of(gateway)) + gateway)


def list_routes(family: int) -> Message:
    """Asks for all routes of the family, of all tables."""
    return Message(GETROUTE, DUMP, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), "route dump")


def get_route(address: bytes) -> Message:
    """Asks how packets to the address leave."""
    head = _ROUTE.pack(family_of(address), 8 * len(address), 0, 0, 0, 0, 0, 0, 0)
    return Message(GETROUTE, 0, head + attribute(_RTA_DST, address), "route get")


def route_protocol(body: bytes) -> int:
    """Who made the route in the body of an RTM_NEWROUTE: far cheaper than reading it."""
    return body[5]


def route_link(body: bytes) -> int:
    """The index of its link, 0 where there are several; cheaper too."""
    found = attributes(body, _ROUTE.size).get(_RTA_OIF)
    return 0 if found is None else int(_U32.unpack(found)[0])


def read_route(body: bytes) -> RouteFields | None:
    """The route in the body of an RTM_NEWROUTE; None for one that is not unicast, or by more than
    one link."""
    family, prefixlen, _, _, table, protocol, scope, kind, flags = _ROUTE.unpack_from(body)
    if kind != _UNICAST:
        return None
    found = attributes(body, _ROUTE.size)
    link = found.get(_RTA_OIF)
    if link is None:
        return None
    via = found.get(_RTA_VIA)
    metrics = attributes(found[_RTA_METRICS]) if _RTA_METRICS in found else {}
    size = 4 if family == socket.AF_INET else 16
    return RouteFields(
        destination=found.get(_RTA_DST) or bytes(size),
        prefixlen=prefixlen,
        link=int(_U32.unpack(link)[0]),
        gateway=via[2:] if via is not None else found.get(_RTA_GATEWAY, b""),
        source=found.get(_RTA_PREFSRC, b""),
        priority=number(found, _RTA_PRIORITY) or 0,
        table=number(found, _RTA_TABLE) or table,
        protocol=protocol,
        scope=scope,
        flags=flags,
        mtu=number(metrics, _RTAX_MTU) or 0,
        advmss=number(metrics, _RTAX_ADVMSS) or 0,
    )
