"""A set of indices in order: from any of them on at once, however many there are."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Final

ROOM: Final = 1024
"""Indices in one list; twice as many are divided."""


class SortedIndices:
    """The indices of a network that are held or released: lists of limited length, so that neither
    adding nor taking out moves more than one of them. Eight bytes an index."""

    __slots__ = ("_lists", "_lowest")

    def __init__(self) -> None:
        self._lists: list[list[int]] = []
        # The first index of each list.
        self._lowest: list[int] = []

    def __len__(self) -> int:
        return sum(map(len, self._lists))

    def add(self, index: int) -> None:
        """Puts the index in; nothing happens where it is in."""
        if not self._lists:
            self._lists.append([index])
            self._lowest.append(index)
            return
        # A start brings them in order.
        highest = index > self._lists[-1][-1]
        at = len(self._lists) - 1 if highest else max(0, bisect_right(self._lowest, index) - 1)
        found = self._lists[at]
        if highest or index > found[-1]:
            found.append(index)
        else:
            place = bisect_left(found, index)
            if found[place] == index:
                return
            found.insert(place, index)
            self._lowest[at] = found[0]
        if len(found) == 2 * ROOM:
            self._lists[at : at + 1] = [found[:ROOM], found[ROOM:]]
            insort(self._lowest, found[ROOM])

    def discard(self, index: int) -> None:
        """Takes the index out; nothing happens where it is not in."""
        at = bisect_right(self._lowest, index) - 1
        if at < 0:
            return
        found = self._lists[at]
        place = bisect_left(found, index)
        if place == len(found) or found[place] != index:
            return
        del found[place]
        if found:
            self._lowest[at] = found[0]
        else:
            del self._lists[at], self._lowest[at]

    def after(self, index: int) -> Iterator[int]:
        """What is greater than the index, in order; it must not change meanwhile."""
        at = max(0, bisect_right(self._lowest, index) - 1)
        for each in self._lists[at : at + 1]:
            yield from each[bisect_right(each, index) :]
        for number in range(at + 1, len(self._lists)):
            yield from self._lists[number]
