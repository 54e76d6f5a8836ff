"""The order in which a pool gives its free slots: never-used ones by index, released ones by the
order of their release. Every step costs the same whatever the pool's size.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator

from netspace.ranges import Interval, Ranges

Order = tuple[int, int]
"""etcd's revision of the release, then its sequence number inside that revision: never a clock."""


class NeverUsed:
    """The slots of a pool that nobody has had yet, as intervals that shrink from the front."""

    __slots__ = ("_firsts", "_lasts", "count")

    def __init__(self, ranges: Ranges) -> None:
        self._firsts = [first for first, _ in ranges.intervals]
        self._lasts = [last for _, last in ranges.intervals]
        self.count = ranges.size

    def first(self) -> int | None:
        """The lowest index; None where there is none."""
        return self._firsts[0] if self._firsts else None

    def __contains__(self, index: int) -> bool:
        at = bisect_right(self._firsts, index) - 1
        return at >= 0 and index <= self._lasts[at]

    def discard(self, index: int) -> None:
        """Takes the index out; nothing happens where it is not in."""
        at = bisect_right(self._firsts, index) - 1
        if at < 0 or index > self._lasts[at]:
            return
        if index == self._firsts[at] < self._lasts[at]:
            self._firsts[at] = index + 1
            self.count -= 1
        else:
            self.discard_all(index, index)

    def add(self, index: int) -> None:
        """Puts the index in; nothing happens where it is in."""
        if index not in self:
            self.add_all(index, index)

    def discard_all(self, first: int, last: int) -> None:
        """Takes out whatever of an interval is in."""
        low = bisect_right(self._firsts, first) - 1
        if low < 0 or self._lasts[low] < first:
            low += 1
        high = bisect_right(self._firsts, last)
        if low >= high:
            return
        firsts, lasts = self._firsts[low:high], self._lasts[low:high]
        left = [(firsts[0], first - 1)] if firsts[0] < first else []
        right = [(last + 1, lasts[-1])] if lasts[-1] > last else []
        self.count -= sum(lasts) - sum(firsts) + len(firsts)
        self.count += sum(b - a + 1 for a, b in left + right)
        self._firsts[low:high] = [a for a, _ in left + right]
        self._lasts[low:high] = [b for _, b in left + right]

    def add_all(self, first: int, last: int) -> None:
        """Puts an interval in of which nothing is in."""
        at = bisect_right(self._firsts, first)
        self.count += last - first + 1
        low = high = at
        if at > 0 and self._lasts[at - 1] == first - 1:
            low, first = at - 1, self._firsts[at - 1]
        if at < len(self._firsts) and self._firsts[at] == last + 1:
            high, last = at + 1, self._lasts[at]
        self._firsts[low:high], self._lasts[low:high] = [first], [last]

    def intervals(self) -> Iterator[Interval]:
        """First and last index of each interval, the lowest first."""
        return zip(self._firsts, self._lasts, strict=True)

    def ranges(self) -> Ranges:
        return Ranges(self.intervals())


class ReleaseQueue:
    """Released slots in the order of their release; both ends and any member are reached at once.

    Releases come in order, so a put is an append. What comes out of order (loading, a choice taken
    back) is sorted in when the queue is next read.
    """

    __slots__ = ("_newest", "_orders", "_sorted")

    def __init__(self) -> None:
        self._orders: OrderedDict[int, Order] = OrderedDict()
        self._newest: Order = (0, 0)
        self._sorted = True

    def __len__(self) -> int:
        return len(self._orders)

    def __contains__(self, index: int) -> bool:
        return index in self._orders

    def put(self, index: int, order: Order) -> None:
        self._orders.pop(index, None)
        if not self._orders:
            self._newest, self._sorted = order, True
        elif order >= self._newest:
            self._newest = order
        elif self._sorted and order <= next(iter(self._orders.values())):
            # The longest released, taken back: what fails again and again costs no sorting.
            self._orders[index] = order
            self._orders.move_to_end(index, last=False)
            return
        else:
            self._sorted = False
        self._orders[index] = order

    def __iter__(self) -> Iterator[int]:
        """The longest released first."""
        self._settle()
        return iter(self._orders)

    def discard(self, index: int) -> None:
        self._orders.pop(index, None)

    def longest(self) -> int | None:
        """The index that was released first."""
        self._settle()
        return next(iter(self._orders), None)

    def last(self) -> int | None:
        """The index that was released last."""
        self._settle()
        return next(reversed(self._orders), None)

    def _settle(self) -> None:
        if not self._sorted:
            self._orders = OrderedDict(sorted(self._orders.items(), key=lambda item: item[1]))
            self._sorted = True
