"""What a request asks for: the pool, the address, the families, weighed from all sources.

The pod's own selection comes first, then its namespace's, then the configuration's, then the
default pool. A namespace that a pool does not list may name neither it nor an address in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ipam_server.inventory import PoolState
from ipam_server.keys import SlotId
from ipam_server.state import ClusterState
from netspace.messages import AllocateRequest, Selection
from netspace.problems import Problem
from netspace.slots import Family, SlotError, parse_address


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for, all sources weighed. `pool` None: only the address chooses it."""

    pool: PoolState | None
    addresses: tuple[str, ...]
    families: tuple[Family, ...]


def weigh(state: ClusterState, request: AllocateRequest) -> Wish:
    """Weighs the sources: the pod's own selection, its namespace's, the configuration's, then the
    default."""
    namespace = request.pod.namespace
    stored = state.namespaces.get(namespace)
    sources = (
        (request.selection, ""),
        (Selection() if stored is None else stored.record.selection, f"namespace {namespace}"),
        (request.default, ""),
    )
    families = next((chosen.families for chosen, _ in sources if chosen.families), ())
    for chosen, source in sources:
        name = chosen.application or chosen.netspace
        if name is not None:
            kind = "application" if chosen.application else "netspace"
            return Wish(_named(state, request, name, kind, source), chosen.ip, families)
        if chosen.ip:
            return Wish(None, chosen.ip, families)
    pool = state.default_pool()
    if pool is None:
        raise Problem(
            "pool-missing",
            f"the pod names no pool and cluster {state.name} has no default pool",
            do="annotate the pod or its namespace with ipam.com/netspace, or create a pool of kind"
            " default",
        )
    return Wish(pool, (), families)


def _named(
    state: ClusterState, request: AllocateRequest, name: str, kind: str, source: str
) -> PoolState:
    """`source`: who chose the pool where neither the pod nor its node did."""
    chose = f", which {source} chooses by default" if source else ""
    pool = state.pools.get(name)
    if pool is None or (pool.record.kind == "application") != (kind == "application"):
        is_other = pool is not None and _may_use(pool, request.pod.namespace)
        raise Problem(
            "pool-unknown",
            f"cluster {state.name} has no {kind} pool {name}{chose}",
            do=f"{name} is a pool of kind {pool.record.kind}: use the annotation for that kind"
            if pool is not None and is_other
            else "correct the name or have the pool created",
        )
    if not _may_use(pool, request.pod.namespace):
        raise _forbidden(pool.name, request.pod.namespace, chose)
    return pool


def _may_use(pool: PoolState, namespace: str) -> bool:
    listed = pool.record.namespaces
    return pool.record.kind == "default" or "*" in listed or namespace in listed


def _forbidden(pool: str, namespace: str, chose: str = "") -> Problem:
    return Problem(
        "pool-forbidden",
        f"pool {pool}{chose}{',' if chose else ''} does not list namespace {namespace or '(none)'}",
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
