"""The MTU of a path by trying: which size to send next, and what follows from it. Pure.

Sizes are bytes of a whole inner packet, its IP header included.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

LEAST: Final = {4: 576, 6: 1280}
"""What every path carries: RFC 1122, section 3.3.3 for reassembly; RFC 8200, section 5."""
MOST: Final = 9216
TRIES: Final = 3
"""A size that was sent so often without an answer does not go through."""
HEADERS: Final = {4: 28, 6: 48}
"""Bytes of IP and UDP before a probe's own."""

Search = Generator[int, bool, int]
"""Yields sizes to try, is sent whether each went through, returns the largest that did; 0: none."""


def search(least: int, most: int, guess: int = 0) -> Search:
    """The largest size from `least` to `most` that goes through, where all smaller ones do. The
    guess (what was measured last) and its successor are tried first."""
    known = 0
    if least < guess < most:
        if (yield guess):
            if not (yield guess + 1):
                return guess
            known = guess + 1
        else:
            most = guess - 1
    if known == most or (yield most):
        return most
    if not known:
        if least == most or not (yield least):
            return 0
        known = least
    high = most
    while high - known > 1:
        middle = (known + high) // 2
        if (yield middle):
            known = middle
        else:
            high = middle
    return known


class Trying:
    """One search under way: `size` is to be sent next, None once there is a `result`."""

    def __init__(self, least: int, most: int, guess: int = 0) -> None:
        self._search = search(least, most, guess)
        self._tries = 0
        self.result: int | None = None
        self.size: int | None = next(self._search)

    def through(self) -> None:
        """The size was answered."""
        self._tell(True)

    def lost(self, *, surely: bool = False) -> None:
        """It was not; `surely`: the kernel itself said that it is too long."""
        self._tries += 1
        if surely or self._tries >= TRIES:
            self._tell(False)

    def _tell(self, through: bool) -> None:
        self._tries = 0
        try:
            self.size = self._search.send(through)
        except StopIteration as done:
            self.size, self.result = None, done.value
