"""What is done with each object of ours: it is tried to bring it to what it declares, again after a
pause where that was refused; and its finalizer is put in and taken out.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from kube_controller.kinds import FINALIZER, Custom, Resource
from kube_controller.metrics import Metrics
from kube_controller.telling import Teller
from netspace.kube_api import ApiError, KubeApi
from netspace.problems import Problem

log = logging.getLogger(__name__)

RETRY: Final = (1.0, 10.0)
"""Seconds until what was refused is tried again, at first and at most, if nothing changes."""


@dataclass
class _Refusal:
    inputs: object
    problem: Problem
    due: float
    pause: float


class Attempts:
    """Remembers of objects that were refused when they are tried again."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._refused: dict[tuple[str, str], _Refusal] = {}

    @property
    def problems(self) -> dict[tuple[str, str], Problem]:
        """Why an object, by its kind's plural and its name, is not as it is declared."""
        return {key: refusal.problem for key, refusal in self._refused.items()}

    def next_due(self) -> float:
        """Seconds until the next object that was refused is to be tried again."""
        dues = [refusal.due for refusal in self._refused.values()]
        return max(0.1, min(dues, default=float("inf")) - monotonic())

    def forget_but(self, names: Collection[str]) -> None:
        """Forgets the objects of other names."""
        for key in [key for key in self._refused if key[1] not in names]:
            del self._refused[key]

    async def attempt(
        self,
        resource: Resource[Custom],
        custom: Custom,
        inputs: object,
        work: Callable[[], Awaitable[None]],
        *,
        whole: bool = True,
    ) -> bool:
        """Whether it is done. What was refused before is left alone for a while, unless the object
        or its inputs have changed. `whole`: nothing more is to be done with the object."""
        key = (resource.plural, custom.name)
        seen = custom.metadata
        asked = (seen.uid, seen.generation, custom.going, inputs)
        before = self._refused.get(key)
        now = monotonic()
        if before is not None and before.inputs == asked and now < before.due:
            return False
        try:
            await work()
        except Exception as error:
            problem = problem_of(error)
            first, longest = RETRY
            pause = first
            if before is not None and before.problem.code == problem.code:
                pause = min(longest, before.pause * 2)
            self._refused[key] = _Refusal(asked, problem, now + pause, pause)
            self._metrics.problems.labels(resource.plural, problem.code).inc()
            if before is None or str(before.problem) != str(problem):
                log.warning(
                    "not as declared: %s", problem,
                    extra={"kind": resource.plural, "object": custom.name, "code": problem.code},
                )  # fmt: skip
            return False
        if whole:
            self._refused.pop(key, None)
        return True


async def hold(api: KubeApi, resource: Resource[Custom], custom: Custom) -> None:
    """Sees to it that the object is not gone before the server has let go."""
    if not custom.held:
        finalizers = [*(custom.metadata.finalizers or ()), FINALIZER]
        await api.patch(resource.of(custom.name), {"metadata": _versioned(custom, finalizers)})


async def let_go(teller: Teller, resource: Resource[Custom], custom: Custom) -> None:
    """Lets an object go that has been deleted."""
    left = [each for each in custom.metadata.finalizers or () if each != FINALIZER]
    await teller.patch(resource, custom, {"metadata": _versioned(custom, left)})


def problem_of(error: Exception) -> Problem:
    """What went wrong with one object, in the words of the conditions. A fault of ours in one is no
    reason to leave the others alone."""
    match error:
        case Problem():
            return error
        case ApiError(status=409):
            return Problem("changed", "the object was changed meanwhile", do="it is tried again")
        case ApiError(why=why):
            return Problem("unavailable", why)
    log.error("a fault with one object", exc_info=error)
    return Problem("internal", f"a fault in the controller: {error!r}", do="look into its log")


def _versioned(custom: Custom, finalizers: list[str]) -> dict[str, Any]:
    return {"resourceVersion": custom.metadata.resource_version, "finalizers": finalizers}
