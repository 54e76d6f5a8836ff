"""The status of a custom resource, from what the server has and what it said. Pure.

One condition, `Ready`: what is declared is there. Its reason is the problem's code in Kubernetes'
spelling, its message the problem in words. Source of the form: API conventions, "Typical status
properties", https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from kube_controller.kinds import Custom
from netspace.messages import AddressEntry, Network, Pool
from netspace.problems import Problem

READY: Final = "Ready"
AS_DECLARED: Final = "AsDeclared"
MOST_RANGES: Final = 100
"""Ranges shown of one thing; more say how many more."""
_LONGEST: Final = 1024
_NETWORK: Final = ("total", "carved", "used", "reserved", "uid")
_POOL: Final = ("size", "used", "free", "cooling", "retained", "replicas", "ranges")

Status = dict[str, Any]


def network_status(
    custom: Custom, found: Network | None, problem: Problem | None, now: datetime
) -> Status:
    """`found` None: the server has none, or none of ours; `problem`: why it is not as declared."""
    figures: Status = dict.fromkeys(_NETWORK)
    if found is not None:
        figures = {field: getattr(found, field) for field in _NETWORK}
    return _status(custom, figures, problem, now)


def pool_status(
    custom: Custom, found: Pool | None, problem: Problem | None, now: datetime
) -> Status:
    """As `network_status`."""
    figures: Status = dict.fromkeys(_POOL)
    if found is not None:
        figures = {field: getattr(found, field) for field in _POOL}
        figures["ranges"] = first(found.ranges)
    return _status(custom, figures, problem, now)


def change(custom: Custom, status: Status) -> Status | None:
    """The merge patch that makes the resource's status this one; None where it is already."""
    present = custom.status
    told = {
        field: value
        for field, value in status.items()
        if value is not None and present.get(field) != value
    }
    told |= {field: None for field, value in status.items() if value is None and field in present}
    return {"status": told} if told else None


def only_figures(patch: Status) -> bool:
    """Whether a change tells numbers alone: it may wait a little."""
    return "conditions" not in patch["status"] and "observedGeneration" not in patch["status"]


def unknown(custom: Custom, problem: Problem, now: datetime) -> Status:
    """The status where the server could not be asked: what is known stays, but whether it is as
    declared is not."""
    seen = custom.status.get("observedGeneration")
    if seen == custom.metadata.generation and not custom.going:
        return {}
    return {"conditions": [ready(custom, "Unknown", problem, now)]}


def held_by(problem: Problem, pods: Sequence[AddressEntry], more: bool) -> Problem:
    """Why something cannot go, with the pods that are in its way by name."""
    shown = [f"{each.namespace}/{each.pod}" for each in pods if each.pod]
    if not shown:
        return problem
    names = ", ".join(dict.fromkeys(shown)) + (", and more" if more else "")
    return Problem(problem.code, f"{problem.detail}: {names}", do="it goes when they are gone")


def reason_of(problem: Problem) -> str:
    """`no-space` → `NoSpace`."""
    return "".join(part.capitalize() for part in problem.code.split("-"))


def _status(custom: Custom, figures: Status, problem: Problem | None, now: datetime) -> Status:
    state = "True" if problem is None and not custom.going else "False"
    return {
        "observedGeneration": custom.metadata.generation,
        "conditions": [ready(custom, state, problem, now)],
        **figures,
    }


def ready(custom: Custom, state: str, problem: Problem | None, now: datetime) -> Status:
    """The condition `Ready`."""
    reason, message = AS_DECLARED, "the server has it as it is declared"
    if problem is not None:
        reason, message = reason_of(problem), str(problem)
    elif custom.going:
        reason, message = "Deleting", "it is being deleted"
    return condition(custom, READY, state, reason, message, now)


def condition(
    custom: Custom, kind: str, state: str, reason: str, message: str, now: datetime
) -> Status:
    """One condition; it has its time since it is what it is."""
    since = written(now)
    for before in custom.status.get("conditions") or ():
        if (before.get("type"), before.get("status")) == (kind, state):
            since = before.get("lastTransitionTime", since)
    return {
        "type": kind,
        "status": state,
        "reason": reason,
        "message": message[:_LONGEST],
        "observedGeneration": custom.metadata.generation,
        "lastTransitionTime": since,
    }


def written(time: datetime) -> str:
    """As Kubernetes writes times."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def first(texts: Sequence[str]) -> list[str]:
    """As many as are shown, and how many more there are."""
    if len(texts) <= MOST_RANGES:
        return list(texts)
    return [*texts[:MOST_RANGES], f"and {len(texts) - MOST_RANGES} more"]
