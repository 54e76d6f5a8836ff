"""A difference as lines that a person reads like a diff's, and as values for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from netspacectl.address_plan.difference import Changed, Difference, Step, Thing
from netspacectl.address_plan.fields import default_of, shown

MARKS: Final = {"create": "+", "change": "~", "grow": "~", "shrink": "~", "delete": "-"}
REFUSED: Final = "!"
KEPT: Final = "="
_ENOUGH: Final = 8
"""Items of a list that are shown."""


def lines(found: Difference) -> Iterator[tuple[str, str]]:
    """Each line with its mark: first what is refused, then the steps in their order."""
    for thing, reason in found.refused:
        yield REFUSED, f"{REFUSED} {thing}: {reason}"
    for step in found.steps:
        mark = MARKS[step.action]
        yield mark, f"{mark} {headline(step)}"
        for detail in _details(step):
            yield mark, f"    {detail}"
    if found.others:
        names = _few([str(thing) for thing in found.others])
        yield KEPT, f"{KEPT} Kubernetes looks after it, left alone: {names}"
    if found.kept:
        names = _few([str(thing) for thing in found.kept])
        yield KEPT, f"{KEPT} not in the file, and kept: {names} (--prune deletes what it can)"


def headline(step: Step) -> str:
    """A step in a few words."""
    if step.action in ("grow", "shrink"):
        return f"{step.thing}: {step.action} by {_space(step.request)}"
    return f"{step.thing}" if step.action != "delete" else f"{step.thing}: delete"


def counted(found: Difference) -> str:
    """How much there is to do."""
    counts: dict[str, Sequence[object]] = {
        "to create": [step for step in found.steps if step.action == "create"],
        "to change": [step for step in found.steps if MARKS[step.action] == "~"],
        "to delete": [step for step in found.steps if step.action == "delete"],
        "refused": found.refused,
    }
    return ", ".join(f"{len(them)} {what}" for what, them in counts.items() if them)


def document(found: Difference, done: int | None) -> dict[str, Any]:
    """The difference for programs. `done`: how many of the steps have been carried out; None where
    that was not tried."""
    return {
        "steps": [
            {
                "action": step.action,
                **_thing(step.thing),
                "request": None if step.request is None else msgspec.to_builtins(step.request),
                "changed": [
                    {
                        "field": change.field,
                        "before": msgspec.to_builtins(change.before),
                        "after": msgspec.to_builtins(change.after),
                    }
                    for change in step.changed
                ],
                "done": None if done is None else at < done,
            }
            for at, step in enumerate(found.steps)
        ],
        "refused": [{**_thing(thing), "reason": reason} for thing, reason in found.refused],
        "kept": [_thing(thing) for thing in found.kept],
        "others": [_thing(thing) for thing in found.others],
    }


def _thing(thing: Thing) -> dict[str, str | None]:
    return {"kind": thing.kind, "cluster": thing.cluster or None, "name": thing.name}


def _details(step: Step) -> Iterator[str]:
    if step.action == "create" and step.request is not None:
        fields = [
            f"{info.name} {shown(value)}"
            for info in msgspec.structs.fields(type(step.request))
            if (value := getattr(step.request, info.name)) != default_of(info)
            and info.name not in ("name", "network", "ranges", "size")
        ]
        if step.thing.kind == "pool":
            fields = [f"{_space(step.request)} of network {step.request.network}", *fields]  # type: ignore[attr-defined]
        if fields:
            yield "; ".join(fields)
    for change in step.changed:
        yield f"{change.field}: {_changed(change)}"


def _changed(change: Changed) -> str:
    if isinstance(change.before, list) and isinstance(change.after, list):
        gone = [item for item in change.before if item not in change.after]
        come = [item for item in change.after if item not in change.before]
        parts = [f"{mark} {_few(items)}" for mark, items in (("-", gone), ("+", come)) if items]
        return " ".join(parts)
    return f"{shown(change.before)} -> {shown(change.after)}"


def _space(request: Any) -> str:
    if request.size is not None:
        return f"{request.size} addresses" if request.size != "1" else "1 address"
    return _few(request.ranges)


def _few(items: list[str]) -> str:
    more = len(items) - _ENOUGH
    return shown(items[:_ENOUGH]) + (f" and {more} more" if more > 0 else "")
