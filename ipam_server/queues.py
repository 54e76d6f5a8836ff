"""The order in which a pool gives its free slots: never-used ones by index, released ones by the
order of their release. Every step costs the same whatever the pool's size.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict

from netspace.ranges import Ranges

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
        first, last = self._firsts[at], self._lasts[at]
        if first == last:
            del self._firsts[at], self._lasts[at]
        elif index == first:
            self._firsts[at] = index + 1
        elif index == last:
            self._lasts[at] = index - 1
        else:
            self._lasts[at] = index - 1
            self._firsts.insert(at + 1, index + 1)
            self._lasts.insert(at + 1, last)
        self.count -= 1

    def add(self, index: int) -> None:
        """Puts the index in; nothing happens where it is in."""
        if index in self:
            return
        at = bisect_right(self._firsts, index)
        self._firsts.insert(at, index)
        self._lasts.insert(at, index)
        self.count += 1
        if at + 1 < len(self._firsts) and self._firsts[at + 1] == index + 1:
            self._lasts[at] = self._lasts[at + 1]
            del self._firsts[at + 1], self._lasts[at + 1]
        if at > 0 and self._lasts[at - 1] == index - 1:
            self._lasts[at - 1] = self._lasts[at]
            del self._firsts[at], self._lasts[at]

    def ranges(self) -> Ranges:
        return Ranges(zip(self._firsts, self._lasts, strict=True))


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
