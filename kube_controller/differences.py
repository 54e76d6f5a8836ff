"""What to ask of the server so that what it has becomes what is declared. Pure.

Each answer is the requests for one network or pool, in their order. Whatever cannot be is a
`Problem`, as the server's own refusals are: either ends as a condition of the resource.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from kube_controller.declared import OWNER, WantedPool
from netspace.messages import (
    ChangeNetwork,
    ChangePool,
    Network,
    NewNetwork,
    NewPool,
    Pool,
    ResizePool,
)
from netspace.problems import Problem, invalid
from netspace.ranges import Ranges
from netspace.slots import SlotError, SlotMap


@dataclass(frozen=True, slots=True)
class Grow:
    request: ResizePool


@dataclass(frozen=True, slots=True)
class Shrink:
    request: ResizePool


Step = NewPool | ChangePool | Grow | Shrink

_FIXED_NETWORK: Final = ("fabric", "ipv4", "ipv6", "mapping", "range")
_FREE_NETWORK: Final = ("parent", "vlan", "gateway4", "gateway6", "mtu", "exclude", "services")
_FIXED_POOL: Final = ("kind", "network", "parent")
_FREE_POOL: Final = ("cooldown", "retention", "elastic", "probe")


def network_step(wanted: NewNetwork, found: Network | None) -> NewNetwork | ChangeNetwork | None:
    """The one request that a network needs, if any."""
    if found is None:
        return wanted
    _check_owner("network", found)
    for field in _FIXED_NETWORK:
        _check_same("network", field, getattr(found, field), getattr(wanted, field))
    changed = {
        field: getattr(wanted, field)
        for field in _FREE_NETWORK
        if getattr(wanted, field) != getattr(found, field)
    }
    if not changed:
        return None
    return ChangeNetwork(revision=found.revision, owner=OWNER, **changed)


def pool_steps(
    wanted: WantedPool,
    found: Pool | None,
    network: Network | None,
    replicas: int,
    outer: Sequence[str] = (),
) -> list[Step]:
    """`replicas`: of the workloads that a pool follows. `outer`: the namespaces of the pool that it
    is nested in, which are its own where it lists none. Revisions are left out: the first request
    is of the pool as `found`, the others follow on the one before."""
    new = wanted.new
    if found is None:
        if not wanted.follows:
            return [new]
        # It begins with what it needs, and follows from the next step on.
        size = max(1, replicas + wanted.surplus)
        return [
            msgspec.structs.replace(new, size=str(size)),
            ChangePool(replicas=replicas, surplus=wanted.surplus, owner=OWNER),
        ]
    _check_owner("pool", found)
    for field in _FIXED_POOL:
        _check_same("pool", field, getattr(found, field), getattr(new, field))
    steps: list[Step] = []
    changed = {
        field: getattr(new, field)
        for field in _FREE_POOL
        if getattr(new, field) != getattr(found, field)
    }
    namespaces = new.namespaces or (sorted(outer) if new.parent is not None else [])
    if sorted(found.namespaces) != namespaces:
        changed["namespaces"] = namespaces
    if wanted.follows:
        if (found.replicas, found.surplus) != (replicas, wanted.surplus):
            changed |= {"replicas": replicas, "surplus": wanted.surplus}
    elif found.replicas is not None:
        changed["replicas"] = None
    if changed:
        steps.append(ChangePool(owner=OWNER, **changed))
    if not wanted.follows and new.elastic is None and network is not None:
        steps += _sized(new, found, network)
    return steps


def _sized(new: NewPool, found: Pool, network: Network) -> list[Step]:
    slots = SlotMap.of(network.ipv4, network.ipv6, network.mapping)
    gateways = (network.gateway4, network.gateway6)
    total = slots.total(network.range, network.exclude, gateways)
    has = slots.parse_ranges(found.ranges)
    if new.size is not None:
        # What of its ranges has become a gateway or excluded since is nobody's.
        more = int(new.size) - (has & total).size
        resize = ResizePool(size=str(abs(more)), owner=OWNER)
        return [] if not more else [Grow(resize) if more > 0 else Shrink(resize)]
    try:
        wanted = _spans(slots, new.ranges, total)
    except SlotError as error:
        raise invalid("spec.ranges", error) from None
    gone, more_of_it = has - wanted, wanted - has
    steps: list[Step] = []
    # A pool never becomes empty: where nothing would be left it grows first.
    if more_of_it:
        steps.append(Grow(ResizePool(ranges=slots.format_ranges(more_of_it), owner=OWNER)))
    if gone:
        steps.append(Shrink(ResizePool(ranges=slots.format_ranges(gone), owner=OWNER)))
    return steps


def _spans(slots: SlotMap, spans: Sequence[str], total: Ranges) -> Ranges:
    """As the server reads a pool's ranges: a subnet means those of its addresses that a pool can
    have, addresses and spans of them are taken at their word."""
    subnets = slots.parse_ranges([span for span in spans if "/" in span]) & total
    return subnets | slots.parse_ranges([span for span in spans if "/" not in span])


def upsert_order(wanted: Mapping[str, WantedPool]) -> list[str]:
    """Pools by name, those that others are nested in first."""
    return sorted(wanted, key=lambda name: (wanted[name].new.parent is not None, name))


def _check_owner(what: str, found: Network | Pool) -> None:
    if found.owner != OWNER:
        raise Problem(
            "owned",
            f"there is a {what} {found.name} already, and it is not Kubernetes'",
            do=f"hand it over (netspacectl {what} hand-over {found.name} --to kubernetes) or give"
            " this object another name",
        )


def _check_same(what: str, field: str, before: object, after: object) -> None:
    if before != after:
        raise invalid(
            f"spec.{field}",
            f"it never changes: {_shown(before)} -> {_shown(after)}",
            do=f"declare another {what}, or delete this one first",
        )


def _shown(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value[:3])) or "none"
    return "none" if value is None else str(value)
