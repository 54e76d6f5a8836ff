"""The networks and pools that a soak works on, and what may come out of them.

Written by addresses alone, with `ipaddress` and nothing of the server's, so that the checker does
not believe what it checks. Pools of the network `grey` grow and shrink, by themselves or because
the admin wants it; where they lie the looks at etcd say. All others stay as they are here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from netspace.messages import Elastic, NewNetwork, NewPool, PoolKind

CLUSTER = "soak"
FAMILIES = ("ipv4", "ipv6")
GRACE = 1.0
"""Seconds between two reports of a node that prove a pod gone."""


@dataclass(frozen=True)
class Ground:
    """One network: subnets as text, None for a family that it has not."""

    name: str
    vlan: int
    ipv4: str | None
    ipv6: str | None

    @property
    def new(self) -> NewNetwork:
        return NewNetwork(name=self.name, vlan=self.vlan, ipv4=self.ipv4, ipv6=self.ipv6)

    def index(self, address: str) -> int:
        """The slot of an address: its distance from the start of its subnet; it must lie there."""
        parsed = ip_address(address)
        subnet = (
            IPv4Network(self.ipv4 or "") if parsed.version == 4 else IPv6Network(self.ipv6 or "")
        )
        if parsed not in subnet:
            raise ValueError(f"{address} is not in {subnet}")
        return int(parsed) - int(subnet.network_address)

    def address(self, index: int) -> tuple[str | None, str | None]:
        """The IPv4 and the IPv6 address of a slot."""
        ipv4 = str(IPv4Network(self.ipv4)[index]) if self.ipv4 else None
        ipv6 = str(IPv6Network(self.ipv6)[index]) if self.ipv6 else None
        return ipv4, ipv6


@dataclass(frozen=True)
class Pool:
    """`first` and `last` are addresses of the network's first family: the pool's, or with a `start`
    (its first size) those of all that it may ever have. `cooldown`, the shortest there ever is, and
    `retention` in seconds. `minimum`, `maximum`: sizes that it always has, nested pools counted.
    `elastic`: it grows and shrinks by itself; `replicas`: it follows an application's."""

    name: str
    kind: PoolKind
    network: Ground
    first: str
    last: str
    namespaces: tuple[str, ...] = ()
    cooldown: float = 0
    parent: str | None = None
    retention: float = 0
    start: int = 0
    minimum: int = 1
    maximum: int = 2**64
    elastic: Elastic | None = None
    replicas: bool = False

    @property
    def moves(self) -> bool:
        """Whether its addresses change."""
        return self.start > 0

    @property
    def new(self) -> NewPool:
        return NewPool(
            name=self.name,
            kind=self.kind,
            network=self.network.name,
            parent=self.parent,
            ranges=[] if self.moves else [f"{self.first}-{self.last}"],
            size=f"{self.start}" if self.moves else None,
            namespaces=list(self.namespaces),
            cooldown=self.cooldown,
            retention=self.retention,
            elastic=self.elastic,
        )

    @cached_property
    def span(self) -> tuple[int, int]:
        return self.network.index(self.first), self.network.index(self.last)

    def takes(self, namespace: str) -> bool:
        """Whether pods of a namespace may have addresses of it."""
        return self.kind == "default" or "*" in self.namespaces or namespace in self.namespaces

    def rest(self, named: bool) -> float:
        """Seconds in which nobody but the name that had it gets an address that was released."""
        return max(self.cooldown, self.retention) if named else self.cooldown


RED = Ground("red", 910, "10.61.0.0/24", "fd00:61::/64")
BLUE = Ground("blue", 920, "10.62.0.0/16", None)
SIX = Ground("six", 930, None, "fd00:63::/64")
GREY = Ground("grey", 940, "10.64.0.0/24", "fd00:64::/64")
NETWORKS = (RED, BLUE, SIX, GREY)


def _moving(
    name: str, kind: PoolKind, namespaces: tuple[str, ...], start: int, **more: Any
) -> Pool:
    """A pool of the network `grey`."""
    first, last = "10.64.0.1", "10.64.0.254"
    return Pool(name, kind, GREY, first, last, namespaces, start=start, **more)


def _elastic(
    name: str,
    kind: PoolKind,
    namespaces: tuple[str, ...],
    bounds: tuple[int, int],
    *,
    step: int,
    low: int = 0,
    **more: Any,
) -> Pool:
    minimum, maximum = bounds
    elastic = Elastic(minimum=minimum, maximum=maximum, step=step, low=low, quiet=1)
    return _moving(
        name, kind, namespaces, minimum, minimum=minimum, maximum=maximum, elastic=elastic, **more
    )


# In the order in which they are made: a pool after the one it is carved from.
POOLS = (
    Pool("main", "default", RED, "10.61.0.100", "10.61.0.179", cooldown=1),
    Pool("tiny", "netspace", RED, "10.61.0.10", "10.61.0.12", ("red",)),
    Pool("team", "netspace", RED, "10.61.0.20", "10.61.0.49", ("red", "blue"), cooldown=0.5),
    Pool("db", "application", RED, "10.61.0.24", "10.61.0.29", ("red",), parent="team"),
    Pool("wide", "netspace", BLUE, "10.62.1.0", "10.62.9.255", ("*",)),
    Pool("rest", "netspace", BLUE, "10.62.20.0", "10.62.20.7", ("blue",), cooldown=2),
    Pool("vast", "netspace", SIX, "fd00:63::1:0:0", "fd00:63::ffff:ffff:ffff", ("*",), cooldown=2),
    _elastic("flex", "netspace", ("red", "blue"), (4, 24), step=4, low=1, cooldown=0.5),
    # In one that grows by itself too: its parent has to grow with it.
    _elastic("inner", "application", ("red",), (2, 8), step=2, parent="flex", cooldown=0.3),
    _elastic("kept", "netspace", ("red", "blue"), (4, 40), step=4, low=2, retention=5),
    _moving("crew", "application", ("blue",), 8, maximum=12, retention=2, replicas=True),
    _moving("yard", "netspace", ("red", "blue"), 20, cooldown=0.4, retention=3),
    _moving("shed", "application", ("red",), 4, cooldown=0.4, retention=3, parent="yard"),
)
BY_NAME = {pool.name: pool for pool in POOLS}
WEIGHTS = (8, 3, 5, 4, 5, 2, 3, 6, 4, 6, 4, 5, 3)
"""How often pods want addresses of each."""
DEFAULT = "main"
REPLICAS, SURPLUS = 6, 2
"""What the pool that follows replicas begins and ends with."""


def may_have(name: str, network: str, index: int) -> Pool | None:
    """The pool of this name, if the index can be one of its own."""
    pool = BY_NAME.get(name)
    if pool is None or pool.network.name != network:
        return None
    if pool.moves:
        return pool if pool.span[0] <= index <= pool.span[1] else None
    return pool if owner(network, index) is pool else None


def owner(network: str, index: int) -> Pool | None:
    """The pool that stays as it is and has the index: the innermost."""
    found = [
        pool
        for pool in POOLS
        if not pool.moves and pool.network.name == network and pool.span[0] <= index <= pool.span[1]
    ]
    return next((pool for pool in found if pool.parent), found[0] if found else None)


def size(pool: Pool) -> int:
    """How many addresses of a pool are its own at most, those of nested pools subtracted."""
    if pool.replicas:
        return REPLICAS + SURPLUS
    if pool.moves:
        return pool.maximum - sum(each.maximum for each in POOLS if each.parent == pool.name)
    nested = (each for each in POOLS if each.parent == pool.name)
    return _count(pool) - sum(_count(each) for each in nested)


def _count(pool: Pool) -> int:
    return pool.span[1] - pool.span[0] + 1
