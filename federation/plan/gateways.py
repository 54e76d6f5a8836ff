"""Which of another cluster's gateways a node holds tunnels to, and which flows each of them gets.

The choice is by rendezvous hashing: each node ranks the gateways by a hash of both names, so that
nodes spread over them, and one gateway more or less changes no other's place. A gateway that only
failed probes stays chosen: its buckets go to the others and come back to it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from federation.desired import BUCKETS
from federation.plan.networks import digest
from netspace.messages.federation import FederatedNode, Layout

ORDINALS: Final = 14
"""Ordinals are 1 to this: four bits of the mark, less 0 (unmarked) and 15 (tunnels that others
brought up)."""


def is_gateway(layout: Layout, node: FederatedNode) -> bool:
    """Whether a node is a gateway of its cluster: of those that can do IPsec and have an address
    each, in centralised layout only those that say they are."""
    return (
        (layout == "distributed" or node.gateway)
        and "ipsec" in node.capabilities
        and bool(node.addresses)
    )


def choose(
    own: str,
    cluster: str,
    gateways: Collection[str],
    available: Collection[str],
    count: int,
    usable: Callable[[str], bool],
) -> list[str]:
    """The gateways of `cluster` that the node `own` (its cluster and name) holds tunnels to, in the
    order of its ranking: at most `count` of the available ones, or of all where none is said to be
    available, since the probes know better than silence. While none of those is usable but a
    tunnel to another is, as when new ones have just come, that one is kept besides."""
    offered = {name for name in available if name in gateways} or set(gateways)
    ranked = sorted(offered, key=lambda name: (digest(own, cluster, name), name), reverse=True)
    chosen = ranked[:count]
    if len(ranked) > count and count < ORDINALS and not any(map(usable, chosen)):
        chosen += [name for name in ranked[count:] if usable(name)][:1]
    return chosen


def ordinals(
    names: Sequence[str],
    before: Mapping[str, int],
    taken: Mapping[str, Collection[int]] = MappingProxyType({}),
) -> dict[str, int]:
    """An ordinal, 1 to 14, for each of at most 14 names. Who had one `before` keeps it; the others
    get one by their name, the next free one where it is in use. None gets one that is `taken` under
    its name while another is free, as is always so for so many names and so many taken ones that
    they are no more than 14 together."""
    given: dict[str, int] = {}
    for name in names:
        ordinal = before.get(name, 0)
        free = ordinal not in given.values() and ordinal not in taken.get(name, ())
        if 1 <= ordinal <= ORDINALS and free:
            given[name] = ordinal
    for name in sorted(set(names) - set(given)):
        first = int.from_bytes(digest(name)) % ORDINALS
        turn = [(first + step) % ORDINALS + 1 for step in range(ORDINALS)]
        free_ones = [each for each in turn if each not in given.values()]
        others = taken.get(name, ())
        given[name] = next((each for each in free_ones if each not in others), free_ones[0])
    return {name: given[name] for name in names}


@lru_cache(maxsize=4096)
def buckets(chosen: frozenset[int], usable: frozenset[int]) -> tuple[int, ...]:
    """By bucket the ordinal of its gateway, 0 for all where none is usable. Each of `chosen` has an
    even share as its own; a bucket whose gateway is not usable goes to the first usable one of a
    fixed list of its own, so that only buckets of gateways that fail or come back ever move."""
    return tuple(
        next((ordinal for ordinal in preference if ordinal in usable), 0)
        for preference in _preferences(chosen)
    )


@lru_cache(maxsize=1024)
def _preferences(chosen: frozenset[int]) -> tuple[tuple[int, ...], ...]:
    """By bucket all ordinals, the owner first. The lists of an owner's buckets are permutations of
    the others whose first places change fastest: what it leaves is spread evenly."""
    owners = _owners(chosen)
    ordered = sorted(chosen)
    seen = dict.fromkeys(ordered, 0)
    lists = []
    for owner in owners:
        at = ordered.index(owner)
        others = ordered[at + 1 :] + ordered[:at]
        turn, preference = seen[owner], [owner]
        seen[owner] += 1
        while others:
            turn, place = divmod(turn, len(others))
            preference.append(others.pop(place))
        lists.append(tuple(preference))
    return tuple(lists)


def _owners(chosen: frozenset[int]) -> list[int]:
    """By bucket its owner: the first in the bucket's own ranking that has not its share yet. So few
    buckets change their owner when an ordinal comes or goes."""
    if not chosen:
        return []
    share, more = divmod(BUCKETS, len(chosen))
    ordered = sorted(chosen, key=lambda ordinal: _mix(BUCKETS, ordinal))
    left = {ordinal: share + (place < more) for place, ordinal in enumerate(ordered)}
    owners = []
    for bucket in range(BUCKETS):
        free = [ordinal for ordinal in ordered if left[ordinal]]
        owner = max(free, key=lambda ordinal: _mix(bucket, ordinal))
        left[owner] -= 1
        owners.append(owner)
    return owners


@lru_cache(maxsize=2**11)
def _mix(bucket: int, ordinal: int) -> int:
    return int.from_bytes(digest(str(bucket), str(ordinal)))
