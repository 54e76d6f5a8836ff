"""What a pod's interface may send: frames under its own hardware and IP addresses. Pure.

An ordered list of rules over a frame's bytes, the first that matches decides; and the same list as
a program for the kernel's two ways to look at what a link sends: classic BPF, and expressions of
nftables.

Source: RFC 826 (ARP), RFC 4861, 4 (neighbour discovery; every such packet has the hop limit 255),
RFC 4291, 2.5.6 (link-local addresses), linux/filter.h, linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from hostnet.rtnetlink import attribute

_SOURCE_MAC, _TYPE = 6, 12
_ARP_MAC, _ARP_ADDRESS, _IPV4_SOURCE = 22, 28, 26
_NEXT_HEADER, _HOP_LIMIT, _IPV6_SOURCE, _ICMPV6_TYPE, _TARGET = 20, 21, 22, 54, 62
_IPV4, _ARP, _IPV6 = b"\x08\x00", b"\x08\x06", b"\x86\xdd"
_TAGS: Final = (b"\x81\x00", b"\x88\xa8", b"\x91\x00")
"""VLAN tags: behind one of priority only (VLAN 0) stands what another host takes for untagged."""
_ICMPV6, _HOP_BY_HOP = b"\x3a", b"\x00"
_ROUTER_ADVERTISEMENT, _SOLICITATION, _ADVERTISEMENT, _REDIRECT = b"\x86", b"\x87", b"\x88", b"\x89"
_EXTENSIONS: Final = (b"\x00", b"\x2b", b"\x2c", b"\x33", b"\x3c", b"\x87")
"""Hop-by-hop, routing, fragment, authentication, destination, mobility: neighbour discovery behind
one of them would be overlooked."""


@dataclass(frozen=True, slots=True)
class Match:
    """The bytes of the frame from `at` on are these; or, with `other`, are not."""

    at: int
    value: bytes
    other: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """What to do with a frame that all of these match; one that is too short for a match has it
    not. What no rule decides is dropped."""

    matches: tuple[Match, ...]
    accept: bool = False


def link_local(mac: bytes) -> IPv6Address:
    """The address that a link gives itself by its hardware address."""
    return IPv6Address(
        b"\xfe\x80" + bytes(6) + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]
    )


@dataclass(frozen=True, slots=True)
class Sources:
    """What a link may send under: its hardware address and its IP addresses. With an IPv6 address
    it also has its link-local one."""

    mac: bytes
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()

    @property
    def four(self) -> list[bytes]:
        return [address.packed for address in self.addresses if address.version == 4]

    @property
    def six(self) -> list[bytes]:
        own = [address.packed for address in self.addresses if address.version == 6]
        return [*own, link_local(self.mac).packed] if own else own


def rules_of(own: Sources) -> tuple[Rule, ...]:
    """The rules for a pod's link. Under no IPv6 address at all it finds out whether one of its own
    is free and joins groups; it is no router."""
    mac, four, six = own.mac, own.four, own.six
    mine = Match(_SOURCE_MAC, mac)
    rules = [Rule((Match(_SOURCE_MAC, mac, other=True),))]
    rules += _ipv4(four) + _arp(mac, four) + _ipv6(six)
    rules += [Rule((Match(_TYPE, tag),)) for tag in _TAGS]
    return (*rules, Rule((mine,), accept=True))


def _ipv4(own: Sequence[bytes]) -> list[Rule]:
    kind = Match(_TYPE, _IPV4)
    return [*(Rule((kind, Match(_IPV4_SOURCE, each)), accept=True) for each in own), Rule((kind,))]


def _arp(mac: bytes, own: Sequence[bytes]) -> list[Rule]:
    kind, sender = Match(_TYPE, _ARP), Match(_ARP_MAC, mac)
    # Without a sender's address it is a probe, of which nobody learns anything.
    said = (*own, bytes(4)) if own else ()
    return [
        *(Rule((kind, sender, Match(_ARP_ADDRESS, each)), accept=True) for each in said),
        Rule((kind,)),
    ]


def _ipv6(own: Sequence[bytes]) -> list[Rule]:
    kind = Match(_TYPE, _IPV6)
    if not own:
        return [Rule((kind,))]
    icmp = (kind, Match(_NEXT_HEADER, _ICMPV6))
    foreign = tuple(Match(_TARGET, each, other=True) for each in own)
    unspecified = Match(_IPV6_SOURCE, bytes(16))
    asking = Match(_ICMPV6_TYPE, _SOLICITATION)
    rules = [
        Rule((kind, Match(_HOP_LIMIT, b"\xff"), Match(_NEXT_HEADER, each))) for each in _EXTENSIONS
    ]
    rules += [
        Rule((*icmp, Match(_ICMPV6_TYPE, each))) for each in (_ROUTER_ADVERTISEMENT, _REDIRECT)
    ]
    rules.append(Rule((*icmp, Match(_ICMPV6_TYPE, _ADVERTISEMENT), *foreign)))
    rules += [Rule((kind, Match(_IPV6_SOURCE, each)), accept=True) for each in own]
    rules += [Rule((*icmp, asking, unspecified, Match(_TARGET, each)), accept=True) for each in own]
    rules.append(Rule((kind, Match(_NEXT_HEADER, _HOP_BY_HOP), unspecified), accept=True))
    return [*rules, Rule((kind,))]


class Template(NamedTuple):
    """Bytes made of one link's sources, to be filled in for any other with as many addresses:
    at each of these places stands one of its addresses, by their number in `_values`."""

    data: bytes
    places: tuple[tuple[int, int], ...]

    def filled(self, own: Sources) -> bytes:
        values, data = _values(own), bytearray(self.data)
        for at, number in self.places:
            value = values[number]
            data[at : at + len(value)] = value
        return bytes(data)


def template(four: int, six: int, made: Callable[[Sources], bytes]) -> Template:
    """What `made` makes of links with so many addresses of each family. Making it takes as long as
    all the rest of a filter, and only the addresses differ."""
    sample = Sources(
        _SAMPLE_MAC,
        (
            *(IPv4Address(_SAMPLE[:3] + bytes((number,))) for number in range(four)),
            *(IPv6Address(_SAMPLE + bytes((number,))) for number in range(six)),
        ),
    )
    data = made(sample)
    places = []
    for number, value in enumerate(_values(sample)):
        at = data.find(value)
        while at >= 0:
            places.append((at, number))
            at = data.find(value, at + len(value))
    return Template(data, tuple(places))


def _values(own: Sources) -> list[bytes]:
    return [own.mac, *own.four, *own.six]


_SAMPLE_MAC: Final = bytes.fromhex("a65c931de742")
_SAMPLE: Final = bytes.fromhex("c96bf3d53e8817f2a94cb1760dea95")
"""Bytes that stand for nothing else in a filter."""
_MOST: Final = 128
"""Pieces that are kept: most of a pod's rules are every pod's."""
_LOAD: Final = {4: 0x20, 2: 0x28, 1: 0x30}
_EQUAL, _RETURN = 0x15, 0x06
_OK, _SHOT = 0, 2
_TEST = struct.Struct("=HBBIHBBI")
_RETURNS = struct.Struct("=HBBI")


def bpf_program(rules: Sequence[Rule]) -> bytes:
    """The rules as classic BPF that returns what tc does with the frame (`sock_filter`s). Jumps go
    forward by 255 instructions at most: a pod may have some 25 addresses. A frame that is too short
    for a load passes: nobody could read in it what the rules look for."""
    return b"".join(map(_bpf_rule, rules)) + _RETURNS.pack(_RETURN, 0, 0, _SHOT)


@lru_cache(_MOST)
def _bpf_rule(rule: Rule) -> bytes:
    words = [_words(match) for match in rule.matches]
    whole = 2 * sum(map(len, words)) + 1
    done, at = [], 0
    for match, loads in zip(rule.matches, words, strict=True):
        end = at + 2 * len(loads)
        for offset, width, value in loads:
            at += 2
            # Counted from the next instruction: to the rule's end, and to the next match.
            past, on = whole - at, end - at
            if match.other:
                hit, miss = (0 if on else past), on
            else:
                hit, miss = 0, past
            done.append(_TEST.pack(_LOAD[width], 0, 0, offset, _EQUAL, hit, miss, value))
    return b"".join(done) + _RETURNS.pack(_RETURN, 0, 0, _OK if rule.accept else _SHOT)


def _words(match: Match) -> list[tuple[int, int, int]]:
    """Offset, width and number of each load that the match takes."""
    found, at = [], 0
    while left := len(match.value) - at:
        width = 4 if left >= 4 else 2 if left >= 2 else 1
        value = int.from_bytes(match.value[at : at + width], "big")
        found.append((match.at + at, width, value))
        at += width
    return found


_LINK_LAYER, _REGISTER, _VERDICT = 0, 1, 0
_DROP, _ACCEPT = 0, 1


@lru_cache(_MOST)
def nft_rule(rule: Rule) -> bytes:
    """The rule as a list of nftables' expressions (NFTA_RULE_EXPRESSIONS)."""
    found = []
    loaded: tuple[int, int] | None = None
    for match in rule.matches:
        if loaded != (place := (match.at, len(match.value))):
            loaded = place
            found.append(_loading(*place))
        found.append(_comparing(match.value, match.other))
    return b"".join(found) + _deciding(rule.accept)


@lru_cache(_MOST)
def _loading(at: int, size: int) -> bytes:
    return _expression(b"payload", _numbers(_REGISTER, _LINK_LAYER, at, size))


@lru_cache(_MOST)
def _comparing(value: bytes, other: bool) -> bytes:
    compared = _numbers(_REGISTER, int(other)) + attribute(3, attribute(1, value))
    return _expression(b"cmp", compared)


@lru_cache
def _deciding(accept: bool) -> bytes:
    verdict = attribute(2, attribute(2, _numbers(_ACCEPT if accept else _DROP)))
    return _expression(b"immediate", _numbers(_VERDICT) + verdict)


def _expression(name: bytes, data: bytes) -> bytes:
    return attribute(1, attribute(1, name + b"\0") + attribute(2, data))


def _numbers(*values: int) -> bytes:
    """Attributes 1, 2, … with one number each, in the network's byte order."""
    return b"".join(
        attribute(at, struct.pack("!I", value)) for at, value in enumerate(values, start=1)
    )
