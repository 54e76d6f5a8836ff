"""Work that takes longer than a request may: begun by one request, waited for by those that follow.

Who begins a run is told its number, and how far it is, until it is done. A run that nobody asks for
any more is ended.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from netspace.problems import Problem

T = TypeVar("T")

PATIENCE: Final = 3.0
"""Seconds that a request waits for a run."""

FORGOTTEN: Final = 60.0
"""Seconds without a request after which a run is ended."""

MOST: Final = 4
"""Runs at once."""


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A run that is not done: its number, and how far it is."""

    run: str
    progress: int


class Runs(Generic[T]):
    """The runs of one kind."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[T]] = {}
        self._progress: dict[str, int] = {}
        self._ends: dict[str, asyncio.TimerHandle] = {}

    async def ask(
        self, run: str | None, work: Callable[[Callable[[int], None]], Coroutine[Any, Any, T]]
    ) -> T | UnderWay:
        """Begins the work, to which a function to tell its progress is given, or goes on waiting
        for a run; what comes of it comes once."""
        if run is None:
            run = self._begin(work)
        task = self._tasks.get(run)
        if task is None:
            raise Problem("not-found", "nothing of this number is under way", do="begin anew")
        self._keep(run)
        await asyncio.wait({task}, timeout=PATIENCE)
        if not task.done():
            self._keep(run)
            return UnderWay(run, self._progress[run])
        self._drop(run)
        return task.result()

    async def end(self) -> None:
        """Ends all of them."""
        tasks = list(self._tasks.values())
        for run in list(self._tasks):
            self._drop(run)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, work: Callable[[Callable[[int], None]], Coroutine[Any, Any, T]]) -> str:
        if len(self._tasks) >= MOST:
            raise Problem(
                "busy", f"{MOST} of this kind are under way", do="try again later", retry_after=5
            )
        run = secrets.token_hex(8)
        self._progress[run] = 0

        def tell(progress: int) -> None:
            self._progress[run] = progress

        self._tasks[run] = asyncio.create_task(work(tell), name=f"run {run}")
        return run

    def _keep(self, run: str) -> None:
        if (end := self._ends.pop(run, None)) is not None:
            end.cancel()
        loop = asyncio.get_running_loop()
        self._ends[run] = loop.call_later(FORGOTTEN, self._drop, run)

    def _drop(self, run: str) -> None:
        if (end := self._ends.pop(run, None)) is not None:
            end.cancel()
        task = self._tasks.pop(run, None)
        self._progress.pop(run, None)
        if task is not None and not task.done():
            task.cancel()
