"""What the webhook says to annotations, before Kubernetes takes them: pure rules.

The same rules refuse a pod's ADD later; here whoever applies an object is told at once. Judged is
only what an object says anew: one that is there already may be changed otherwise, wrong as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from kube_controller.kinds import Metadata, Namespace
from kube_controller.namespaces import may_use, selection_of
from netspace.messages import Network, Pool, Selection
from netspace.problems import Problem
from netspace.selection import PREFIX, from_annotations
from netspace.slots import SlotError, SlotMap, parse_address

TEMPLATES: Final = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Where a workload has its pods' annotations."""


class Asked(msgspec.Struct, frozen=True):
    """The object that somebody wants Kubernetes to take."""

    kind: str
    name: str
    namespace: str
    object: dict[str, Any]
    old: dict[str, Any] | None = None


class Known(msgspec.Struct, frozen=True):
    """The networks and pools that the cluster has at the server, by name."""

    networks: Mapping[str, Network]
    pools: Mapping[str, Pool]


class Verdict(msgspec.Struct):
    """`faults` keep the object from being taken, `warnings` do not."""

    faults: list[str] = []
    warnings: list[str] = []


def annotations_of(kind: str, found: Mapping[str, Any] | None) -> dict[str, str]:
    """Those of ours in an object, or in its template; what has another form has none."""
    place: Any = found or {}
    for key in (*TEMPLATES.get(kind, ()), "metadata", "annotations"):
        place = place.get(key) if isinstance(place, Mapping) else None
    if not isinstance(place, Mapping):
        return {}
    return {key: str(value) for key, value in place.items() if key.startswith(PREFIX)}


def judged(asked: Asked) -> dict[str, str]:
    """The annotations that the object says anew; empty where nothing is to be judged."""
    new = annotations_of(asked.kind, asked.object)
    return new if new != annotations_of(asked.kind, asked.old) else {}


def selected(asked: Asked, ours: Mapping[str, str]) -> Selection:
    """What they choose; `Problem` invalid."""
    if asked.kind == "Namespace":
        return selection_of(Namespace(Metadata(annotations=dict(ours))))
    return from_annotations(ours)


def verdict(asked: Asked, known: Known | Problem) -> Verdict:
    """What is to be said to the object; `known` is a `Problem` where the server did not answer."""
    ours = judged(asked)
    if not ours:
        return Verdict()
    try:
        selection = selected(asked, ours)
    except Problem as problem:
        return Verdict([str(problem)])
    found = Verdict()
    if selection.ip and asked.kind in TEMPLATES and _replicas(asked) != 1:
        found.warnings.append(
            f"{PREFIX}ip in a template is for one pod: of several, one gets the address"
        )
    if isinstance(known, Problem):
        found.warnings.append(
            f"{PREFIX}: the address server does not answer, so pools were not looked at"
        )
        return found
    found.faults += _faults(asked, selection, known)
    return found


def _replicas(asked: Asked) -> object:
    spec = asked.object.get("spec")
    if not isinstance(spec, Mapping):
        return None
    return 1 if asked.kind in ("Job", "CronJob") else spec.get("replicas", 1)


def _faults(asked: Asked, selection: Selection, known: Known) -> Iterator[str]:
    namespace = asked.name if asked.kind == "Namespace" else asked.namespace
    kind: Literal["application", "netspace"] = "netspace"
    name = selection.netspace
    if selection.application is not None:
        kind, name = "application", selection.application
    usable = [pool for pool in known.pools.values() if may_use(pool, namespace)]
    if name is not None:
        pool = known.pools.get(name)
        if pool is None:
            yield f"{PREFIX}{kind}: there is no pool {name}: correct the name, or make it first"
            return
        if pool not in usable:
            yield f"{PREFIX}{kind}: pool {name} does not list namespace {namespace}"
            return
        if (pool.kind == "application") != (kind == "application"):
            other = "application" if pool.kind == "application" else "netspace"
            yield f"{PREFIX}{kind}: {name} is a pool of kind {pool.kind}: use {PREFIX}{other}"
            return
        usable = [pool]
    else:
        usable = [pool for pool in usable if pool.kind != "application"]
    if selection.ip and not any(_has(pool, selection.ip, known) for pool in usable):
        where = f"pool {name}" if name else f"no pool that namespace {namespace} may use"
        yield (
            f"{PREFIX}ip: {' and '.join(selection.ip)} {'is not in' if name else 'is in'} {where}"
        )
    if name is not None:
        network = known.networks.get(usable[0].network)
        for family in selection.families if network else ():
            if getattr(network, family) is None:
                yield f"{PREFIX}families: the network of pool {name} has no {family}"


def _has(pool: Pool, addresses: Sequence[str], known: Known) -> bool:
    """Whether the addresses are of one slot of the pool."""
    network = known.networks.get(pool.network)
    if network is None:
        return True  # It was made just now.
    slots = SlotMap.of(network.ipv4, network.ipv6, network.mapping)
    try:
        indices = {slots.index_of(parse_address(text)) for text in addresses}
    except SlotError:
        return False
    return len(indices) == 1 and indices.pop() in slots.parse_ranges(pool.ranges)
