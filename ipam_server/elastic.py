"""Pools that grow and shrink by themselves: pure rules on when, by what, and why not.

A pool grows by its step, from where it was carved, when nothing of it can be given, or ahead of
that when less than its low watermark is free. Where the pool that it is nested in has none left,
that one grows in the same step, and so on to the total pool. It never takes what somebody holds, or
what would have to rest in it. It gives a block back when it was not needed for its quiet time: a
run of addresses of which none is used, in cool-down, retained or in flight. It stays within its
bounds, which for an application's pool follow from the application's replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

import msgspec

from ipam_server.inventory import PoolState
from ipam_server.keys import SlotId
from ipam_server.pools import total_free
from ipam_server.records import MOST_AT_ONCE, PoolRecord, stored_ranges
from ipam_server.state import ClusterState
from netspace.problems import Problem
from netspace.ranges import Interval, Ranges


@dataclass(frozen=True, slots=True)
class Resize:
    """A pool's next record and the slots that come or go with it; `revision`: of the record that it
    replaces. `outer`: how the pool that it is nested in grows in the same step."""

    pool: str
    revision: int
    record: PoolRecord
    block: Ranges
    outer: Resize | None = None

    @property
    def levels(self) -> tuple[Resize, ...]:
        """What becomes of this pool, then of those around it."""
        return (self, *(self.outer.levels if self.outer else ()))

    @property
    def slots(self) -> tuple[SlotId, ...]:
        """All that comes or goes at any level."""
        blocks = Ranges(interval for level in self.levels for interval in level.block.intervals)
        return tuple((self.record.network, index) for index in blocks)


def growth(
    state: ClusterState,
    pool: PoolState,
    now: int,
    wanted: int = 1,
    inner: tuple[PoolState, ...] = (),
) -> Resize | str:
    """What the pool grows by now, or why it cannot, in words. It grows for the pools `inner` as
    well, of which the first, nested in it, wants so many."""
    limit, bounds = _limit(pool), pool.record.bounds
    if limit is not None or bounds is None:
        return limit or ""
    size = pool.ranges.size
    count = min(
        max(bounds.step, bounds.minimum - size, wanted), bounds.maximum - size, MOST_AT_ONCE
    )
    block, outer = _space(state, (pool, *inner), count, 1, now)
    if isinstance(outer, str):
        return outer
    return _resized(pool, pool.ranges | block, block, outer)


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


def sized(state: ClusterState, pool: PoolState, record: PoolRecord, now: int) -> Resize:
    """A changed record with what its application's replicas need, on a state that stands still."""
    bounds = record.bounds
    missing = 0
    if record.replicas is not None and bounds is not None:
        missing = max(0, bounds.minimum - pool.ranges.size)
    block, outer = _space(state, (pool,), missing, missing, now) if missing else (Ranges(), None)
    if isinstance(outer, str):
        raise Problem(
            "no-space",
            f"pool {pool.name} needs {missing} more addresses for {record.replicas} replicas,"
            f" and there are {block.size} for it; {outer}",
            do="free some, or have fewer replicas",
        )
    record = msgspec.structs.replace(record, ranges=stored_ranges(pool.ranges | block))
    return Resize(pool.name, pool.revision, record, block, outer)


def _resized(pool: PoolState, ranges: Ranges, block: Ranges, outer: Resize | None = None) -> Resize:
    record = msgspec.structs.replace(pool.record, ranges=stored_ranges(ranges))
    return Resize(pool.name, pool.revision, record, block, outer)


def _limit(pool: PoolState) -> str | None:
    """What keeps a pool from growing wherever there is space; None where nothing does."""
    bounds = pool.record.bounds
    if bounds is None:
        return ""
    return None if pool.ranges.size < bounds.maximum else f"its maximum is {bounds.maximum}"


def _space(
    state: ClusterState, pools: tuple[PoolState, ...], count: int, need: int, now: int
) -> tuple[Ranges, Resize | str | None]:
    """Up to so many slots for the first of the pools, which lies around the others, and how the
    pool around it grows where it has less than is needed; in words why there is less all the
    same."""
    pool, network = pools[0], state.networks[pools[0].record.network]
    parent = state.pools.get(pool.record.parent or "")

    def usable(index: int) -> bool:
        released = network.released.get(index)
        return (
            index not in network.held
            and (pool.record.network, index) not in state.taken
            and (pool.record.network, index) not in state.disputed
            and (released is None or all(each.rested_at(released.release) <= now for each in pools))
        )

    if parent is None:
        free = total_free(state, pool.record.network)
        block = _near(pool, free, usable, count)
        return block, None if block.size >= need else _total_use(state, pool.record.network, free)
    state.settle(parent, now)
    block = _near(pool, parent.never.ranges(), usable, count)
    rested = (index for index in parent.ready if usable(index))
    block |= Ranges((i, i) for i in islice(rested, count - block.size))
    if block.size >= need:
        return block, None
    if (limit := _limit(parent)) is not None:
        return block, _use(state, parent, limit)
    outer = growth(state, parent, now, count - block.size, pools)
    if isinstance(outer, str):
        return block, outer
    block |= _near(pool, outer.block, usable, count - block.size)
    return block, outer if block.size >= need else _use(state, parent, "it cannot grow by more")


def _use(state: ClusterState, pool: PoolState, limit: str) -> str:
    nested = (state.nested(pool.name) & pool.ranges).size
    parts = (
        (pool.used, "used"),
        (nested, "in nested pools"),
        (len(pool.cooling), "in cool-down"),
        (len(pool.retained), "retained"),
    )
    told = ", ".join(f"{count} {what}" for count, what in parts if count)
    return (
        f"pool {pool.name} has none left to grow from: it has {pool.ranges.size} addresses"
        f"{f', {told}' if told else ''}{f'; {limit}' if limit else ''}"
    )


def _total_use(state: ClusterState, network: str, free: Ranges) -> str:
    total = state.networks[network].total.size
    return (
        f"the total pool has none left to grow from: network {network} has {total} addresses,"
        f" {total - free.size} in pools"
    )


def _near(pool: PoolState, free: Ranges, usable: Callable[[int], bool], count: int) -> Ranges:
    """Up to so many slots: next to the pool if they are free, else in one piece, else in
    several."""
    after = pool.ranges.last + 1
    beside = Ranges(((after, after + count - 1),))
    if beside.issubset(free) and all(map(usable, beside)):
        return beside
    return _pick(free.intervals, usable, count)


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
