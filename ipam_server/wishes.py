"""What a request asks for: the pool, the address, the families, weighed from all sources.

The pod's own selection comes first, then the configuration's, then the default pool. A namespace
that a pool does not list may name neither it nor an address in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ipam_server.inventory import PoolState
from ipam_server.keys import SlotId
from ipam_server.state import ClusterState
from netspace.messages import AllocateRequest
from netspace.problems import Problem
from netspace.slots import Family, SlotError, parse_address


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for, all sources weighed. `pool` None: only the address chooses it."""

    pool: PoolState | None
    addresses: tuple[str, ...]
    families: tuple[Family, ...]


def weigh(state: ClusterState, request: AllocateRequest) -> Wish:
    """Weighs the sources: the pod's own selection, then the configuration's, then the default."""
    own, default = request.selection, request.default
    families = own.families or default.families
    addresses = own.ip
    name = own.application or own.netspace
    kind = "application" if own.application else "netspace"
    if name is None and not addresses:
        name = default.application or default.netspace
        kind = "application" if default.application else "netspace"
        addresses = default.ip
    if name is not None:
        return Wish(_named(state, request, name, kind), addresses, families)
    if addresses:
        return Wish(None, addresses, families)
    pool = state.default_pool()
    if pool is None:
        raise Problem(
            "pool-missing",
            f"the pod names no pool and cluster {state.name} has no default pool",
            do="annotate the pod with ipam.com/netspace or create a pool of kind default",
        )
    return Wish(pool, (), families)


def _named(state: ClusterState, request: AllocateRequest, name: str, kind: str) -> PoolState:
    pool = state.pools.get(name)
    if pool is None or (pool.record.kind == "application") != (kind == "application"):
        is_other = pool is not None and _may_use(pool, request.pod.namespace)
        raise Problem(
            "pool-unknown",
            f"cluster {state.name} has no {kind} pool {name}",
            do=f"{name} is a pool of kind {pool.record.kind}: use the annotation for that kind"
            if pool is not None and is_other
            else "correct the name or have the pool created",
        )
    if not _may_use(pool, request.pod.namespace):
        raise _forbidden(pool.name, request.pod.namespace)
    return pool


def _may_use(pool: PoolState, namespace: str) -> bool:
    listed = pool.record.namespaces
    return pool.record.kind == "default" or "*" in listed or namespace in listed


def _forbidden(pool: str, namespace: str) -> Problem:
    return Problem(
        "pool-forbidden",
        f"pool {pool} does not list namespace {namespace or '(none)'}",
        do="name another pool or have the namespace added to the pool",
    )


def fixed_slot(
    state: ClusterState, request: AllocateRequest, wish: Wish
) -> tuple[SlotId, PoolState]:
    """The slot that has the wanted addresses and the pool it lies in, if the pod may have it."""
    shown = ", ".join(wish.addresses)
    if wish.pool is not None:
        network = wish.pool.record.network
        index = _index(state, network, wish.addresses)
        if state.owner((network, index)) is not wish.pool:
            raise Problem(
                "address-unusable",
                f"{shown} does not lie in pool {wish.pool.name}",
                do=f"ask for an address of {_spans(state, wish.pool)} or name another pool",
            )
        return (network, index), wish.pool
    owners: list[tuple[SlotId, PoolState]] = []
    for name in state.networks:
        try:
            slot = (name, _index(state, name, wish.addresses))
        except Problem:
            continue
        owner = state.owner(slot)
        if owner is not None:
            owners.append((slot, owner))
    # An application's addresses are for pods that name it.
    allowed = [
        found
        for found in owners
        if found[1].record.kind != "application" and _may_use(found[1], request.pod.namespace)
    ]
    if len(allowed) == 1:
        return allowed[0]
    if allowed:
        raise Problem(
            "address-unusable",
            f"{shown} lies in several pools: {', '.join(pool.name for _, pool in allowed)}",
            do="name the pool too",
        )
    named = [pool for _, pool in owners if _may_use(pool, request.pod.namespace)]
    if named:
        raise Problem(
            "address-unusable",
            f"{shown} lies in application pool {named[0].name}",
            do="name the application too, if it is the pod's",
        )
    if owners:
        raise _forbidden(owners[0][1].name, request.pod.namespace)
    raise Problem(
        "address-unusable",
        f"{shown} lies in no pool of cluster {state.name}",
        do="ask for an address of a pool; addresses outside of pools are given to nobody",
    )


def _index(state: ClusterState, network: str, addresses: tuple[str, ...]) -> int:
    slots = state.networks[network].slots
    try:
        indices = {slots.index_of(parse_address(address)) for address in addresses}
    except SlotError as error:
        raise Problem("address-unusable", f"network {network}: {error}") from None
    if len(indices) != 1:
        pairs = [f"{slots.ipv4_of(index)} with {slots.ipv6_of(index)}" for index in sorted(indices)]
        raise Problem(
            "address-unusable",
            f"{' and '.join(addresses)} are not of one slot of network {network}",
            do=f"ask for {' or '.join(pairs)}",
        )
    return indices.pop()


def families_of(
    state: ClusterState, pool: PoolState, wanted: tuple[Family, ...]
) -> tuple[Family, ...]:
    """The families to store: none where the pod takes all that the network has."""
    slots = state.networks[pool.record.network].slots
    there: set[Family] = set()
    if slots.ipv4 is not None:
        there.add("ipv4")
    if slots.ipv6 is not None:
        there.add("ipv6")
    missing = [family for family in wanted if family not in there]
    if missing:
        raise Problem(
            "family-missing",
            f"network {pool.record.network} of pool {pool.name} has no {' and no '.join(missing)}",
            do=f"ask for {', '.join(sorted(there))} or for another pool",
        )
    return () if not wanted or set(wanted) == there else wanted


def _spans(state: ClusterState, pool: PoolState) -> str:
    spans = state.networks[pool.record.network].slots.format_ranges(pool.own)
    return ", ".join(spans[:4]) + (", …" if len(spans) > 4 else "")
