"""What makes a plan contradict itself, whatever the server has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from netspace.messages import NewPool
from netspacectl.address_plan.fields import Faults, under

if TYPE_CHECKING:
    from netspacectl.address_plan.declared import DeclaredCluster, DeclaredNetwork, DeclaredPool


def check_pool(new: NewPool, parent: NewPool | None, place: str, faults: Faults) -> None:
    """A pool by itself and below its parent."""
    if (new.size is None) == (not new.ranges):
        both = "" if new.size is None else ", not both"
        faults.note(place, f"give size or ranges{both}")
    elif new.size == "0":
        faults.note(under(place, "size"), "it is 0: name at least one address")
    if new.kind == "default" and new.namespaces:
        faults.note(
            under(place, "namespaces"), "a default pool is for every namespace: leave them out"
        )
    if parent is None:
        return
    if new.kind != "application":
        faults.note(under(place, "kind"), "a nested pool is of kind application")
    if parent.kind != "netspace":
        faults.note(place, f"pool {parent.name} is of kind {parent.kind}: only netspace pools nest")
    strangers = sorted(set(new.namespaces) - set(parent.namespaces))
    if strangers and "*" not in parent.namespaces:
        faults.note(
            under(place, "namespaces"),
            f"pool {parent.name} does not list {', '.join(strangers[:5])}",
        )


def check(cluster: DeclaredCluster, faults: Faults) -> None:
    """A cluster's pools among themselves."""
    seen: dict[str, str] = {}
    default: str | None = None
    for pool in cluster.pools():
        name = pool.new.name
        if name in seen:
            faults.note(pool.place, f"cluster {cluster.new.name} has this name at {seen[name]} too")
        seen.setdefault(name, pool.place)
        if pool.new.kind == "default":
            if default is not None:
                faults.note(
                    pool.place, f"a cluster has one default pool, and this one's is {default}"
                )
            default = default or name
    for network in cluster.networks.values():
        _check_space(network, faults)


def _check_space(network: DeclaredNetwork, faults: Faults) -> None:
    siblings: dict[str | None, list[DeclaredPool]] = {}
    for pool in network.pools.values():
        siblings.setdefault(pool.new.parent, []).append(pool)
        parent = network.pools.get(pool.new.parent or "")
        if parent is not None and parent.ranges is not None and pool.ranges is not None:
            outside = pool.ranges - parent.ranges
            if outside:
                shown = ", ".join(network.slots.format_ranges(outside)[:3])
                faults.note(under(pool.place, "ranges"), f"{shown} is not in {parent.new.name}")
    for pools in siblings.values():
        for one, other in _overlapping(pools):
            assert one.ranges is not None
            assert other.ranges is not None
            shown = ", ".join(network.slots.format_ranges(one.ranges & other.ranges)[:3])
            faults.note(under(other.place, "ranges"), f"{shown} is in pool {one.new.name} too")


def _overlapping(pools: Sequence[DeclaredPool]) -> Iterator[tuple[DeclaredPool, DeclaredPool]]:
    """The pairs that share a slot, found in the order of the slots: a plan may have thousands."""
    spans = sorted(
        (first, last, at)
        for at, pool in enumerate(pools)
        if pool.ranges is not None
        for first, last in pool.ranges.intervals
    )
    found: set[tuple[int, int]] = set()
    open_: list[tuple[int, int]] = []
    for first, last, at in spans:
        open_ = [(end, other) for end, other in open_ if end >= first]
        found |= {(min(at, other), max(at, other)) for _, other in open_}
        open_.append((last, at))
    for a, b in sorted(found):
        yield pools[a], pools[b]
