"""Which clusters, nodes, routers and addresses the federation's lab has. Pure values.

    a1 a2 ── ra ─────────── rb ── b1 b2 b3
              └──── rc ─────┘
                    │
                  c1 (c2 comes later)

Each cluster's network is a switch on its router (`lan`); the routers are joined by links of their
own. Underlay addresses are 172.31.N.0/24 and fd31:N::/64, pods' are 10.10N.0.0/16 and
fd00:10N::/48, for cluster number N.

The routers know the way to every cluster's pods: a packet that leaves its cluster in clear is seen
on their links. None of them lets it in, so nothing is reached that way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from itertools import combinations
from typing import Final

VLAN: Final = 910
"""Of cluster a's pods."""

MTUS: Final = {frozenset("ab"): 1500, frozenset("bc"): 1500, frozenset("ac"): 1400}
"""Of the links between routers, by their clusters."""

FAMILIES: Final = (4, 6)

POD_NETWORKS: Final = (IPv4Network("10.0.0.0/8"), IPv6Network("fd00::/16"))
"""Every pod's address lies in these, and no node's."""


@dataclass(frozen=True, slots=True)
class LabNode:
    """`number` of its cluster, `place` among its nodes. `gateway`: whether others may enter by it.
    Where pods are grouped by node `ranges` are this node's, IPv4 then IPv6."""

    name: str
    cluster: str
    number: int
    place: int
    gateway: bool

    @property
    def underlay(self) -> tuple[str, str]:
        return f"172.31.{self.number}.{10 + self.place}", f"fd31:{self.number}::{10 + self.place:x}"

    @property
    def ranges(self) -> tuple[str, str]:
        return f"10.10{self.number}.{self.place}.0/24", f"fd00:10{self.number}:0:{self.place}::/64"

    def pod(self, at: int) -> tuple[str, str]:
        """The addresses of one of its pods; 1 is the node's own bridge."""
        four = f"10.10{self.number}.{self.place}.{at}"
        return four, f"fd00:10{self.number}:0:{self.place}::{at:x}"


@dataclass(frozen=True, slots=True)
class LabCluster:
    """`macvlan`: whether Netspace connects its pods; else a routed bridge on each node does, by a
    plugin of the name `bridge`."""

    name: str
    number: int
    macvlan: bool
    nodes: tuple[LabNode, ...]
    bridge: str = "bridge"

    @property
    def router(self) -> str:
        return f"r{self.name}"

    @property
    def control(self) -> str:
        """Where its etcd and its federation server run."""
        return f"{self.name}0"

    @property
    def cni(self) -> str:
        return "netspace" if self.macvlan else self.bridge

    @property
    def gateway(self) -> tuple[str, str]:
        """The router's addresses in the cluster's network."""
        return f"172.31.{self.number}.1", f"fd31:{self.number}::1"

    @property
    def server(self) -> tuple[str, str]:
        """The addresses of `control`."""
        return f"172.31.{self.number}.5", f"fd31:{self.number}::5"

    @property
    def ranges(self) -> tuple[str, str]:
        """All its pods lie in these."""
        return f"10.10{self.number}.0.0/16", f"fd00:10{self.number}::/48"

    @property
    def subnets(self) -> tuple[str, str]:
        """The VLAN's, where there is one."""
        return f"10.10{self.number}.0.0/24", f"fd00:10{self.number}::/64"

    def transit(self, other: LabCluster) -> tuple[str, str]:
        """This router's addresses on the link to another cluster's."""
        low, high = sorted((self.number, other.number))
        end = 1 if self.number == low else 2
        return f"172.31.{low}{high}.{end}", f"fd31:{low}{high}::{end}"

    def port(self, other: LabCluster) -> str:
        """This router's interface on the link to another cluster's."""
        return f"to-{other.router}"


def cluster(
    name: str,
    number: int,
    nodes: int,
    gateways: int | None = None,
    macvlan: bool = False,
    bridge: str = "bridge",
) -> LabCluster:
    """A cluster whose first nodes are gateways, all of them where it is not said how many."""
    last = nodes if gateways is None else gateways
    made = (LabNode(f"{name}{at}", name, number, at, at <= last) for at in range(1, nodes + 1))
    return LabCluster(name, number, macvlan, tuple(made), bridge)


A: Final = cluster("a", 1, 2, macvlan=True)
B: Final = cluster("b", 2, 3, gateways=2)
C: Final = cluster("c", 3, 2)
CLUSTERS: Final = (A, B, C)
LATER: Final = C.nodes[-1]
"""The node that comes later."""


def links(
    clusters: Sequence[LabCluster] = CLUSTERS,
) -> list[tuple[LabCluster, LabCluster, int]]:
    """The links between the clusters' routers, with their MTU."""
    return [
        (one, other, MTUS[frozenset((one.name, other.name))])
        for one, other in combinations(clusters, 2)
    ]
