"""Where a plan is made: one node in one federation, and what it can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from federation.desired import Network
from federation.plan.networks import digest, ends, networks
from netspace.messages.federation import Capability, ClusterInfo, FederatedNode, Federation

ORDINAL_BITS: Final = 4
_DEFAULT_MARK: Final = 0x00F00000


@dataclass(frozen=True, slots=True)
class Site:
    """`can`: what this node can do now. `mtu`: of its underlay, bytes. `mask`: the four bits of the
    packet mark that ordinals are written in. `ends`: this node's tunnel ends by family. `local`:
    the cluster's federated ranges; `behind`: those of them that lie on this node as a whole."""

    federation: Federation
    own: ClusterInfo
    node: FederatedNode
    can: frozenset[Capability]
    mtu: int
    mask: int
    ends: dict[int, str]
    local: tuple[Network, ...]
    behind: tuple[Network, ...]

    @property
    def ipv6(self) -> bool:
        return "ipv6" in self.can

    def mark(self, ordinal: int) -> int:
        """The packet mark of an ordinal."""
        return ordinal * (self.mask & -self.mask)


def site(
    federation: Federation,
    own: ClusterInfo,
    node: FederatedNode,
    can: frozenset[Capability],
    mtu: int,
    mask: int,
) -> Site:
    """A site with what follows from the rest."""
    ipv6 = "ipv6" in can
    return Site(
        federation,
        own,
        node,
        can,
        mtu,
        mask,
        ends(node),
        networks(own.ranges, ipv6),
        networks(node.ranges, ipv6) if own.grouped else (),
    )


def ordinal_mask(mark: int) -> int:
    """The lowest four bits next to each other of a federation's mark setting; those of the default
    setting where it has none."""
    for shift in range(32 - ORDINAL_BITS + 1):
        mask = ((1 << ORDINAL_BITS) - 1) << shift
        if mark & mask == mask:
            return mask
    return _DEFAULT_MARK


def reqids(pairs: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """The reqid of each (federation, cluster): by its hash in 0x4e500000 to 0x4e5fffff, the next
    free one where another pair has it."""
    taken: dict[int, tuple[str, str]] = {}
    for pair in sorted(pairs):
        reqid = int.from_bytes(digest(*pair)) & 0xFFFFF
        while reqid in taken:
            reqid = (reqid + 1) & 0xFFFFF
        taken[reqid] = pair
    return {pair: 0x4E500000 | reqid for reqid, pair in taken.items()}
