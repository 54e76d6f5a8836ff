"""The rules for pools: pure decisions on carving, growing, shrinking and deleting.

Pools are carved from the network's total pool, application pools also from one netspace pool. They
never overlap; a nested pool is subtracted from its parent, grows only from it and keeps it from
being deleted. Nothing in use ever leaves its pool.
"""

from __future__ import annotations

import msgspec

from ipam_server.inventory import NetworkState, PoolState
from ipam_server.networks import check_unchanged
from ipam_server.owners import check_new, check_owner
from ipam_server.records import PoolRecord, stored_ranges
from ipam_server.state import ClusterState
from netspace.messages import ChangePool, Elastic, NewPool, Owner, ResizePool
from netspace.problems import Problem, invalid
from netspace.ranges import Ranges
from netspace.slots import SlotError


def carve(state: ClusterState, new: NewPool, now: int) -> PoolRecord:
    """The record of a new pool, at the cluster's clock `now` (milliseconds)."""
    if new.name in state.pools:
        check_new("pool", new.name, state.pools[new.name].record.owner, new.owner)
    network = network_of(state, new.network)
    parent = _parent(state, new)
    default = state.default_pool()
    if new.kind == "default" and default is not None:
        raise Problem(
            "exists",
            f"cluster {state.name} has its default pool: {default.name}",
            do="grow that one or delete it first",
        )
    namespaces = _namespaces(new.kind, new.namespaces, parent)
    free = _free(state, network, new.network, parent, now)
    source = _source(new.network, parent)
    size = new.size
    if new.elastic is not None and size is None and not new.ranges:
        size = str(new.elastic.minimum)
    taken = _pick(network, free, new.ranges, size, source)
    _check_bounds(new.elastic, taken)
    return PoolRecord(
        kind=new.kind,
        network=new.network,
        parent=new.parent,
        ranges=stored_ranges(taken),
        namespaces=namespaces,
        cooldown=new.cooldown,
        retention=new.retention,
        elastic=new.elastic,
        probe=new.probe,
        owner=new.owner,
    )


def change(state: ClusterState, pool: PoolState, asked: ChangePool) -> PoolRecord:
    """The record after a change of who may name the pool, how long its addresses rest or are
    retained, or its bounds. A pool below its new minimum grows soon after."""
    check_owner("pool", pool.name, pool.record.owner, asked.owner)
    check_unchanged(f"pool {pool.name}", pool.revision, asked.revision)
    record = pool.record
    if asked.namespaces is not msgspec.UNSET:
        parent = state.pools.get(record.parent) if record.parent else None
        namespaces = _namespaces(record.kind, asked.namespaces, parent)
        for child in state.children(pool.name):
            _check_within(child.name, child.record.namespaces, pool.name, namespaces)
        record = msgspec.structs.replace(record, namespaces=namespaces)
    if asked.cooldown is not msgspec.UNSET:
        record = msgspec.structs.replace(record, cooldown=asked.cooldown)
    if asked.retention is not msgspec.UNSET:
        record = msgspec.structs.replace(record, retention=asked.retention)
    if asked.elastic is not msgspec.UNSET:
        _check_bounds(asked.elastic, pool.ranges)
        record = msgspec.structs.replace(record, elastic=asked.elastic)
    if asked.probe is not msgspec.UNSET:
        record = msgspec.structs.replace(record, probe=asked.probe)
    record = _followed(pool, record, asked)
    names = (name for name in asked.__struct_fields__ if name not in ("revision", "owner"))
    if all(getattr(asked, name) is msgspec.UNSET for name in names):
        raise invalid("change", "it names nothing to change")
    return record


def _followed(pool: PoolState, record: PoolRecord, asked: ChangePool) -> PoolRecord:
    """The record with the replicas that its size follows."""
    if asked.replicas is not msgspec.UNSET:
        record = msgspec.structs.replace(record, replicas=asked.replicas)
    if asked.surplus is not msgspec.UNSET:
        record = msgspec.structs.replace(record, surplus=asked.surplus)
    if record.replicas is None:
        return msgspec.structs.replace(record, surplus=0)
    if record.kind != "application":
        raise invalid("replicas", f"pool {pool.name} is of kind {record.kind}, for no application")
    most = record.elastic.maximum if record.elastic is not None else None
    if most is not None and record.replicas + record.surplus > most:
        raise invalid(
            "replicas",
            f"{record.replicas} replicas and a surplus of {record.surplus} are more than the"
            f" maximum of pool {pool.name}, {most}",
            do="change its bounds first",
        )
    return record


def _check_fixed(pool: PoolState) -> None:
    if pool.record.replicas is not None:
        raise invalid(
            "size",
            f"pool {pool.name} follows the {pool.record.replicas} replicas of its application",
            do="change the replicas or the surplus, or let it follow none",
        )


def grow(state: ClusterState, pool: PoolState, asked: ResizePool, now: int) -> PoolRecord:
    """The record with more space, from where the pool was carved."""
    check_owner("pool", pool.name, pool.record.owner, asked.owner)
    check_unchanged(f"pool {pool.name}", pool.revision, asked.revision)
    _check_fixed(pool)
    network = network_of(state, pool.record.network)
    parent = state.pools[pool.record.parent] if pool.record.parent else None
    free = _free(state, network, pool.record.network, parent, now)
    source = _source(pool.record.network, parent)
    taken = _pick(network, free, asked.ranges, asked.size, source, beside=pool.ranges)
    _check_bounds(pool.record.elastic, pool.ranges | taken)
    return msgspec.structs.replace(pool.record, ranges=stored_ranges(pool.ranges | taken))


def shrink(state: ClusterState, pool: PoolState, asked: ResizePool, now: int) -> PoolRecord:
    """The record with less space: never a slot in use, in cool-down, retained, in flight or in a
    nested pool.

    By size the highest slots go; by ranges exactly those named, or none.
    """
    check_owner("pool", pool.name, pool.record.owner, asked.owner)
    check_unchanged(f"pool {pool.name}", pool.revision, asked.revision)
    _check_fixed(pool)
    network = network_of(state, pool.record.network)
    idle = _idle(state, network, pool, now)
    if asked.ranges and asked.size is None:
        gone = _spans(network, asked.ranges)
        if not gone.issubset(pool.ranges):
            outside = ", ".join(network.slots.format_ranges(gone - pool.ranges)[:3])
            raise invalid("ranges", f"{outside} is not in pool {pool.name}")
        stuck = gone & (pool.own - idle)
        nested = gone & state.nested(pool.name)
        if stuck or nested:
            shown = ", ".join(network.slots.format_ranges(stuck | nested)[:3])
            raise Problem(
                "in-use",
                f"{shown} of pool {pool.name} is in use, in cool-down, retained or in a nested"
                " pool",
                do="release it, wait, or name other ranges",
            )
    else:
        size = _size(asked.ranges, asked.size)
        if size > idle.size:
            raise Problem(
                "in-use",
                f"pool {pool.name} can give up {idle.size} of its {pool.size} addresses now,"
                f" not {size}: the others are in use, in cool-down, retained or in nested pools",
                do="release addresses or shrink by less",
            )
        gone = idle.tail(size)
    left = pool.ranges - gone
    if not left:
        raise Problem(
            "invalid", f"nothing would be left of pool {pool.name}", do="delete the pool instead"
        )
    if pool.record.elastic is not None and left.size < pool.record.elastic.minimum:
        raise invalid(
            "size",
            f"pool {pool.name} would have {left.size} addresses, and its minimum is"
            f" {pool.record.elastic.minimum}",
            do="shrink by less, or change its bounds first",
        )
    return msgspec.structs.replace(pool.record, ranges=stored_ranges(left))


def _check_bounds(bounds: Elastic | None, ranges: Ranges) -> None:
    if bounds is None:
        return
    if bounds.maximum < bounds.minimum:
        raise invalid(
            "elastic", f"its maximum {bounds.maximum} is below its minimum {bounds.minimum}"
        )
    if ranges.size > bounds.maximum:
        raise invalid(
            "elastic",
            f"the pool would have {ranges.size} addresses, and its maximum is {bounds.maximum}",
            do="name a greater maximum or fewer addresses",
        )


def check_delete(state: ClusterState, pool: PoolState, acting: Owner | None = None) -> None:
    """Refuses while pools are nested in it or pods hold addresses of it."""
    check_owner("pool", pool.name, pool.record.owner, acting)
    children = state.children(pool.name)
    if children:
        shown = ", ".join(sorted(child.name for child in children)[:5])
        raise Problem(
            "in-use", f"pool {pool.name} has nested pools: {shown}", do="delete them first"
        )
    if pool.used:
        raise Problem(
            "in-use",
            f"{pool.used} addresses of pool {pool.name} are in use",
            do=f"delete their pods first; netspacectl address list --pool {pool.name} shows them",
        )


def network_of(state: ClusterState, name: str) -> NetworkState:
    """The network, or the problem that there is none."""
    if name not in state.networks:
        raise Problem(
            "not-found", f"cluster {state.name} has no network {name}", do="create it first"
        )
    return state.networks[name]


def total_free(state: ClusterState, name: str) -> Ranges:
    """What of a network's total pool lies in no pool."""
    carved = Ranges(
        interval
        for pool in state.pools.values()
        if pool.record.network == name and pool.record.parent is None
        for interval in pool.ranges.intervals
    )
    return state.networks[name].total - carved


def _parent(state: ClusterState, new: NewPool) -> PoolState | None:
    if new.parent is None:
        return None
    if new.kind != "application":
        raise invalid("parent", f"a {new.kind} pool is carved from the total pool, not from a pool")
    parent = state.pools.get(new.parent)
    if parent is None:
        raise Problem("not-found", f"there is no pool {new.parent} to carve from")
    if parent.record.kind != "netspace":
        raise invalid(
            "parent",
            f"{new.parent} is of kind {parent.record.kind}",
            do="carve an application pool from the total pool or from a netspace pool",
        )
    if parent.record.network != new.network:
        raise invalid("parent", f"{new.parent} lies in network {parent.record.network}")
    return parent


def _namespaces(kind: str, asked: list[str], parent: PoolState | None) -> list[str]:
    """Who may name the pool; a nested pool's are its parent's unless it names some of them."""
    if kind == "default":
        if asked:
            raise invalid(
                "namespaces", "a default pool is for every namespace", do="leave them out"
            )
        return []
    if parent is None:
        return sorted(set(asked))
    if not asked:
        return parent.record.namespaces
    _check_within("the nested pool", asked, parent.name, parent.record.namespaces)
    return sorted(set(asked))


def _check_within(child: str, inner: list[str], parent: str, outer: list[str]) -> None:
    strangers = [] if "*" in outer else sorted(set(inner) - set(outer))
    if strangers:
        raise invalid(
            "namespaces",
            f"{child} lists {', '.join(strangers[:5])}, which pool {parent} does not",
            do=f"list only namespaces of {parent}",
        )


def _free(
    state: ClusterState, network: NetworkState, name: str, parent: PoolState | None, now: int
) -> Ranges:
    """What can be carved: of a parent only what is idle, since no holder changes its pool, and
    what rests there rests by its rules."""
    return total_free(state, name) if parent is None else _idle(state, network, parent, now)


def _idle(state: ClusterState, network: NetworkState, pool: PoolState, now: int) -> Ranges:
    """What of a pool's own nobody holds, is retained, in dispute, in cool-down or in flight."""
    name = pool.record.network
    busy = Ranges(
        (index, index)
        for index in network.touched(pool.own)
        if index in network.held or state.rest_left((name, index), now)
    )
    under_way = (*state.taken, *state.disputed)
    return pool.own - busy - Ranges((slot[1], slot[1]) for slot in under_way if slot[0] == name)


def _pick(
    network: NetworkState,
    free: Ranges,
    spans: list[str],
    size: str | None,
    source: str,
    beside: Ranges | None = None,
) -> Ranges:
    """The ranges named, or the lowest block of the size wanted: next to what the pool has if that
    is free, else in one piece, else in several. By size nothing is picked that somebody holds."""
    if spans and size is None:
        wanted = _spans(network, spans)
        if not wanted:
            raise invalid("ranges", f"{', '.join(spans[:3])} has no address that a pool can have")
        missing = wanted - free
        if missing:
            raise Problem(
                "overlap",
                f"{', '.join(network.slots.format_ranges(missing)[:3])} is not free in {source}",
                do="name free addresses or a size",
            )
        return wanted
    count = _size(spans, size)
    held = Ranges((index, index) for index in network.touched(free) if index in network.held)
    open_ = free - held
    if count > open_.size:
        raise Problem(
            "no-space",
            f"{source} has {open_.size} free addresses, not {count}",
            do="take fewer, or free some",
        )
    if beside is not None and beside:
        after = beside.last + 1
        adjacent = open_ & Ranges(((after, after + count - 1),))
        if adjacent.size == count:
            return adjacent
    return open_.block(count) or open_.head(count)


def _size(spans: list[str], size: str | None) -> int:
    if spans or size is None:
        raise invalid("size", "name either a size or ranges")
    if size == "0":
        raise invalid("size", "it is 0", do="name at least one address")
    return int(size)


def _spans(network: NetworkState, spans: list[str]) -> Ranges:
    """The indices named. A subnet means those of its addresses that a pool can have; addresses and
    spans of them are taken at their word."""
    parse = network.slots.parse_ranges
    try:
        subnets = parse([span for span in spans if "/" in span]) & network.total
        return subnets | parse([span for span in spans if "/" not in span])
    except SlotError as error:
        raise invalid("ranges", error) from None


def _source(network: str, parent: PoolState | None) -> str:
    return f"pool {parent.name}" if parent is not None else f"the total pool of network {network}"
