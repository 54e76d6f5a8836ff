"""Sets of slot indices as sorted, disjoint, inclusive intervals.

A `Ranges` is an immutable value; every operation costs what the number of its intervals costs,
never what the number of indices in them does, so a /8 and a /64 cost what a /24 costs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

Interval = tuple[int, int]
"""First and last index, both included."""


class Ranges:
    """An immutable set of non-negative integers of any size.

    Built from intervals in any order; touching and overlapping ones are joined, so two equal sets
    have equal intervals.
    """

    __slots__ = ("_firsts", "intervals")

    intervals: tuple[Interval, ...]

    def __init__(self, intervals: Iterable[Interval] = ()) -> None:
        joined: list[Interval] = []
        for first, last in sorted(intervals):
            if first < 0 or last < first:
                raise ValueError(f"{first}-{last} is not an interval")
            if joined and first <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(joined[-1][1], last))
            else:
                joined.append((first, last))
        self.intervals = tuple(joined)
        self._firsts = [first for first, _ in joined]

    @classmethod
    def single(cls, index: int) -> Ranges:
        """The set of one index."""
        return cls(((index, index),))

    @property
    def size(self) -> int:
        """How many indices the set has."""
        return sum(last - first + 1 for first, last in self.intervals)

    @property
    def first(self) -> int:
        """The lowest index; `IndexError` where the set is empty."""
        return self.intervals[0][0]

    @property
    def last(self) -> int:
        """The highest index; `IndexError` where the set is empty."""
        return self.intervals[-1][1]

    def __contains__(self, index: object) -> bool:
        if not isinstance(index, int):
            return False
        at = bisect_right(self._firsts, index) - 1
        return at >= 0 and index <= self.intervals[at][1]

    def __iter__(self) -> Iterator[int]:
        for first, last in self.intervals:
            yield from range(first, last + 1)

    def __bool__(self) -> bool:
        return bool(self.intervals)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self.intervals == other.intervals

    def __hash__(self) -> int:
        return hash(self.intervals)

    def __repr__(self) -> str:
        return f"Ranges({', '.join(f'{a}-{b}' for a, b in self.intervals)})"

    def __or__(self, other: Ranges) -> Ranges:
        return Ranges((*self.intervals, *other.intervals))

    def __and__(self, other: Ranges) -> Ranges:
        mine, theirs = self.intervals, other.intervals
        shared: list[Interval] = []
        i = j = 0
        while i < len(mine) and j < len(theirs):
            first = max(mine[i][0], theirs[j][0])
            last = min(mine[i][1], theirs[j][1])
            if first <= last:
                shared.append((first, last))
            if mine[i][1] < theirs[j][1]:
                i += 1
            else:
                j += 1
        return Ranges(shared)

    def __sub__(self, other: Ranges) -> Ranges:
        left: list[Interval] = []
        theirs = other.intervals
        j = 0
        for first, last in self.intervals:
            while j < len(theirs) and theirs[j][1] < first:
                j += 1
            k = j
            while k < len(theirs) and theirs[k][0] <= last:
                if theirs[k][0] > first:
                    left.append((first, theirs[k][0] - 1))
                first = theirs[k][1] + 1
                k += 1
            if first <= last:
                left.append((first, last))
        return Ranges(left)

    def issubset(self, other: Ranges) -> bool:
        """Whether every index of this set is in the other."""
        return not self - other

    def head(self, count: int) -> Ranges:
        """The lowest `count` indices, or all where there are fewer."""
        taken: list[Interval] = []
        for first, last in self.intervals:
            if count <= 0:
                break
            taken.append((first, min(last, first + count - 1)))
            count -= last - first + 1
        return Ranges(taken)

    def tail(self, count: int) -> Ranges:
        """The highest `count` indices, or all where there are fewer."""
        taken: list[Interval] = []
        for first, last in reversed(self.intervals):
            if count <= 0:
                break
            taken.append((max(first, last - count + 1), last))
            count -= last - first + 1
        return Ranges(taken)

    def block(self, count: int) -> Ranges:
        """The lowest interval that holds `count` indices in a row, cut to them; empty if none."""
        for first, last in self.intervals:
            if last - first + 1 >= count:
                return Ranges(((first, first + count - 1),))
        return Ranges()
