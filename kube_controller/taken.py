"""Who has the address that a pod asks for in vain, and what of it its namespace may know. Pure.

The node that was refused is not told who that is, since it may know its own pods only. A namespace
may know its own pods, and of what others have no more than that they have it. Events can be written
by whoever works in a namespace, and are no proof: what could not be asked for is not told either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from kube_controller.kinds import Pod, PodEvent
from kube_controller.namespaces import may_use
from netspace.messages import AddressEntry, AddressHistory, Pool, Selection
from netspace.problems import Problem
from netspace.selection import from_annotations

PAUSE: Final = 30.0
"""Seconds between two looks at the same event: nodes count it up every few seconds."""

Sight = Literal["ours", "outside", "reserved"]
"""Who has it, as the pod's namespace sees it."""


class Look(NamedTuple):
    """The version of an event that was looked at, and when in seconds."""

    version: str
    at: float


def due(found: Mapping[str, PodEvent], looks: Mapping[str, Look], now: float) -> list[str]:
    """The keys of events to look at: new ones, and those that changed, after a pause."""
    return [
        key
        for key, event in found.items()
        if (last := looks.get(key)) is None
        or (last.version != event.metadata.resource_version and now - last.at >= PAUSE)
    ]


def wish(event: PodEvent, pod: Pod) -> Selection | None:
    """What the event's pod asks for; None where the pod is another one by now, has come to its end,
    or names no address."""
    if event.involved_object.uid not in ("", *pod.uids):
        return None
    if pod.finished or pod.metadata.deletion_timestamp is not None:
        return None
    try:
        selection = from_annotations(pod.metadata.ours)
    except Problem:
        return None
    return selection if selection.ip else None


def pool_of(selection: Selection) -> str | None:
    """The pool that the pod names."""
    return selection.netspace or selection.application


def sight(pod: Pod, selection: Selection, entry: AddressEntry, pool: Pool | None) -> Sight | None:
    """Who has the address; None where nobody has it, or the pod itself, or where the pod could not
    have it anyway. `pool`: the one in which it lies."""
    named = pool_of(selection)
    namespace = pod.metadata.namespace
    if pool is None or named not in (None, pool.name) or not may_use(pool, namespace):
        return None
    if entry.state == "reserved":
        return "reserved"
    if entry.state != "used" or (entry.uid is not None and entry.uid in pod.uids):
        return None
    return "ours" if entry.namespace == namespace else "outside"


def since(entry: AddressEntry, history: AddressHistory) -> str | None:
    """Since when who has the address has it, where that is known."""
    held = (entry.container, entry.ifname, entry.uid)
    for past in history.items:
        if past.until is None and (past.container, past.ifname, past.uid) == held:
            return past.since
    return None


def message(
    seen: Sight, pod: Pod, selection: Selection, entry: AddressEntry, began: str | None = None
) -> str:
    """One sentence, the same for the same holder. `began`: since when one of ours has it."""
    address = " and ".join(selection.ip)
    if seen == "ours":
        uid = f" (UID {entry.uid})" if entry.uid else ""
        when = f" since {began}" if began else ""
        return f"{address} is held by {entry.namespace}/{entry.pod}{uid} on node {entry.node}{when}"
    how = "reserved" if seen == "reserved" else f"held outside namespace {pod.metadata.namespace}"
    return f"{address} is {how}: an admin sees it by netspacectl address show {selection.ip[0]}"
