"""Batches of allocations and releases: how many items are in work, and what becomes of each item.

An item is checked, carried out and answered as the single request would be; only the way there and
back is shared.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from ipam_server import roles
from ipam_server.allocations import Allocations
from netspace import messages as m
from netspace.batches import (
    AllocationAnswers,
    AllocationBatch,
    Batch,
    ReleaseAnswers,
    ReleaseBatch,
    sealed,
)
from netspace.callers import current
from netspace.http_application import unexpected
from netspace.passing import outcome_unknown
from netspace.problems import Problem

R = TypeVar("R", m.AllocateRequest, m.ReleaseRequest)
A = TypeVar("A", m.Allocation, m.Released)


class Batching(Allocations):
    """See the module."""

    async def allocate_batch(self, batch: AllocationBatch) -> AllocationAnswers:
        """Raises `Problem` where leadership ended on the way."""
        found = await self._each("allocations", batch.items, self._give)
        return AllocationAnswers(items=sealed(found))

    async def release_batch(self, batch: ReleaseBatch) -> ReleaseAnswers:
        """As `allocate_batch`."""
        found = await self._each("releases", batch.items, self._release)
        return ReleaseAnswers(items=sealed(found))

    async def _each(
        self, kind: str, items: Sequence[R], work: Callable[[R], Coroutine[Any, Any, A]]
    ) -> list[A | Problem]:
        """What each item comes to, in their order."""
        path = f"/v1/clusters/{self.name}/{kind}"
        refusals = [_refusal(item, kind, path) for item in items]
        allowed = [item for item, why in zip(items, refusals, strict=True) if why is None]
        # Beyond that there is place for those who come alone.
        if self._begun + len(allowed) > self._limits.max_waiting:
            outcomes: Iterator[A | Exception] = iter([_too_many(len(allowed))] * len(allowed))
        else:
            outcomes = iter(await self._finish_all([work(item) for item in allowed]))
        found = [_told(why or next(outcomes), path) for why in refusals]
        _check_led(found)
        return found

    async def _finish_all(self, works: list[Coroutine[Any, Any, A]]) -> list[A | Exception]:
        """Runs all to their end, begun in their order, whatever becomes of their caller, who waits
        a limited time."""
        tasks = [asyncio.create_task(work) for work in works]
        self._tasks.update(tasks)
        for task in tasks:
            task.add_done_callback(self._ended)
        if tasks:
            await asyncio.wait(tasks, timeout=self._limits.timeout + 1)
        return [_outcome(task) for task in tasks]


class Room:
    """Counts the items of all batches that a server has in work, its own and those passed on."""

    def __init__(self, most: int) -> None:
        self.inside = 0
        self.most = most

    @contextlib.contextmanager
    def entered(self, items: int) -> Iterator[bool]:
        """Whether so many more fit; they are inside for as long as this lasts if they do."""
        fits = self.inside + items <= self.most
        taken = items if fits else 0
        self.inside += taken
        try:
            yield fits
        finally:
            self.inside -= taken


def busy(batch: Batch) -> AllocationAnswers | ReleaseAnswers:
    """The answer to a batch for which there is no room."""
    items = sealed([_too_many(len(batch.items))] * len(batch.items))
    if isinstance(batch, AllocationBatch):
        return AllocationAnswers(items=items)
    return ReleaseAnswers(items=items)


def _too_many(items: int) -> Problem:
    return Problem(
        "busy",
        f"there is too much in work to take {items} items more",
        do="try again in a moment, or with fewer items",
        retry_after=1,
    )


def _refusal(item: m.AllocateRequest | m.ReleaseRequest, kind: str, path: str) -> Problem | None:
    """Why the caller may not ask for this item, by the row of the single request."""
    who = roles.who_may("POST", f"/v1/clusters/{{cluster}}/{kind}")
    try:
        who.check_scope(current(), f"POST {path}", {}, None, item)
    except Problem as problem:
        return problem
    return None


def _outcome(task: asyncio.Task[A]) -> A | Exception:
    if not task.done():
        return outcome_unknown()
    try:
        return task.result()
    except Exception as error:
        return error


def _told(outcome: A | Exception, path: str) -> A | Problem:
    """An item's outcome as its caller is told it; what nobody foresaw is logged."""
    if isinstance(outcome, Exception) and not isinstance(outcome, Problem):
        return unexpected(outcome, "POST", path)
    return outcome


def _check_led(found: Sequence[m.Allocation | m.Released | Problem]) -> None:
    """Raises `Problem` where leadership ended before every item was decided. Whoever asks then asks
    the next leader for the whole batch, which gives once more what was given already."""
    problems = [each for each in found if isinstance(each, Problem)]
    lost = [each for each in problems if each.code == "not-leader"]
    undone = [each for each in problems if each.code != "outcome-unknown"]
    if lost and len(undone) == len(found):
        raise lost[0]
    if lost:
        raise Problem(
            "outcome-unknown",
            f"leadership ended when {len(found) - len(undone)} of {len(found)} items were done, or"
            " may have been",
            do="ask again: the same request gets the same answer",
            retry_after=1,
        )
