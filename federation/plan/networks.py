"""Addresses and ranges as plans handle them: parsed once, told apart by family, hashed.

`socket` is only used to parse: nothing here opens one.
"""

from __future__ import annotations

import socket
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from federation.desired import Network
from netspace.messages.federation import FederatedNode

EVERYTHING: Final[dict[int, Network]] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}
"""Any address, by family."""


@lru_cache(maxsize=2**18)
def network(text: str) -> Network:
    """A range, or a single address as a range of one. Raises ValueError."""
    address, _, length = text.partition("/")
    # From numbers the standard library makes them in half the time.
    if ":" in text:
        return IPv6Network((number(address), int(length or 128)), strict=False)
    return IPv4Network((number(address), int(length or 32)), strict=False)


def networks(texts: Iterable[str], ipv6: bool = True) -> tuple[Network, ...]:
    """The ranges in order, each once; without `ipv6` those of IPv4 alone."""
    parsed = {network(text) for text in texts if ipv6 or ":" not in text}
    return tuple(sorted(parsed, key=order))


def readable(texts: Iterable[str]) -> tuple[Network, ...]:
    """The ranges in order, each once, however they are written; what is none is left out."""
    return tuple(sorted({one for text in texts if (one := _read(text)) is not None}, key=order))


@lru_cache(maxsize=2**16)
def _read(text: str) -> Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def order(one: Network) -> tuple[int, int, int]:
    """What ranges of both families are sorted by."""
    return one.version, int(one.network_address), one.prefixlen


def family(address: str) -> int:
    return 6 if ":" in address else 4


def number(address: str) -> int:
    """An address as a number. Raises ValueError."""
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return int.from_bytes(socket.inet_pton(kind, address))
    except OSError as error:
        raise ValueError(f"{address!r} is no address") from error


def ends(node: FederatedNode) -> dict[int, str]:
    """The addresses that tunnels of a node end at: the first of each family."""
    found: dict[int, str] = {}
    for address in node.addresses:
        found.setdefault(family(address), address)
    return found


def pair_of_ends(one: dict[int, str], other: dict[int, str]) -> tuple[str, str] | None:
    """The ends of a tunnel between two nodes, of IPv4 before IPv6; None: no family in common."""
    for version in (4, 6):
        if version in one and version in other:
            return one[version], other[version]
    return None


def inside(addresses: Iterable[str], ranges: Sequence[Network]) -> list[str]:
    """Those of the addresses that lie in one of the ranges."""
    spans = {version: _spans(version, ranges) for version in (4, 6)}
    firsts = {version: [first for first, _ in known] for version, known in spans.items()}
    held = []
    for address in addresses:
        version = family(address)
        if spans[version]:
            value = number(address)
            at = bisect_right(firsts[version], value) - 1
            if at >= 0 and value <= spans[version][at][1]:
                held.append(address)
    return held


def _spans(version: int, ranges: Sequence[Network]) -> list[tuple[int, int]]:
    """First and last of a family's ranges in order; of two ranges one lies in the other or they
    are apart."""
    spans: list[tuple[int, int]] = []
    for one in sorted((each for each in ranges if each.version == version), key=order):
        first, last = int(one.network_address), int(one.broadcast_address)
        if not spans or last > spans[-1][1]:
            spans.append((first, last))
    return spans


def digest(*parts: str, size: int = 8) -> bytes:
    """A hash of names that is the same on every node and for ever."""
    return blake2b("\0".join(parts).encode(), digest_size=size).digest()
