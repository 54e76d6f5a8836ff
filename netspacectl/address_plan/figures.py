"""The figures of an address plan: how much there is, is used and is left, in how many pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from netspace.messages import Cluster, Fabric, Network, Pool
from netspace.ranges import Ranges
from netspace.slots import SlotMap
from netspacectl.address_plan.present import Present, PresentCluster, slots_of, total_of


@dataclass(frozen=True)
class PoolFigures:
    """A pool with its nested ones. `ranges` has their slots too."""

    pool: Pool
    ranges: Ranges
    nested: tuple[PoolFigures, ...]

    @property
    def share(self) -> float:
        """How much of the pool's own slots nobody else can have now: used, cooling, retained."""
        size = int(self.pool.size)
        return 1 - int(self.pool.free) / size if size else 0.0


@dataclass(frozen=True)
class NetworkFigures:
    """A network. `total`: what pools can be carved from; `free`: what of it lies in no pool, of
    which `held` slots are held all the same, by reservations."""

    cluster: str
    network: Network
    slots: SlotMap
    total: Ranges
    free: Ranges
    held: int
    pools: tuple[PoolFigures, ...]

    @property
    def largest(self) -> int:
        """The slots of the largest free block: that many can be carved in one piece."""
        return max((last - first + 1 for first, last in self.free.intervals), default=0)

    @property
    def fragmentation(self) -> float:
        """1 - largest free block / free: 0 where all of it is one piece (or nothing is left),
        towards 1 the more pieces it is in. Excluded addresses and gateways part pieces too."""
        return 1 - self.largest / self.free.size if self.free else 0.0

    def all_pools(self) -> list[PoolFigures]:
        return [pool for top in self.pools for pool in (top, *top.nested)]


@dataclass(frozen=True)
class ClusterFigures:
    cluster: Cluster
    networks: tuple[NetworkFigures, ...]


@dataclass(frozen=True)
class Plan:
    """The whole plan, everything in the order of its addresses or names."""

    fabrics: tuple[Fabric, ...]
    clusters: tuple[ClusterFigures, ...]


def of(present: Present) -> Plan:
    """The figures of what there is."""
    return Plan(
        fabrics=tuple(fabric for _, fabric in sorted(present.fabrics.items())),
        clusters=tuple(
            ClusterFigures(
                cluster=known.info,
                networks=tuple(
                    _network(name, known, network) for _, network in sorted(known.networks.items())
                ),
            )
            for name, known in present.clusters.items()
        ),
    )


def _network(cluster: str, known: PresentCluster, network: Network) -> NetworkFigures:
    slots, total = slots_of(network), total_of(network)
    inside = [pool for pool in known.pools.values() if pool.network == network.name]
    pools = _pools(inside, slots, None)
    carved = Ranges(interval for pool in pools for interval in pool.ranges.intervals)
    return NetworkFigures(
        cluster=cluster,
        network=network,
        slots=slots,
        total=total,
        free=total - carved,
        held=max(0, network.used - sum(pool.used for pool in inside)),
        pools=pools,
    )


def _pools(inside: Sequence[Pool], slots: SlotMap, parent: str | None) -> tuple[PoolFigures, ...]:
    found = [
        PoolFigures(pool, slots.parse_ranges(pool.ranges), _pools(inside, slots, pool.name))
        for pool in inside
        if pool.parent == parent
    ]
    return tuple(sorted(found, key=lambda figures: figures.ranges.intervals))


def document(plan: Plan) -> dict[str, Any]:
    """The plan for programs: the API's messages, nested, with the figures beside their fields."""
    return {
        "fabrics": [msgspec.to_builtins(fabric) for fabric in plan.fabrics],
        "clusters": [
            msgspec.to_builtins(cluster.cluster)
            | {"networks": [_network_document(network) for network in cluster.networks]}
            for cluster in plan.clusters
        ],
    }


def _network_document(network: NetworkFigures) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(network.network)
    return fields | {
        "free": str(network.free.size),
        "free_ranges": network.slots.format_ranges(network.free),
        "largest_free_block": str(network.largest),
        "fragmentation": round(network.fragmentation, 4),
        "pools": [_pool_document(pool) for pool in network.pools],
    }


def _pool_document(pool: PoolFigures) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(pool.pool)
    return fields | {"pools": [_pool_document(inner) for inner in pool.nested]}
