"""What became of traffic: which packets of a flow arrived when, as values and what they say."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

Transport = Literal["udp", "tcp"]


@dataclass(frozen=True, slots=True)
class Flow:
    """From a pod to a pod. `source`, `target`: the addresses; `here`, `there`: the pods'
    namespaces; `ports`: the source's and the target's."""

    name: str
    transport: Transport
    here: str
    source: str
    there: str
    target: str
    ports: tuple[int, int]

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What a packet of it is known by."""
        return (self.source, self.target, *self.ports)


@dataclass(slots=True)
class Record:
    """What was seen of a flow. `sent` and `arrived`: seconds of one clock, by the packet's number;
    0.0 for what did not arrive. Of a TCP connection it is a piece that arrives, not a packet;
    `broken` says why it ended."""

    flow: Flow
    sent: array[float] = field(default_factory=lambda: array("d"))
    arrived: array[float] = field(default_factory=lambda: array("d"))
    broken: str = ""
    repeated: int = 0

    def send(self, now: float) -> int:
        """The next packet's number."""
        self.sent.append(now)
        self.arrived.append(0.0)
        return len(self.sent) - 1

    def arrive(self, number: int, now: float) -> None:
        """A packet has come; a second time it counts as repeated."""
        if self.arrived[number]:
            self.repeated += 1
        else:
            self.arrived[number] = now

    def lost(self, since: float = -math.inf, until: float = math.inf) -> int:
        """How many of the packets sent in a span never arrived."""
        return sum(
            1
            for sent, came in zip(self.sent, self.arrived, strict=True)
            if not came and since <= sent < until
        )

    def gap(self, since: float = -math.inf, until: float = math.inf) -> float:
        """Seconds: the longest time in a span in which nothing arrived, from the last arrival
        before it on, up to its end where that is known. Infinite where nothing arrived at all."""
        times = sorted(came for came in self.arrived if came)
        if not times:
            return math.inf
        begin = max((t for t in times if t <= since), default=max(since, self.sent[0]))
        end = min(until, max(self.sent[-1], times[-1]))
        inside = [t for t in times if begin < t < end]
        edges = [begin, *inside, end]
        return max((b - a for a, b in pairwise(edges)), default=0.0)


def lost(records: Iterable[Record], since: float = -math.inf, until: float = math.inf) -> int:
    return sum(record.lost(since, until) for record in records)


def longest_gap_ms(
    records: Iterable[Record], since: float = -math.inf, until: float = math.inf
) -> float:
    """Milliseconds; 0 of no flows."""
    return max((record.gap(since, until) for record in records), default=0.0) * 1e3


def shares(of_gateway: Iterable[str]) -> dict[str, float]:
    """What part of the flows each gateway has, given the gateway of each flow."""
    names = list(of_gateway)
    return {name: names.count(name) / len(names) for name in sorted(set(names))}
