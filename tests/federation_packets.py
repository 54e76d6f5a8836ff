"""IP packets byte by byte, for tests of what looks into them."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address


def packet4(
    source: IPv4Address,
    destination: IPv4Address,
    protocol: int,
    sport: int = 0,
    dport: int = 0,
    *,
    options: int = 0,
    fragment: int = 0,
) -> bytes:
    """`options`: 32-bit words of them; `fragment`: the field of flags and offset."""
    payload = struct.pack("!HH", sport, dport) + bytes(16)
    length = 20 + 4 * options
    head = struct.pack(
        "!BBHHHBBH",
        0x40 | length // 4,
        0,
        length + len(payload),
        1,
        fragment,
        64,
        protocol,
        0,
    )
    # No-operation options; an end-of-options would do as well.
    return head + source.packed + destination.packed + b"\x01" * 4 * options + payload


def packet6(
    source: IPv6Address, destination: IPv6Address, following: int, sport: int = 0, dport: int = 0
) -> bytes:
    """`following`: the next header's number."""
    payload = struct.pack("!HH", sport, dport) + bytes(16)
    head = struct.pack("!IHBB", 0x6 << 28, len(payload), following, 64)
    return head + source.packed + destination.packed + payload
