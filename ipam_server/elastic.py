"""Pools that grow and shrink by themselves: pure rules on when, by what, and why not.

A pool grows by its step, from where it was carved, when nothing of it can be given, or ahead of
that when less than its low watermark is free. It never takes what somebody holds, or what would
have to rest in it. It gives a block back when it was not needed for its quiet time: a run of
addresses of which none is used, in cool-down, retained or in flight. It stays within its bounds,
which for an application's pool follow from the application's replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

import msgspec

from ipam_server.inventory import PoolState
from ipam_server.keys import SlotId
from ipam_server.pools import total_free
from ipam_server.records import MOST_AT_ONCE, PoolRecord, ranges_of, stored_ranges
from ipam_server.state import ClusterState
from netspace.problems import Problem
from netspace.ranges import Interval, Ranges


@dataclass(frozen=True, slots=True)
class Resize:
    """A pool's next record and the slots that come or go with it; `revision`: of the record that it
    replaces."""

    pool: str
    revision: int
    record: PoolRecord
    block: Ranges

    def __str__(self) -> str:
        size = ranges_of(self.record).size
        return f"pool {self.pool} has {size} addresses now: {self.block.size} came or went"

    @property
    def slots(self) -> tuple[SlotId, ...]:
        return tuple((self.record.network, index) for index in self.block)


def growth(state: ClusterState, pool: PoolState, now: int) -> Resize | str:
    """What the pool grows by now, or why it cannot, in words."""
    bounds = pool.record.bounds
    if bounds is None:
        return ""
    room = bounds.maximum - pool.ranges.size
    if room <= 0:
        return f"its maximum is {bounds.maximum}"
    count = max(bounds.step, bounds.minimum - pool.ranges.size)
    block = _block(state, pool, min(count, room, MOST_AT_ONCE), now)
    if not block:
        parent = pool.record.parent
        return f"{f'pool {parent}' if parent else 'the total pool'} has none left to grow from"
    return _resized(pool, pool.ranges | block, block)


def ahead(state: ClusterState, pool: PoolState, now: int) -> Resize | None:
    """What the pool grows by before it is needed."""
    bounds = pool.record.bounds
    if bounds is None:
        return None
    state.settle(pool, now)
    if pool.ranges.size >= bounds.minimum and pool.free >= bounds.low:
        return None
    found = growth(state, pool, now)
    return found if isinstance(found, Resize) else None


def spare(state: ClusterState, pool: PoolState, now: int) -> int:
    """How many addresses the pool could do without: a block of them, or none; where replicas are
    followed, all that are too many. What was used since the last look counts as used."""
    bounds = pool.record.bounds
    if bounds is None:
        return 0
    state.settle(pool, now)
    count = min(bounds.step, pool.ranges.size - bounds.minimum)
    burst = max(0, pool.peak - pool.used)
    pool.peak = pool.used
    over = pool.free - burst - bounds.low
    if pool.record.replicas is not None:
        count = min(count, over)
    return count if 0 < count <= over else 0


def shrinkage(pool: PoolState, count: int) -> Resize | None:
    """The highest run of so many free slots, or a shorter one that is all there is of a range of
    the pool; None where there is none."""

    def idle(index: int) -> bool:
        return index in pool.never or index in pool.ready

    for first, last in reversed(pool.own.intervals):
        top, wanted = last, min(count, last - first + 1)
        while top - wanted + 1 >= first:
            # From below, so that one slot in use rules out every run that it is in.
            busy = next((i for i in range(top - wanted + 1, top + 1) if not idle(i)), None)
            if busy is None:
                block = Ranges(((top - wanted + 1, top),))
                left = pool.ranges - block
                return _resized(pool, left, block) if left else None
            top = busy - 1
    return None


def given_back(pool: PoolState, count: int) -> Resize | None:
    """The block to give back: of a pool that follows its application's replicas also in smaller
    pieces, since a block of such a pool is what it has too much."""
    found = shrinkage(pool, count)
    while found is None and pool.record.replicas is not None and count > 1:
        count //= 2
        found = shrinkage(pool, count)
    return found


def sized(state: ClusterState, pool: PoolState, record: PoolRecord, now: int) -> PoolRecord:
    """A changed record with what its application's replicas need, on a state that stands still."""
    bounds = record.bounds
    if record.replicas is None or bounds is None:
        return record
    missing = bounds.minimum - pool.ranges.size
    block = _block(state, pool, missing, now) if missing > 0 else Ranges()
    if missing > block.size:
        raise Problem(
            "no-space",
            f"pool {pool.name} needs {missing} more addresses for {record.replicas} replicas, and"
            f" {pool.record.parent or 'the total pool'} has {block.size} for it",
            do="free some, or have fewer replicas",
        )
    return msgspec.structs.replace(record, ranges=stored_ranges(pool.ranges | block))


def _resized(pool: PoolState, ranges: Ranges, block: Ranges) -> Resize:
    record = msgspec.structs.replace(pool.record, ranges=stored_ranges(ranges))
    return Resize(pool.name, pool.revision, record, block)


def _block(state: ClusterState, pool: PoolState, count: int, now: int) -> Ranges:
    """Up to so many slots to grow by: next to the pool if they are free, else in one piece, else in
    several; of a parent those first that nobody has had."""
    network = state.networks[pool.record.network]
    parent = state.pools.get(pool.record.parent) if pool.record.parent else None

    def usable(index: int) -> bool:
        released = network.released.get(index)
        return (
            index not in network.held
            and (pool.record.network, index) not in state.taken
            and (released is None or pool.rested_at(released.release) <= now)
        )

    after = pool.ranges.last + 1
    beside = Ranges(((after, after + count - 1),))
    if parent is None:
        free = total_free(state, pool.record.network)
        if beside.issubset(free) and all(map(usable, beside)):
            return beside
        return _pick(free.intervals, usable, count)
    state.settle(parent, now)
    if all(index in parent.never and usable(index) for index in beside):
        return beside
    block = _pick(parent.never.intervals(), usable, count)
    rested = (index for index in parent.ready if usable(index))
    return block | Ranges((i, i) for i in islice(rested, count - block.size))


def _pick(free: Iterable[Interval], usable: Callable[[int], bool], count: int) -> Ranges:
    pieces: list[Interval] = []
    for first, last in free:
        at = first
        while at <= last:
            if not usable(at):
                at += 1
                continue
            end = at
            while end < last and end - at + 1 < count and usable(end + 1):
                end += 1
            if end - at + 1 == count:
                return Ranges(((at, end),))
            pieces.append((at, end))
            at = end + 1
    return Ranges(pieces).head(count)
