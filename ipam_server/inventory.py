"""The things that a cluster's state consists of: holders, releases, networks and pools with the
queues of their free slots. `ClusterState` alone changes them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

import msgspec

from ipam_server.indices import SortedIndices
from ipam_server.queues import NeverUsed, ReleaseQueue
from ipam_server.records import (
    AbsencesRecord,
    FencingRecord,
    Holder,
    NamespaceRecord,
    NetworkRecord,
    PoolRecord,
    Release,
    ranges_of,
)
from netspace.ranges import Ranges
from netspace.slots import SlotMap


# A million of these: nothing in them leads back to them, so the garbage collector's 16 bytes each
# are saved, and what many of them say alike is kept once.
class Held(msgspec.Struct, frozen=True, gc=False):
    """A holder and its generation: the etcd revision at which it got the slot."""

    holder: Holder
    generation: int


class Released(msgspec.Struct, frozen=True, gc=False):
    """A past holder and the revision of its release."""

    release: Release
    revision: int

    @property
    def order(self) -> tuple[int, int]:
        return self.revision, self.release.sequence


class Absences(msgspec.Struct, frozen=True):
    """What a node's last report missed, and the revision of the report."""

    record: AbsencesRecord
    revision: int


class Fenced(msgspec.Struct, frozen=True):
    """What was said of a fenced node, and the revision of the last word."""

    record: FencingRecord
    revision: int


class Namespaced(msgspec.Struct, frozen=True):
    """What a namespace chooses by default, and since which revision."""

    record: NamespaceRecord
    revision: int


def slot_map(record: NetworkRecord) -> SlotMap:
    """The mapping of a stored network."""
    return SlotMap.of(record.ipv4, record.ipv6, record.mapping)


def total_of(record: NetworkRecord) -> Ranges:
    """The indices that pools may be carved from: usable, in range, not excluded, no gateway."""
    gateways = (record.gateway4, record.gateway6)
    return slot_map(record).total(record.range, record.exclude, gateways)


def gateway_indices(slots: SlotMap, record: NetworkRecord) -> Ranges:
    """The slots whose addresses are the gateways': none for a gateway outside the mapping."""
    return slots.taken_by((record.gateway4, record.gateway6))


class NetworkState:
    """A network, its holders, its releases, and which pool owns which index. `indices`: all that
    are held or released, in order."""

    __slots__ = (
        "_firsts",
        "_owners",
        "held",
        "indices",
        "record",
        "released",
        "reservations",
        "revision",
        "slots",
        "total",
    )

    def __init__(self, record: NetworkRecord, revision: int) -> None:
        self.held: dict[int, Held] = {}
        self.released: dict[int, Released] = {}
        self.indices = SortedIndices()
        self.reservations: set[int] = set()
        self._firsts: list[int] = []
        self._owners: list[tuple[int, PoolState]] = []
        self.declare(record, revision)

    def declare(self, record: NetworkRecord, revision: int) -> None:
        self.record, self.revision = record, revision
        self.slots = slot_map(record)
        self.total = total_of(record)

    def owner(self, index: int) -> PoolState | None:
        """The pool that an index belongs to."""
        at = bisect_right(self._firsts, index) - 1
        if at < 0:
            return None
        last, pool = self._owners[at]
        return pool if index <= last else None

    def know(self, index: int) -> None:
        """Keeps an index among those in order as long as it is held or released."""
        if index in self.held or index in self.released:
            self.indices.add(index)
        else:
            self.indices.discard(index)

    def own(self, pools: Iterable[PoolState]) -> None:
        """Takes over which pool owns what, from the pools' own ranges."""
        intervals = sorted(
            (first, last, pool.name, pool) for pool in pools for first, last in pool.own.intervals
        )
        self._firsts = [first for first, *_ in intervals]
        self._owners = [(last, pool) for _, last, _, pool in intervals]

    def touched(self, within: Ranges) -> Iterator[int]:
        """Every index in the ranges that is held or released; costs the smaller of the two."""
        for known in (self.held, self.released):
            if within.size < len(known):
                yield from (index for index in within if index in known)
            else:
                yield from (index for index in known if index in within)


class PoolState:
    """A pool and the queues of its free slots. `own`: its usable indices less nested pools'.
    `retained`: released slots that are kept for the names that had them. `peak`: the most that were
    used at once since somebody looked."""

    __slots__ = (
        "cooling", "name", "never", "own", "peak", "ranges", "ready", "record", "retained",
        "revision", "size", "used",
    )  # fmt: skip

    def __init__(self, name: str, record: PoolRecord, revision: int) -> None:
        self.name, self.record, self.revision = name, record, revision
        self.ranges = ranges_of(record)
        self.start(Ranges())

    def start(self, own: Ranges) -> None:
        """Begins anew with these own indices, all of them never used."""
        self.own, self.size, self.used, self.peak = own, own.size, 0, 0
        self.never = NeverUsed(own)
        self.cooling, self.retained, self.ready = ReleaseQueue(), ReleaseQueue(), ReleaseQueue()

    def resizes(self, record: PoolRecord) -> bool:
        """Whether the record changes nothing of the queues but how far they reach: no other field
        than the ranges, who may name the pool, whose it is and its bounds."""
        return self.record == msgspec.structs.replace(
            record,
            namespaces=self.record.namespaces,
            ranges=self.record.ranges,
            elastic=self.record.elastic,
            probe=self.record.probe,
            replicas=self.record.replicas,
            surplus=self.record.surplus,
            owner=self.record.owner,
        )

    @property
    def free(self) -> int:
        """How many slots can be given now, as far as `settle` has found out."""
        return self.never.count + len(self.ready)

    def retains(self, release: Release) -> bool:
        """Whether the slot is kept for the name that had it, beyond the cool-down."""
        return release.identity is not None and self.record.retention > self.record.cooldown

    def rested_at(self, release: Release) -> int:
        """When, by the cluster's clock, others than the name that had it may get the slot."""
        seconds = self.record.retention if self.retains(release) else self.record.cooldown
        return release.at + int(seconds * 1000)

    def depart(self, index: int) -> None:
        """Takes the index out of whichever queue it is in."""
        self.never.discard(index)
        self.cooling.discard(index)
        self.retained.discard(index)
        self.ready.discard(index)
