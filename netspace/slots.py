"""The slot mapping: one index in a network is one IPv4 address, one IPv6 address, or both.

The mapping is one to one and computable in both directions, without I/O, on servers and on nodes,
so that a dual-stack pod gets both addresses in one step and a node can check every answer.

`offset`    index = distance from the start of either subnet
`embedded`  index = distance from the start of the IPv4 subnet; the IPv6 address carries the IPv4
            address in its low 32 bits (the idea of RFC 6052 with a /96 or shorter prefix)

A network with IPv4 has as many slots as its IPv4 subnet; an IPv6-only one as its IPv6 subnet.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    NetmaskValueError,
    ip_address,
)
from typing import Final, Literal, cast

from netspace.ranges import Ranges

Mapping = Literal["offset", "embedded"]
Family = Literal["ipv4", "ipv6"]
_LENGTH: Final = re.compile("0|[1-9][0-9]{0,2}")


class SlotError(ValueError):
    """An address, subnet or range that does not fit; the text says which and why."""


@dataclass(frozen=True)
class SlotMap:
    """The mapping of one network. At least one subnet; all errors are `SlotError`s."""

    ipv4: IPv4Network | None
    ipv6: IPv6Network | None
    mapping: Mapping = "offset"

    def __post_init__(self) -> None:
        if self.ipv4 is None and self.ipv6 is None:
            raise SlotError("a network needs an IPv4 subnet, an IPv6 subnet or both")
        if self.ipv4 is None or self.ipv6 is None:
            if self.mapping == "embedded":
                raise SlotError("the embedded mapping needs an IPv4 and an IPv6 subnet")
            return
        if self.mapping == "embedded" and self.ipv6.prefixlen > 96:
            raise SlotError(
                f"{self.ipv6} has no 32 bits for the IPv4 address: use a /96 or shorter"
            )
        if self.ipv6.num_addresses < self.ipv4.num_addresses:
            raise SlotError(
                f"{self.ipv6} has fewer addresses than {self.ipv4}: use a shorter prefix"
            )

    @classmethod
    def of(cls, ipv4: str | None, ipv6: str | None, mapping: Mapping = "offset") -> SlotMap:
        """The mapping of a network whose subnets are texts."""
        subnets: dict[int, IPv4Network | IPv6Network] = {}
        for version, text in ((4, ipv4), (6, ipv6)):
            if text is not None:
                subnets[version] = parse_subnet(text)
                if subnets[version].version != version:
                    raise SlotError(f"{text} is no IPv{version} subnet")
        return cls(
            cast(IPv4Network | None, subnets.get(4)),
            cast(IPv6Network | None, subnets.get(6)),
            mapping,
        )

    @cached_property
    def count(self) -> int:
        """How many indices there are, unusable ones included."""
        if self.ipv4 is not None:
            return self.ipv4.num_addresses
        assert self.ipv6 is not None
        return self.ipv6.num_addresses

    @cached_property
    def usable(self) -> Ranges:
        """All indices but the IPv4 network and broadcast address (not on /31 and /32, RFC 3021)
        and the IPv6 subnet-router anycast address (RFC 4291, 2.6.1; not on /127 and /128)."""
        first, last = 0, self.count - 1
        if self.ipv4 is not None and self.ipv4.prefixlen < 31:
            first, last = 1, last - 1
        if self.ipv6 is not None and self.ipv6.prefixlen < 127 and self.mapping == "offset":
            first = max(first, 1)
        return Ranges(((first, last),)) if first <= last else Ranges()

    def total(
        self, part: Sequence[str], excluded: Sequence[str], gateways: Sequence[str | None]
    ) -> Ranges:
        """What pools can be carved from: usable, in `part` (all where it names nothing), not
        excluded, no gateway's. A gateway outside the mapping takes nothing away."""
        total = self.usable
        if part:
            total &= self.parse_ranges(part)
        return total - self.parse_ranges(excluded) - self.taken_by(gateways)

    def taken_by(self, gateways: Sequence[str | None]) -> Ranges:
        """The slots whose addresses are the gateways'."""
        indices = []
        for gateway in gateways:
            if gateway is not None:
                with contextlib.suppress(SlotError):
                    indices.append(self.parse_index(gateway))
        return Ranges((index, index) for index in indices)

    def ipv4_of(self, index: int) -> IPv4Address | None:
        """The slot's IPv4 address; None on an IPv6-only network."""
        self._check(index)
        first, _ = self._first
        return None if first is None else IPv4Address(first + index)

    def ipv6_of(self, index: int) -> IPv6Address | None:
        """The slot's IPv6 address; None on an IPv4-only network."""
        self._check(index)
        _, first = self._first
        return None if first is None else IPv6Address(first + index)

    def texts_of(self, index: int) -> tuple[str | None, str | None]:
        """Both as `str` writes them, in a fraction of the time."""
        self._check(index)
        ipv4, ipv6 = self._first
        return (
            None if ipv4 is None else socket.inet_ntoa((ipv4 + index).to_bytes(4)),
            None if ipv6 is None else _text(ipv6 + index),
        )

    @cached_property
    def _first(self) -> tuple[int | None, int | None]:
        """The addresses of slot 0 as numbers."""
        ipv4 = None if self.ipv4 is None else int(self.ipv4.network_address)
        ipv6 = None if self.ipv6 is None else int(self.ipv6.network_address)
        if self.mapping == "embedded":
            assert ipv4 is not None and ipv6 is not None
            ipv6 += ipv4
        return ipv4, ipv6

    def index_of(self, address: IPv4Address | IPv6Address) -> int:
        """The index of the slot that has this address."""
        subnet = self.ipv4 if address.version == 4 else self.ipv6
        if subnet is None or address not in subnet:
            raise SlotError(f"{address} is not in {self}")
        index = int(address) - int(subnet.network_address)
        if address.version == 6 and self.mapping == "embedded":
            assert self.ipv4 is not None
            index -= int(self.ipv4.network_address)
        if not 0 <= index < self.count:
            raise SlotError(f"{address} is in {subnet} but belongs to no slot of {self}")
        return index

    def parse_index(self, text: str) -> int:
        """The index of the slot that has the address written in the text."""
        return self.index_of(parse_address(text))

    def parse_ranges(self, texts: Sequence[str]) -> Ranges:
        """The indices named by addresses (`10.0.0.5`), spans (`10.0.0.5-10.0.0.9`) and subnets
        (`10.0.0.0/28`), in either family."""
        return Ranges(self._parse_span(text.strip()) for text in texts)

    def format_ranges(self, ranges: Ranges) -> list[str]:
        """The intervals as spans of IPv4 addresses (of IPv6 on an IPv6-only network)."""
        spans = []
        for first, last in ranges.intervals:
            low = self.ipv4_of(first) or self.ipv6_of(first)
            high = self.ipv4_of(last) or self.ipv6_of(last)
            spans.append(str(low) if first == last else f"{low}-{high}")
        return spans

    def __str__(self) -> str:
        return " and ".join(str(subnet) for subnet in (self.ipv4, self.ipv6) if subnet is not None)

    def _check(self, index: int) -> None:
        if not 0 <= index < self.count:
            raise SlotError(f"slot {index} is outside {self}, which has {self.count} slots")

    def _parse_span(self, text: str) -> tuple[int, int]:
        if "/" in text:
            subnet = parse_subnet(text)
            first, last = subnet.network_address, subnet.broadcast_address
        elif "-" in text:
            low, _, high = text.partition("-")
            first, last = parse_address(low.strip()), parse_address(high.strip())
        else:
            first = last = parse_address(text)
        if first.version != last.version:
            raise SlotError(f"{text!r} begins in one address family and ends in the other")
        if int(first) > int(last):
            raise SlotError(f"{text!r} ends before it begins")
        return self.index_of(first), self.index_of(last)


def _text(address: int) -> str:
    text = socket.inet_ntop(socket.AF_INET6, address.to_bytes(16))
    # The two differ in where they write the last 32 bits as an IPv4 address.
    return str(IPv6Address(address)) if "." in text else text


def parse_address(text: str) -> IPv4Address | IPv6Address:
    """One address in its usual notation, no zone, no IPv4-mapped IPv6."""
    try:
        address = ip_address(text)
    except ValueError:
        raise SlotError(f"{text[:60]!r} is not an IP address") from None
    if isinstance(address, IPv6Address) and (address.scope_id or address.ipv4_mapped):
        raise SlotError(f"{text[:60]!r} is not a plain IPv6 address")
    return address


def parse_subnet(text: str) -> IPv4Network | IPv6Network:
    """A subnet with prefix length; host bits must be zero."""
    address, slash, length = text.partition("/")
    if not slash or not _LENGTH.fullmatch(length):
        raise SlotError(f"{text[:60]!r} is not a subnet with a prefix length, like 10.0.0.0/24")
    plain = parse_address(address)
    try:
        if isinstance(plain, IPv4Address):
            return IPv4Network((plain, int(length)))
        return IPv6Network((plain, int(length)))
    except (AddressValueError, NetmaskValueError):
        raise SlotError(f"{text[:60]!r} has an impossible prefix length") from None
    except ValueError:
        raise SlotError(
            f"{text[:60]!r} has host bits set: name the subnet's first address"
        ) from None
