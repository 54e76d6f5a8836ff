"""Which gateways of another cluster are available, in the judgement of one's own leader; pure.

The other cluster says which nodes are gateways and which of them it has not heard of. The own nodes
say which paths are up. A gateway is taken out when all nodes that tell of it have said for a while
that it is down: each has moved its flows away by itself long before, and what only begins, or was
slow for a moment, is not given up for it. It is tried again later, since without tunnels nobody
tells of it any more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from federation.plan.gateways import is_gateway
from netspace.messages.federation import ClusterInfo, PathWord

DOUBT: Final = 10.0
"""Seconds for which a gateway is said to be down until it is given up."""
RETRY: Final = 30.0
"""Seconds that a gateway is left alone after it was last said to be down."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """`available` gateways in the order of their names. `out`: until when each of the others that
    the own nodes have given up is left alone, `doubted`: since when gateways are said to be down,
    both on the clock that was given."""

    available: tuple[str, ...] = ()
    out: Mapping[str, float] = field(default_factory=dict)
    doubted: Mapping[str, float] = field(default_factory=dict)

    @property
    def until(self) -> float:
        """When it is another one though nobody tells anything new."""
        ends = [since + DOUBT for name, since in self.doubted.items() if name not in self.out]
        return min([*self.out.values(), *ends], default=math.inf)


def gateways(info: ClusterInfo) -> list[str]:
    """The names of a cluster's gateways, in order."""
    return sorted(node.name for node in info.nodes if is_gateway(info.layout, node))


def judge(
    info: ClusterInfo,
    told: Mapping[str, Iterable[PathWord]],
    before: Judgement,
    now: float,
) -> Judgement:
    """`told`: by own node what it says of its paths to this cluster; `now`: seconds of any clock. A
    node all of whose several paths are down is cut off itself and not believed, unless nobody else
    tells. Where none would remain, all remain: there is nothing better to take."""
    silent = {node.name for node in info.nodes if node.down is not None}
    candidates = [name for name in gateways(info) if name not in silent]
    up, down = _votes(told)
    doubted = {name: before.doubted.get(name, now) for name in candidates if name in down - up}
    given_up = [name for name, since in doubted.items() if now - since >= DOUBT]
    left = {
        name: until
        for name, until in before.out.items()
        if until > now and name in candidates and name not in up
    }
    left |= dict.fromkeys(given_up, now + RETRY)
    available = [name for name in candidates if name not in left]
    if candidates and not available:
        return Judgement(tuple(candidates), {}, doubted)
    return Judgement(tuple(available), left, doubted)


def _votes(told: Mapping[str, Iterable[PathWord]]) -> tuple[set[str], set[str]]:
    """Gateways that somebody reaches, and those that somebody does not."""
    up: set[str] = set()
    down: set[str] = set()
    doubted: set[str] = set()
    for paths in told.values():
        known = [path for path in paths if path.state != "connecting"]
        lost = {path.node for path in known if path.state == "down"}
        reached = {path.node for path in known if path.state == "up"}
        up |= reached
        if reached or len(lost) == 1:
            down |= lost
        else:
            doubted |= lost
    return up, down or doubted
