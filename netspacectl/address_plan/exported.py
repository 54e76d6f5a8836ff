"""What there is as a plan file, which applied to the same server changes nothing.

What Kubernetes looks after stands in its objects, not here, unless people's pools lie in it.
"""

from __future__ import annotations

from typing import Any

from netspace.messages import Network, NewCluster, NewFabric, NewNetwork, NewPool, Pool
from netspacectl.address_plan.declared import VERSION
from netspacectl.address_plan.fields import as_new, plain
from netspacectl.address_plan.present import Present, PresentCluster, slots_of, total_of

_PLACE = ("name", "network", "parent", "owner")
"""What the place in the file says, or nobody may."""


def document(present: Present) -> dict[str, Any]:
    """The content of the file. Pools' ranges are written out, less what no pool can have."""
    return {
        "version": VERSION,
        "fabrics": {
            name: plain(as_new(NewFabric, fabric), without=("name",))
            for name, fabric in sorted(present.fabrics.items())
        },
        "clusters": {name: _cluster(known) for name, known in present.clusters.items()},
    }


def left_out(present: Present) -> list[str]:
    """What Kubernetes looks after and the file does not have."""
    found = []
    for cluster, known in present.clusters.items():
        kept = _kept(known)
        found += [f"network {cluster}/{name}" for name in sorted(known.networks.keys() - kept[0])]
        found += [f"pool {cluster}/{name}" for name in sorted(known.pools.keys() - kept[1])]
    return found


def _kept(known: PresentCluster) -> tuple[set[str], set[str]]:
    """The networks and pools in the file: people's, and those that people's lie in."""
    pools = {name for name, pool in known.pools.items() if pool.owner is None}
    pools |= {parent for name in pools if (parent := known.pools[name].parent) is not None}
    networks = {name for name, network in known.networks.items() if network.owner is None}
    return networks | {known.pools[name].network for name in pools}, pools


def _cluster(known: PresentCluster) -> dict[str, Any]:
    networks = {}
    kept = _kept(known)[0]
    for name, network in sorted(known.networks.items()):
        if name not in kept:
            continue
        networks[name] = plain(as_new(NewNetwork, network), without=("name", "owner"))
        pools = _pools(known, network, None)
        if pools:
            networks[name]["pools"] = pools
    return plain(as_new(NewCluster, known.info), without=("name",)) | {"networks": networks}


def _pools(known: PresentCluster, network: Network, parent: str | None) -> dict[str, Any]:
    slots, total = slots_of(network), total_of(network)
    written = {}
    kept = _kept(known)[1]
    for name, pool in sorted(known.pools.items()):
        if name in kept and (pool.network, pool.parent) == (network.name, parent):
            written[name] = _pool(
                pool, slots.format_ranges(slots.parse_ranges(pool.ranges) & total)
            )
            nested = _pools(known, network, name)
            if nested:
                written[name]["pools"] = nested
    return written


def _pool(pool: Pool, ranges: list[str]) -> dict[str, Any]:
    # A pool whose every address was excluded afterwards keeps them: it has no others.
    new = as_new(NewPool, pool, ranges=ranges or pool.ranges, size=None)
    return plain(new, without=_PLACE)
