"""Netlink messages as bytes: packing the requests that every pod needs, reading the answers. Pure.

pyroute2 takes about a millisecond to write one request and read its answer; these take some
tens of microseconds, nearly all of them the kernel's. What is rare stays with pyroute2.

Routes' are in `route_messages.py`.

Source: rtnetlink(7), netlink(7), and the kernel's Documentation/netlink/specs (rt_link.yaml,
rt_addr.yaml). All is in the machine's byte order but addresses.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

NEWLINK, DELLINK, GETLINK, SETLINK = 16, 17, 18, 19
NEWADDR, DELADDR = 20, 21
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26

ERROR, DONE = 2, 3
REQUEST, ACK = 0x1, 0x4
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400
DUMP = 0x300
_INTERRUPTED = 0x10
_CAPPED, _TLVS = 0x100, 0x200

UP: Final = 0x1
"""The interface flag."""

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_U32 = struct.Struct("=I")
_S32 = struct.Struct("=i")
_U16 = struct.Struct("=H")

_SKIP_STATISTICS = 1 << 3
_NESTED = 0x8000
_TYPE = 0x3FFF

# Attributes (linux/if_link.h, if_addr.h, rtnetlink.h, netlink.h).
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_LINKINFO, _IFLA_AF_SPEC, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 18, 26, 28, 29
_IFLA_CARRIER, _IFLA_NETNSID = 33, 37
_OF_LINKS: Final = frozenset(
    (
        _IFLA_ADDRESS,
        _IFLA_IFNAME,
        _IFLA_MTU,
        _IFLA_LINK,
        _IFLA_MASTER,
        _IFLA_LINKINFO,
        _IFLA_AF_SPEC,
        _IFLA_CARRIER,
        _IFLA_NETNSID,
    )
)
"""What is read of the some sixty that the kernel tells of a link."""
_INFO_KIND, _INFO_DATA = 1, 2
_MACVLAN_MODE, _VLAN_ID = 1, 1
_INET_CONF, _INET6_CONF, _INET6_ADDR_GEN_MODE = 1, 2, 8
_TOLD: Final = {
    ("ipv4", "arp_notify"): (socket.AF_INET, _INET_CONF, 4 * 21),
    ("ipv6", "accept_ra"): (socket.AF_INET6, _INET6_CONF, 4 * 3),
    ("ipv6", "disable_ipv6"): (socket.AF_INET6, _INET6_CONF, 4 * 26),
    ("ipv6", "ndisc_notify"): (socket.AF_INET6, _INET6_CONF, 4 * 29),
    ("ipv6", "keep_addr_on_down"): (socket.AF_INET6, _INET6_CONF, 4 * 42),
    ("ipv6", "addr_gen_mode"): (socket.AF_INET6, _INET6_ADDR_GEN_MODE, 0),
}
"""Where a setting stands: the family's number, the attribute, the first byte of a number of four
(linux/ip.h and linux/ipv6.h, DEVCONF; IPv4's numbers begin at 1)."""
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_ERROR_TEXT = 1


class Message(NamedTuple):
    """One request: the message's type, its flags, what follows the header, and the name of the
    step for an observer."""

    type: int
    flags: int
    body: bytes
    step: str


class Part(NamedTuple):
    """One message of an answer. `code` is the kernel's error number, 0 for an acknowledgement and
    None for any other message; `text` what the kernel said with it."""

    type: int
    sequence: int
    body: bytes
    code: int | None
    text: str
    interrupted: bool


@dataclass(frozen=True, slots=True)
class LinkFields:
    """A link as RTM_NEWLINK tells it; 0, empty or None where it does not say."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    flags: int
    carrier: bool
    parent: int | None
    parent_netns: int | None
    master: int | None
    vlan_id: int | None
    macvlan_mode: int | None
    settings: bytes = b""
    """Of the families, for `link_settings`."""


def packed(message: Message, sequence: int, flags: int = 0) -> bytes:
    """The message as it is sent."""
    size = _HEADER.size + len(message.body)
    head = _HEADER.pack(size, message.type, REQUEST | message.flags | flags, sequence, 0)
    return head + message.body


def parts(data: bytes) -> Iterator[Part]:
    """The messages of one datagram. Raises `ValueError` where it is not whole."""
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        end = at + size
        if size < _HEADER.size or end > len(data):
            raise ValueError(f"a netlink message of {size} bytes in {len(data) - at}")
        body = data[at + _HEADER.size : end]
        code, text = _error(body, flags) if kind in (ERROR, DONE) else (None, "")
        yield Part(kind, sequence, body, code, text, bool(flags & _INTERRUPTED))
        at += size + 3 & ~3


def attributes(data: bytes, at: int = 0, wanted: Container[int] | None = None) -> dict[int, bytes]:
    """Type → value of the attributes from `at` on, or of those that are wanted; of one type the
    last counts."""
    found: dict[int, bytes] = {}
    end, read = len(data), _ATTRIBUTE.unpack_from
    while at + 4 <= end:
        size, kind = read(data, at)
        if size < 4 or at + size > end:
            break
        if wanted is None or kind & _TYPE in wanted:
            found[kind & _TYPE] = data[at + 4 : at + size]
        at += size + 3 & ~3
    return found


def get_link(which: str | int) -> Message:
    """Asks for the link of this name or index."""
    index = 0 if isinstance(which, str) else which
    body = _link(index) + attribute(_IFLA_EXT_MASK, _U32.pack(_SKIP_STATISTICS))
    if isinstance(which, str):
        body += attribute(_IFLA_IFNAME, _name(which))
    return Message(GETLINK, 0, body, "link get")


def list_links() -> Message:
    """Asks for all links."""
    body = _link(0) + attribute(_IFLA_EXT_MASK, _U32.pack(_SKIP_STATISTICS))
    return Message(GETLINK, DUMP, body, "link dump")


def add_macvlan(
    name: str, parent: int, netns: int, mode: int, mac: str | None, mtu: int
) -> Message:
    """Makes a macvlan on the link with the index `parent`, in the namespace of the open file."""
    data = attribute(_INFO_KIND, b"macvlan") + nested(
        _INFO_DATA, attribute(_MACVLAN_MODE, _U32.pack(mode))
    )
    body = _link(0) + attribute(_IFLA_IFNAME, _name(name))
    body += attribute(_IFLA_LINK, _U32.pack(parent))
    body += attribute(_IFLA_NET_NS_FD, _U32.pack(netns))
    if mac is not None:
        body += attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
    if mtu:
        body += attribute(_IFLA_MTU, _U32.pack(mtu))
    body += nested(_IFLA_LINKINFO, data)
    return Message(NEWLINK, CREATE | EXCLUSIVE, body, "link add")


def delete_link(index: int) -> Message:
    return Message(DELLINK, 0, _link(index), "link del")


def set_link(
    index: int, *, up: bool | None = None, name: str | None = None, mtu: int | None = None
) -> Message:
    """Changes a link; None leaves it as it is."""
    flags, mask = (UP if up else 0, UP) if up is not None else (0, 0)
    body = _LINK.pack(socket.AF_UNSPEC, 0, index, flags, mask)
    if name is not None:
        body += attribute(_IFLA_IFNAME, _name(name))
    if mtu is not None:
        body += attribute(_IFLA_MTU, _U32.pack(mtu))
    return Message(SETLINK, 0, body, "link set")


def read_link(body: bytes) -> LinkFields:
    """The link in the body of an RTM_NEWLINK."""
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = attributes(body, _LINK.size, _OF_LINKS)
    info = attributes(found.get(_IFLA_LINKINFO, b""))
    kind = _text(info.get(_INFO_KIND, b""))
    data = attributes(info.get(_INFO_DATA, b"")) if kind in ("macvlan", "vlan") else {}
    return LinkFields(
        index=index,
        name=_text(found.get(_IFLA_IFNAME, b"")),
        kind=kind,
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=number(found, _IFLA_MTU) or 0,
        flags=flags,
        carrier=found.get(_IFLA_CARRIER, b"\0") != b"\0",
        parent=number(found, _IFLA_LINK) or None,
        parent_netns=None
        if _IFLA_NETNSID not in found
        else int(_S32.unpack(found[_IFLA_NETNSID])[0]),
        master=number(found, _IFLA_MASTER) or None,
        vlan_id=int(_U16.unpack(data[_VLAN_ID])[0])
        if kind == "vlan" and _VLAN_ID in data
        else None,
        macvlan_mode=number(data, _MACVLAN_MODE) if kind == "macvlan" else None,
        settings=found.get(_IFLA_AF_SPEC, b""),
    )


def link_settings(data: bytes) -> dict[tuple[str, str], int]:
    """What the kernel tells with a link of its settings under net/FAMILY/conf, by family and name;
    those of `_TOLD` only, and none of a family that it does not have."""
    found = {}
    families = attributes(data)
    for (family, name), (number, place, at) in _TOLD.items():
        values = attributes(families.get(number, b"")).get(place, b"")
        if len(values) >= at + 4:
            found[family, name] = int(_S32.unpack_from(values, at)[0])
        elif place == _INET6_ADDR_GEN_MODE and values:
            found[family, name] = values[0]
    return found


def set_address(
    kind: int,
    index: int,
    address: bytes,
    prefixlen: int,
    *,
    broadcast: bytes | None = None,
    flags: int = 0,
) -> Message:
    """Gives a link (`kind` NEWADDR) an address of 4 or 16 bytes, or takes it (DELADDR)."""
    family = family_of(address)
    body = _ADDRESS.pack(family, prefixlen, flags & 0xFF, 0, index)
    body += attribute(_IFA_LOCAL, address) + attribute(_IFA_ADDRESS, address)
    if broadcast is not None:
        body += attribute(_IFA_BROADCAST, broadcast)
    if flags:
        body += attribute(_IFA_FLAGS, _U32.pack(flags))
    adds = kind == NEWADDR
    return Message(
        kind, CREATE | EXCLUSIVE if adds else 0, body, "addr add" if adds else "addr del"
    )


def _error(body: bytes, flags: int) -> tuple[int, str]:
    """The error number and the kernel's text in an NLMSG_ERROR or NLMSG_DONE."""
    if len(body) < 4:
        return 0, ""
    code = -int(_S32.unpack_from(body)[0])
    if not flags & _TLVS or len(body) < 4 + _HEADER.size:
        return code, ""
    # After an error the request follows, cut to its header where the socket asked for that.
    size = _HEADER.size if flags & _CAPPED else int(_U32.unpack_from(body, 4)[0])
    said = attributes(body, 4 + (size + 3 & ~3)).get(_ERROR_TEXT, b"")
    return code, _text(said)


def _link(index: int) -> bytes:
    return _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0)


def family_of(address: bytes) -> int:
    """The address family by the address's length; `ValueError` where there is none."""
    if len(address) not in (4, 16):
        raise ValueError(f"an address has 4 or 16 bytes, not {len(address)}")
    return int(socket.AF_INET if len(address) == 4 else socket.AF_INET6)


def _name(name: str) -> bytes:
    return name.encode(errors="surrogateescape") + b"\0"


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="surrogateescape")


def number(found: Mapping[int, bytes], kind: int) -> int | None:
    """The number of 32 bits in the attribute of this type; None where there is none."""
    return int(_U32.unpack(found[kind])[0]) if kind in found else None


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    size = 4 + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size & 3)


def nested(kind: int, value: bytes) -> bytes:
    """One that holds attributes."""
    return attribute(kind | _NESTED, value)
