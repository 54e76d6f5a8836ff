"""The networks and pools that a soak works on, and what may come out of them.

Written by addresses alone, with `ipaddress` and nothing of the server's, so that the checker does
not believe what it checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address

from netspace.messages import NewNetwork, NewPool, PoolKind

CLUSTER = "soak"
FAMILIES = ("ipv4", "ipv6")


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
    """`first` and `last` are addresses of the network's first family; `cooldown` in seconds."""

    name: str
    kind: PoolKind
    network: Ground
    first: str
    last: str
    namespaces: tuple[str, ...] = ()
    cooldown: float = 0
    parent: str | None = None

    @property
    def new(self) -> NewPool:
        return NewPool(
            name=self.name,
            kind=self.kind,
            network=self.network.name,
            parent=self.parent,
            ranges=[f"{self.first}-{self.last}"],
            namespaces=list(self.namespaces),
            cooldown=self.cooldown,
        )

    @cached_property
    def span(self) -> tuple[int, int]:
        return self.network.index(self.first), self.network.index(self.last)

    def takes(self, namespace: str) -> bool:
        """Whether pods of a namespace may have addresses of it."""
        return self.kind == "default" or "*" in self.namespaces or namespace in self.namespaces


RED = Ground("red", 910, "10.61.0.0/24", "fd00:61::/64")
BLUE = Ground("blue", 920, "10.62.0.0/16", None)
SIX = Ground("six", 930, None, "fd00:63::/64")
NETWORKS = (RED, BLUE, SIX)

# In the order in which they are made: a pool after the one it is carved from.
POOLS = (
    Pool("main", "default", RED, "10.61.0.100", "10.61.0.179", cooldown=1),
    Pool("tiny", "netspace", RED, "10.61.0.10", "10.61.0.12", ("red",)),
    Pool("team", "netspace", RED, "10.61.0.20", "10.61.0.49", ("red", "blue"), cooldown=0.5),
    Pool("db", "application", RED, "10.61.0.24", "10.61.0.29", ("red",), parent="team"),
    Pool("wide", "netspace", BLUE, "10.62.1.0", "10.62.9.255", ("*",)),
    Pool("rest", "netspace", BLUE, "10.62.20.0", "10.62.20.7", ("blue",), cooldown=2),
    Pool("vast", "netspace", SIX, "fd00:63::1:0:0", "fd00:63::ffff:ffff:ffff", ("*",), cooldown=2),
)
BY_NAME = {pool.name: pool for pool in POOLS}
DEFAULT = "main"


def owner(network: str, index: int) -> Pool | None:
    """The pool an index belongs to: the innermost that has it."""
    found = [
        pool
        for pool in POOLS
        if pool.network.name == network and pool.span[0] <= index <= pool.span[1]
    ]
    return next((pool for pool in found if pool.parent), found[0] if found else None)


def size(pool: Pool) -> int:
    """How many addresses of a pool are its own, those of nested pools subtracted."""
    nested = (each for each in POOLS if each.parent == pool.name)
    return _count(pool) - sum(_count(each) for each in nested)


def _count(pool: Pool) -> int:
    return pool.span[1] - pool.span[0] + 1
