"""Probes of paths: what one is on the wire, when the next is due, what answers and losses say.
Pure.

A probe goes to the responder of a remote node and carries a nonce; the answer has the same nonce,
which only who got the probe can know. Integers are big-endian.

probe   "NFP1", number (32 bits), nonce (16 bytes), zeros up to the wished size
answer  "NFA1", number, nonce
"""

from __future__ import annotations

import struct
from collections import deque
from statistics import median
from typing import Final, NamedTuple

PROBE: Final = b"NFP1"
ANSWER: Final = b"NFA1"
NONCE: Final = 16
_PACKET: Final = struct.Struct(f"!4sI{NONCE}s")
SIZE: Final = _PACKET.size
"""Bytes of an answer, and of a probe at least: an answer is never longer than what asked for it."""

SLOWEST: Final = 2.0
"""Seconds after which an answer counts as lost on the slowest path."""
LATE: Final = 10.0
"""Seconds within which an answer to a lost probe still tells that the path is only slow."""
VXLAN_INTERVAL: Final = 1.0
"""Seconds between two probes of a VXLAN path at least: no other path takes its traffic over."""


class Mark(NamedTuple):
    """By what an answer is known."""

    number: int
    nonce: bytes


def probe(mark: Mark, size: int = SIZE) -> bytes:
    """The probe, of so many bytes."""
    return _PACKET.pack(PROBE, mark.number, mark.nonce).ljust(size, b"\0")


def answer_to(data: bytes) -> bytes | None:
    """What the responder says to it; None where it is no probe."""
    if len(data) < SIZE or not data.startswith(PROBE):
        return None
    return ANSWER + data[len(PROBE) : SIZE]


def mark_of(data: bytes) -> Mark | None:
    """Which probe it answers; None where it is no answer."""
    if len(data) != SIZE or not data.startswith(ANSWER):
        return None
    _, number, nonce = _PACKET.unpack(data)
    return Mark(number, nonce)


def vxlan_interval(wanted: float, paths: int, rate: float) -> float:
    """Seconds between two probes of one of so many VXLAN paths, whose probes together are not more
    than `rate` a second; `wanted` is a tunnel's."""
    return max(VXLAN_INTERVAL, wanted, paths / rate)


class Due:
    """When one path is to be probed. A moment that was missed is not made up for."""

    def __init__(self, interval: float, first: float) -> None:
        self.interval = interval
        self.next = first

    def taken(self, now: float) -> None:
        """It is probed now."""
        self.next += self.interval
        if self.next <= now:
            self.next = now + self.interval


class Window:
    """What became of one path's probes lately. `row`: how many in a row were lost; `rtt`: seconds,
    median of the last answers, None before the first; `timeout`: seconds after which a probe is
    lost: four times what is usual, half an interval at least and three at most, more where even the
    quickest answers take longer; before the first answer one interval."""

    def __init__(self, interval: float, size: int) -> None:
        self.interval = self.timeout = interval
        self.row = 0
        self.rtt: float | None = None
        self._waiting: dict[Mark, float] = {}
        self._given_up: dict[Mark, float] = {}
        self._lost: deque[bool] = deque(maxlen=size)
        self._rtts: deque[float] = deque(maxlen=size)

    @property
    def loss(self) -> float:
        """Share of the last probes that were lost; 0 before the first."""
        return sum(self._lost) / len(self._lost) if self._lost else 0.0

    def sent(self, mark: Mark, now: float) -> None:
        self._waiting[mark] = now

    def answered(self, mark: Mark, now: float) -> float | None:
        """The round trip in seconds; None where no such probe waits."""
        began = self._waiting.pop(mark, None)
        if began is not None:
            self._lost.append(False)
        else:
            began = self._given_up.pop(mark, None)
            if began is None:
                return None
        self.row = 0
        self._rtts.append(now - began)
        self.rtt = median(self._rtts)
        most = max(self.interval, min(3 * self.interval, SLOWEST))
        usual = min(max(4 * self.rtt, self.interval / 2), most)
        # What the way itself takes: an answer that waited somewhere says nothing of the next one.
        self.timeout = max(usual, min(4 * min(self._rtts), SLOWEST))
        return now - began

    def failed(self, mark: Mark) -> None:
        """It could not even be sent."""
        self._waiting.pop(mark, None)
        self._lose()

    def lost(self, mark: Mark) -> bool:
        """Its time is over; False where it was before, and now it is forgotten."""
        began = self._waiting.pop(mark, None)
        if began is None:
            self._given_up.pop(mark, None)
            return False
        self._given_up[mark] = began
        self._lose()
        return True

    def _lose(self) -> None:
        self.row += 1
        self._lost.append(True)
