"""Which ranges of two clusters overlap, pure.

In a federation a federated range of one cluster must be nothing else in another: no federated
range, no Service CIDR, no node's address.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network
from typing import Literal

from netspace.messages.federation import ClusterInfo, Member

What = Literal["range", "Service CIDR", "node address"]
_Interval = tuple[int, int, int, str, What]
"""Version, first and last address as numbers, how it was written, what it is."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What is a cluster's: `ranges` and `services` as subnets, `nodes` as addresses."""

    cluster: str
    ranges: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Overlap:
    """`one` and `other` as they were written; at least one of them is a federated range."""

    cluster: str
    one: str
    what: What
    other_cluster: str
    other: str
    other_what: What

    def __str__(self) -> str:
        return (
            f"{self.what} {self.one} of cluster {self.cluster} overlaps"
            f" {self.other_what} {self.other} of cluster {self.other_cluster}"
        )


def of_info(info: ClusterInfo) -> Claims:
    nodes = tuple(address for node in info.nodes for address in node.addresses)
    return Claims(info.cluster, tuple(info.ranges), tuple(info.services), nodes)


def of_member(member: Member) -> Claims:
    return Claims(member.cluster, tuple(member.ranges), tuple(member.services))


def overlap(one: Claims, other: Claims) -> Overlap | None:
    """The first overlap of the two by address, None where there is none. ValueError for what is
    no subnet."""
    mine, theirs = _intervals(one), _intervals(other)
    merged = sorted([(*each, 0) for each in mine] + [(*each, 1) for each in theirs])
    # For each side, what federated and what other interval reaches furthest of those begun.
    furthest: dict[tuple[int, bool], tuple[int, int, str, What]] = {}
    for version, first, last, text, what, side in merged:
        for federated in (True, False):
            if not federated and what != "range":
                continue
            reach = furthest.get((1 - side, federated))
            if reach is not None and reach[0] == version and reach[1] >= first:
                pair = (text, what), (reach[2], reach[3])
                (a, b) = pair if side == 0 else (pair[1], pair[0])
                return Overlap(one.cluster, *a, other.cluster, *b)
        key = (side, what == "range")
        before = furthest.get(key)
        if before is None or before[0] != version or before[1] < last:
            furthest[key] = (version, last, text, what)
    return None


def first_overlap(new: Claims, others: Iterable[Claims]) -> Overlap | None:
    """The first with any other cluster."""
    for other in others:
        if other.cluster != new.cluster and (found := overlap(new, other)):
            return found
    return None


def _intervals(claims: Claims) -> list[_Interval]:
    found: list[_Interval] = []
    parts: tuple[tuple[What, Sequence[str]], ...] = (
        ("range", claims.ranges),
        ("Service CIDR", claims.services),
        ("node address", claims.nodes),
    )
    for what, texts in parts:
        for text in texts:
            found.append((*_span(text), text, what))
    return found


@lru_cache(maxsize=65_536)
def _span(text: str) -> tuple[int, int, int]:
    """Clusters are compared with each other member, and have thousands of nodes."""
    network = ip_network(text)
    first = int(network.network_address)
    return network.version, first, first + network.num_addresses - 1
