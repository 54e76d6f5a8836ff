"""Many allocations or releases in one request: the messages, and what stands for an item.

Each item of an answer is what the single request would have been answered: its answer, or its
problem in an object of its own. JSON tells the two apart by the member `problem` alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from netspace.messages import AllocateRequest, Allocation, Answer, Released, ReleaseRequest, Request
from netspace.problems import Problem, ProblemDocument

MAX_ITEMS: Final = 500
"""Items of one batch."""

A = TypeVar("A")


def _either(answer: str) -> dict[str, Any]:
    """The JSON schema of an item."""
    problem = {
        "title": "Refused",
        "type": "object",
        "properties": {"problem": {"$ref": "#/components/schemas/ProblemDocument"}},
        "required": ["problem"],
    }
    return {"anyOf": [{"$ref": f"#/components/schemas/{answer}"}, problem]}


class AllocationBatch(Request):
    """Items of one attachment are carried out in their order, all others in any."""

    items: Annotated[list[AllocateRequest], Meta(max_length=MAX_ITEMS)]


class ReleaseBatch(Request):
    """As with allocations."""

    items: Annotated[list[ReleaseRequest], Meta(max_length=MAX_ITEMS)]


Batch = AllocationBatch | ReleaseBatch


class AllocationAnswers(Answer):
    """One item for each that was asked, in the same order."""

    items: list[Annotated[msgspec.Raw, Meta(extra_json_schema=_either(Allocation.__name__))]]


class ReleaseAnswers(Answer):
    """As with allocations."""

    items: list[Annotated[msgspec.Raw, Meta(extra_json_schema=_either(Released.__name__))]]


class _Refused(Answer):
    problem: ProblemDocument | None = None


def sealed(answers: Iterable[Allocation | Released | Problem]) -> list[msgspec.Raw]:
    """The items of an answer."""
    return [
        msgspec.Raw(
            msgspec.json.encode(
                _Refused(problem=each.document()) if isinstance(each, Problem) else each
            )
        )
        for each in answers
    ]


def opened(items: Iterable[msgspec.Raw], kind: type[A]) -> list[A | Problem]:
    """What `sealed` was given; raises `msgspec.DecodeError`."""
    found: list[A | Problem] = []
    for item in items:
        problem = msgspec.json.decode(item, type=_Refused).problem
        if problem is None:
            found.append(msgspec.json.decode(item, type=kind))
        else:
            found.append(Problem.of(problem))
    return found
