"""Neighbour and forwarding entries as bytes: which hardware address an address has on a link, and
behind which host of the underlay a VXLAN device finds one. Pure.

Source: rtnetlink(7), linux/neighbour.h, drivers/net/vxlan for what an entry of its device means.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

from hostnet.rtnetlink import CREATE, DUMP, REPLACE, Message, attribute, attributes

NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
PERMANENT: Final = 0x80
"""The state of an entry that stays until it is taken away."""

_ENTRY = struct.Struct("=BxxxiHBB")
_SELF: Final = 0x02
_DST, _LLADDR, _IFINDEX = 1, 2, 8


class Neighbour(NamedTuple):
    """An entry of the link with the index `link`. `address`: what is looked up, 4 or 16 bytes; of a
    forwarding entry the host behind which `mac` is; `state` as the kernel has it."""

    link: int
    address: bytes
    mac: bytes
    state: int


def set_neighbour(link: int, address: bytes, mac: bytes) -> Message:
    """The address has this hardware address on the link, for good."""
    family = int(socket.AF_INET if len(address) == 4 else socket.AF_INET6)
    body = _ENTRY.pack(family, link, PERMANENT, 0, 0)
    body += attribute(_DST, address) + attribute(_LLADDR, mac)
    return Message(NEWNEIGH, CREATE | REPLACE, body, "neighbour replace")


def delete_neighbour(link: int, address: bytes) -> Message:
    family = int(socket.AF_INET if len(address) == 4 else socket.AF_INET6)
    body = _ENTRY.pack(family, link, 0, 0, 0) + attribute(_DST, address)
    return Message(DELNEIGH, 0, body, "neighbour del")


def set_forwarding(link: int, mac: bytes, underlay: bytes) -> Message:
    """A VXLAN device finds the hardware address behind this host, and behind no other."""
    body = _ENTRY.pack(socket.AF_BRIDGE, link, PERMANENT, _SELF, 0)
    body += attribute(_DST, underlay) + attribute(_LLADDR, mac)
    return Message(NEWNEIGH, CREATE | REPLACE, body, "fdb replace")


def delete_forwarding(link: int, mac: bytes) -> Message:
    body = _ENTRY.pack(socket.AF_BRIDGE, link, 0, _SELF, 0) + attribute(_LLADDR, mac)
    return Message(DELNEIGH, 0, body, "fdb del")


def list_neighbours(family: int, link: int = 0) -> Message:
    """Asks for all entries of the family (AF_BRIDGE: forwarding entries, of all links)."""
    body = _ENTRY.pack(family, 0, 0, 0, 0)
    if link:
        body += attribute(_IFINDEX, struct.pack("=I", link))
    return Message(GETNEIGH, DUMP, body, "neighbour dump")


def read_neighbour(body: bytes) -> Neighbour:
    """The entry in the body of an RTM_NEWNEIGH."""
    _, link, state, _, _ = _ENTRY.unpack_from(body)
    found = attributes(body, _ENTRY.size)
    return Neighbour(link, found.get(_DST, b""), found.get(_LLADDR, b""), state)
