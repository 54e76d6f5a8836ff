"""What the server has: fabrics, clusters, networks and pools, read once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from netspace.messages import Cluster, Fabric, Network, Pool
from netspace.problems import Problem
from netspace.ranges import Ranges
from netspace.slots import SlotMap

if TYPE_CHECKING:
    from ipam_server.client import Client


@dataclass(frozen=True)
class PresentCluster:
    """A cluster's networks and pools by name."""

    info: Cluster
    networks: dict[str, Network] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)


@dataclass(frozen=True)
class Present:
    """Everything an address plan is made of, by name."""

    fabrics: dict[str, Fabric] = field(default_factory=dict)
    clusters: dict[str, PresentCluster] = field(default_factory=dict)


async def read(client: Client, only: Collection[str] | None = None) -> Present:
    """All clusters, or those of `only` that there are."""
    present = Present(fabrics={fabric.name: fabric for fabric in await client.fabrics()})
    for cluster in sorted(await client.clusters(), key=lambda cluster: cluster.name):
        if only is None or cluster.name in only:
            networks = await client.networks(cluster.name)
            pools = await client.pools(cluster.name)
            present.clusters[cluster.name] = PresentCluster(
                info=cluster,
                networks={network.name: network for network in networks},
                pools={pool.name: pool for pool in pools},
            )
    return present


async def read_one_or_all(client: Client, cluster: str | None) -> Present:
    """The cluster named, which must be there, or all of them."""
    if cluster is None:
        return await read(client)
    found = await read(client, (cluster,))
    if not found.clusters:
        raise Problem("not-found", f"there is no cluster {cluster}", do="see 'cluster list'")
    return found


def slots_of(network: Network) -> SlotMap:
    """The mapping of a network's slots."""
    return SlotMap.of(network.ipv4, network.ipv6, network.mapping)


def total_of(network: Network) -> Ranges:
    """What of a network pools can be carved from."""
    gateways = (network.gateway4, network.gateway6)
    return slots_of(network).total(network.range, network.exclude, gateways)
