"""Doing things in steps that can be taken back, whatever interrupts them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from netspace.threads import Threads

T = TypeVar("T")
logger = logging.getLogger(__name__)

_files: Final = Threads(8)
"""Calls that block for a file at once: more would only wait for the same disk."""


async def settled(work: Awaitable[T]) -> T:
    """The result of the work, which a cancellation does not stop half-way: it is passed on when the
    work has ended."""
    task = asyncio.ensure_future(work)
    interrupted = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
            interrupted = True
        except BaseException:
            break
    if interrupted:
        task.exception()
        raise asyncio.CancelledError
    return task.result()


async def in_thread(call: Callable[[], T]) -> T:
    """The result of a call that blocks for files, without stopping the other coroutines. A
    cancellation is passed on when the call has ended."""
    return await _files.run(call)


class Undo:
    """What to do when a later step fails: the last first, each even if another one fails."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], Awaitable[object]]]] = []

    def push(self, name: str, call: Callable[[], Awaitable[object]]) -> None:
        """Have this done, before everything that was pushed earlier."""
        self._steps.append((name, call))

    def forget(self) -> None:
        """Nothing is to be taken back any more. What the steps hold on to would also hold on to
        them, and only the collector of cycles would find it."""
        self._steps.clear()

    async def run(self) -> list[Exception]:
        """Takes everything back; the failures, which are logged with their step's name."""
        return await settled(self._run())

    async def _run(self) -> list[Exception]:
        failures: list[Exception] = []
        while self._steps:
            name, call = self._steps.pop()
            try:
                await call()
            except Exception as error:
                logger.warning("a step was not undone", extra={"step": name, "error": str(error)})
                failures.append(error)
        return failures
