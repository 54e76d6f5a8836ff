"""A mesh of VXLAN devices, one on each host: the device, and the entries by which it reaches what
lies behind the other hosts.

The device learns nothing, and over IPv4 its packets are never fragmented: what does not fit the
underlay is lost, so that a path can be measured and the underlay tells what fits. Of every other
host it has a forwarding entry (its device's hardware address is behind its underlay address),
permanent neighbours (for IPv4 the underlay address itself, for IPv6 the other device's link-local
address), and routes of one protocol to subnets or single addresses by them. Changes go to the
kernel many at a time: 100,000 routes take about a second.

Source: drivers/net/vxlan, linux/if_link.h (IFLA_VXLAN_*), rtnetlink(7).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from hostnet import neighbours, route_messages, rtnetlink
from hostnet.errors import AlreadyThere, KernelError, NameTaken, NotThere
from hostnet.links import Link, check_mac, check_name, delete_link, find_link, get_link
from hostnet.netlink import Net
from hostnet.route_messages import gateway_attribute
from hostnet.rtnetlink import (
    CREATE,
    DELROUTE,
    EXCLUSIVE,
    NEWLINK,
    NEWROUTE,
    REPLACE,
    Message,
    attribute,
    attributes,
    nested,
)
from hostnet.sources import link_local
from hostnet.sysctls import has_ipv6, write_sysctl

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_IFINFO_BYTES: Final = 16
_IFNAME, _ADDRESS, _MTU, _LINKINFO, _KIND, _DATA = 3, 1, 4, 18, 1, 2
_ID, _LOCAL, _LEARNING, _PORT, _LOCAL6, _DF = 1, 4, 7, 15, 17, 29
_MAIN_TABLE, _UNICAST, _ONLINK = 254, 1, 4
_DST, _OIF, _GATEWAY, _PREFSRC, _METRICS, _TABLE, _RTA_VIA = 1, 4, 5, 7, 8, 15, 18
_RTAX_MTU: Final = 2
_DONT_FRAGMENT: Final = b"\1"
_IN_MAIN: Final = struct.pack("=I", _MAIN_TABLE)
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_DST4, _DST6 = struct.pack("=HH", 8, _DST), struct.pack("=HH", 20, _DST)
_QUIET: Final = (
    ("ipv6", "disable_ipv6", "0"),
    ("ipv6", "addr_gen_mode", "0"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "dad_transmits", "0"),
    ("ipv6", "keep_addr_on_down", "1"),
)
"""The device's link-local address follows from its hardware address, which is unique by
construction, and may be used at once."""


@dataclass(frozen=True, slots=True)
class Vxlan:
    """A device as it should be: `local` the underlay's address of this host, `mtu` in bytes."""

    name: str
    vni: int
    port: int
    local: Address
    mac: str
    mtu: int


@dataclass(frozen=True, slots=True)
class Remote:
    """Another host of the mesh: the hardware address of its device, its underlay address, and what
    lies behind it. `mtu`: of what goes to it, bytes, where that is less than the device's; else 0.
    """

    mac: str
    underlay: Address
    ranges: Collection[Network]
    mtu: int = 0


@dataclass(slots=True)
class Entries:
    """What a device has, as bytes. `forwarding`: hardware → underlay address; `neighbours`:
    address → hardware address; `routes`: subnet (see `key_of`) → the way, which is the
    gateway and, if they are given, the host's own address to speak from and two bytes of MTU."""

    forwarding: dict[bytes, bytes] = field(default_factory=dict)
    neighbours: dict[bytes, bytes] = field(default_factory=dict)
    routes: dict[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the kernel has of it. `taken`: subnets to which others have routes in the main table."""

    entries: Entries
    taken: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Synced:
    """How many entries were changed, and what the kernel refused, in words (a few of it)."""

    changed: int
    refused: tuple[str, ...] = ()


def key_of(network: Network) -> bytes:
    """The subnet's address, and its prefix length in one more byte."""
    return network.network_address.packed + bytes((network.prefixlen,))


def network_of(key: bytes) -> Network:
    """The same back."""
    return ip_network((key[:-1], key[-1]))


def entries_of(remotes: Iterable[Remote], sources: Sequence[Address] = ()) -> Entries:
    """The entries for these hosts; `sources`: the host's own address of a family to speak from."""
    found = Entries()
    own = {source.version: source.packed for source in sources}
    four, six = own.get(4, b""), own.get(6, b"")
    for remote in remotes:
        mac, underlay = bytes.fromhex(remote.mac.replace(":", "")), remote.underlay.packed
        beyond = link_local(mac).packed
        size = _packed(remote.mtu)
        by4 = (underlay if len(underlay) == 4 else beyond) + four + size
        by6 = beyond + six + size
        found.forwarding[mac] = underlay
        found.neighbours[beyond] = mac
        if len(underlay) == 4:
            found.neighbours[underlay] = mac
        for each in remote.ranges:
            found.routes[key_of(each)] = by4 if each.version == 4 else by6
    return found


def ensure_vxlan(net: Net, wanted: Vxlan) -> tuple[Link, bool]:
    """The device, up and as it should be; and whether it has lost, or never had, its entries, since
    it had to be made or set up. One of this name that is otherwise is made anew.

    Errors: ``NameTaken`` (a link of another kind has the name), ``AlreadyThere`` (another VXLAN
    device has the number and port), ``InvalidMac``, ``InvalidMtu``.
    """
    link = find_link(net, check_name(wanted.name))
    if link is not None and link.kind != "vxlan":
        raise NameTaken(
            f"make the VXLAN device {wanted.name} on",
            str(wanted.local),
            f"there is a link of this name, a {link.kind or 'network card'}",
            "rename that one",
        )
    if link is not None and not _same(net, link, wanted):
        delete_link(net, link.index)
        link = None
    fresh = link is None or not link.up
    if link is None:
        try:
            net.do("make the VXLAN device", wanted.name, _add(wanted))
        except AlreadyThere as error:
            raise AlreadyThere(
                "make the VXLAN device",
                wanted.name,
                f"another device has VNI {wanted.vni} on port {wanted.port}",
                "give the federation another VNI or port",
                errno=error.errno,
            ) from None
        link = get_link(net, wanted.name)
        if has_ipv6():
            for family, setting, value in _QUIET:
                write_sysctl(net, value, family, "conf", wanted.name, setting)
    if link.mtu != wanted.mtu:
        message = rtnetlink.set_link(link.index, mtu=wanted.mtu)
        net.do(f"set the MTU {wanted.mtu} of", wanted.name, message)
    if fresh:
        net.do("set up the link", wanted.name, rtnetlink.set_link(link.index, up=True))
    return link, fresh


def look(net: Net, link: Link, protocol: int, wanted: Mapping[bytes, bytes]) -> Seen:
    """What the device has now, and which of the wanted routes others hold the place of. A route of
    ours by another link counts as one of the device that is to be replaced."""
    found, taken = Entries(), set[bytes]()
    index = struct.pack("=I", link.index)
    for body in net.ask(
        "list the entries of", link.name, neighbours.list_neighbours(socket.AF_BRIDGE)
    ):
        entry = neighbours.read_neighbour(body)
        if entry.link == link.index:
            found.forwarding[entry.mac] = entry.address
    for family in (socket.AF_INET, socket.AF_INET6):
        request = neighbours.list_neighbours(family, link.index)
        for body in net.ask("list the neighbours of", link.name, request):
            entry = neighbours.read_neighbour(body)
            if entry.link == link.index and entry.state & neighbours.PERMANENT:
                found.neighbours[entry.address] = entry.mac
        for body in net.ask("list the routes of", link.name, route_messages.list_routes(family)):
            _read_route(body, index, protocol, wanted, found, taken)
    return Seen(found, frozenset(taken))


def sync(
    net: Net,
    link: Link,
    protocol: int,
    before: Entries,
    after: Entries,
    taken: Collection[bytes] = frozenset(),
) -> Synced:
    """Brings the device from `before` to `after`. What is new comes first, what moved is replaced
    in one step, so that nothing is unreachable in between, what is gone goes last. No route is made
    to a subnet in `taken`, or to one that another route has: these are told, and left."""
    index, changed = link.index, 0
    refused: list[str] = []

    def send(what: str, keys: Sequence[bytes], message: Callable[[bytes], Message]) -> None:
        nonlocal changed
        denied = net.do_many(what, link.name, map(message, keys))
        wrong = [
            (place, error)
            for place, error in denied
            # What is gone already need not be taken away.
            if not (isinstance(error, NotThere) and what.startswith("take"))
        ]
        changed += len(keys) - len(denied)
        refused.extend(_refusals(what, keys, wrong))

    fresh = _differ(before.forwarding, after.forwarding)
    send(
        "give entries to",
        fresh,
        lambda mac: neighbours.set_forwarding(index, mac, after.forwarding[mac]),
    )
    fresh = _differ(before.neighbours, after.neighbours)
    send(
        "give neighbours to",
        fresh,
        lambda address: neighbours.set_neighbour(index, address, after.neighbours[address]),
    )
    new: list[bytes] = []
    moved: list[bytes] = []
    for key in _differ(before.routes, after.routes):
        if key not in taken:
            (moved if key in before.routes else new).append(key)
    maker = _Routes(index, protocol)
    send("add routes by", new, lambda key: maker.add(key, after.routes[key], EXCLUSIVE))
    send("replace routes by", moved, lambda key: maker.add(key, after.routes[key], REPLACE))
    send("take routes from", _gone(before.routes, after.routes), maker.delete)
    send(
        "take neighbours from",
        _gone(before.neighbours, after.neighbours),
        lambda address: neighbours.delete_neighbour(index, address),
    )
    send(
        "take entries from",
        _gone(before.forwarding, after.forwarding),
        lambda mac: neighbours.delete_forwarding(index, mac),
    )
    held = [network_of(key) for key in after.routes if key in taken]
    if held:
        refused.append(
            f"{link.name}: others have routes to {len(held)} of its subnets, as {held[0]}: "
            "these are left as they are"
        )
    return Synced(changed, tuple(refused))


class _Routes:
    """Messages for routes by one link. What is the same of many is put together once."""

    def __init__(self, index: int, protocol: int) -> None:
        self._protocol = protocol
        self._oif = attribute(_OIF, struct.pack("=I", index))
        self._head = lru_cache(maxsize=512)(self._new_head)
        self._tail = lru_cache(maxsize=65536)(self._new_tail)

    def add(self, key: bytes, way: bytes, how: int) -> Message:
        body = self._head(len(key), key[-1], False) + key[:-1] + self._tail(len(key), way)
        return Message(NEWROUTE, CREATE | how, body, "route add")

    def delete(self, key: bytes) -> Message:
        body = self._head(len(key), key[-1], True) + key[:-1] + self._oif
        return Message(DELROUTE, 0, body, "route del")

    def _new_head(self, size: int, prefixlen: int, gone: bool) -> bytes:
        four = size == 5
        family = socket.AF_INET if four else socket.AF_INET6
        kind, flags = (0, 0) if gone else (_UNICAST, _ONLINK if four else 0)
        scope = 255 if gone and four else 0
        head = _ROUTE.pack(family, prefixlen, 0, 0, _MAIN_TABLE, self._protocol, scope, kind, flags)
        return head + (_DST4 if four else _DST6)

    def _new_tail(self, size: int, way: bytes) -> bytes:
        gateway, source, mtu = _split(size - 1, way)
        tail = self._oif + gateway_attribute(gateway, size - 1)
        tail += attribute(_PREFSRC, source) if source else b""
        if mtu:
            tail += nested(_METRICS, attribute(_RTAX_MTU, struct.pack("=I", mtu)))
        return tail


def _split(size: int, way: bytes) -> tuple[bytes, bytes, int]:
    """Gateway, source and MTU of a way whose subnet's addresses have so many bytes. Addresses have
    4 or 16 bytes, so that two more are the MTU."""
    end = len(way) - len(way) % 4
    at = 16 if size == 16 or end >= 16 else 4
    return way[:at], way[at:end], int.from_bytes(way[end:])


def _differ(before: Mapping[bytes, bytes], after: Mapping[bytes, bytes]) -> list[bytes]:
    return [key for key, value in after.items() if before.get(key) != value]


def _gone(before: Mapping[bytes, bytes], after: Mapping[bytes, bytes]) -> list[bytes]:
    return [key for key in before if key not in after]


def _refusals(
    what: str, keys: Sequence[bytes], denied: Sequence[tuple[int, KernelError]]
) -> Iterator[str]:
    """One line for each reason."""
    reasons: dict[str, list[bytes]] = {}
    for place, error in denied:
        reasons.setdefault(error.why, []).append(keys[place])
    for why, refused in reasons.items():
        first = refused[0]
        shown = network_of(first) if len(first) in (5, 17) else _shown(first)
        yield f"cannot {what} the VXLAN device, {len(refused)} times, as {shown}: {why}"


def _shown(key: bytes) -> str:
    return key.hex(":") if len(key) == 6 else str(ip_address(key))


def _read_route(
    body: bytes,
    link: bytes,
    protocol: int,
    wanted: Mapping[bytes, bytes],
    found: Entries,
    taken: set[bytes],
) -> None:
    # Of very many routes nearly all are ours by this link: these are read in the cheapest way.
    if route_messages.route_protocol(body) == protocol:
        told = attributes(body, _ROUTE.size)
        if told.get(_OIF) == link and told.get(_TABLE) == _IN_MAIN and _RTA_VIA not in told:
            size = 4 if body[0] == socket.AF_INET else 16
            key = told.get(_DST, bytes(size)) + body[1:2]
            way = told.get(_GATEWAY, b"") + told.get(_PREFSRC, b"")
            if _METRICS in told:
                mtu = attributes(told[_METRICS]).get(_RTAX_MTU, bytes(4))
                way += _packed(struct.unpack("=I", mtu)[0])
            found.routes[key] = way
            return
    route = route_messages.read_route(body)
    if route is None or route.table != _MAIN_TABLE:
        return
    key = route.destination + bytes((route.prefixlen,))
    if route.protocol != protocol:
        if key in wanted:
            taken.add(key)
    elif struct.pack("=I", route.link) == link:
        found.routes[key] = route.gateway + route.source + _packed(route.mtu)
    elif key in wanted:
        found.routes.setdefault(key, b"")


def _packed(mtu: int) -> bytes:
    """The end of a way."""
    return min(mtu, 0xFFFF).to_bytes(2) if mtu else b""


def _add(wanted: Vxlan) -> Message:
    local = wanted.local.packed
    data = attribute(_ID, struct.pack("=I", wanted.vni))
    data += attribute(_LOCAL if len(local) == 4 else _LOCAL6, local)
    data += attribute(_LEARNING, b"\0") + attribute(_PORT, struct.pack("!H", wanted.port))
    if len(local) == 4:
        data += attribute(_DF, _DONT_FRAGMENT)
    body = bytes(_IFINFO_BYTES) + attribute(_IFNAME, wanted.name.encode() + b"\0")
    body += attribute(_ADDRESS, bytes.fromhex(check_mac(wanted.mac).replace(":", "")))
    body += attribute(_MTU, struct.pack("=I", wanted.mtu))
    body += nested(_LINKINFO, attribute(_KIND, b"vxlan") + nested(_DATA, data))
    return Message(NEWLINK, CREATE | EXCLUSIVE, body, "link add")


def _same(net: Net, link: Link, wanted: Vxlan) -> bool:
    if link.mac != check_mac(wanted.mac):
        return False
    [body] = net.ask("look up the link", link.name, rtnetlink.get_link(link.index))[:1]
    info = attributes(attributes(body, _IFINFO_BYTES).get(_LINKINFO, b""))
    data = attributes(info.get(_DATA, b""))
    return (
        data.get(_ID) == struct.pack("=I", wanted.vni)
        and data.get(_PORT) == struct.pack("!H", wanted.port)
        and data.get(_LEARNING) == b"\0"
        and wanted.local.packed in (data.get(_LOCAL), data.get(_LOCAL6))
        # Kernels before 4.21 do not know it.
        and (wanted.local.version == 6 or data.get(_DF, _DONT_FRAGMENT) == _DONT_FRAGMENT)
    )
