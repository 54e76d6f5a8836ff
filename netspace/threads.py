"""Work that blocks, done in a thread while an event loop goes on.

asyncio's own executors cost twice as much: a lock, a condition and a second future for each call.
"""

from __future__ import annotations

import _thread
import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What came of a piece of work: a result, or what it raised."""

    result: tuple[T] | None = None
    error: BaseException | None = None

    def value(self) -> T:
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result[0]


def outcome_of(work: Callable[[], T]) -> Outcome[T]:
    """Does the work."""
    try:
        return Outcome(result=(work(),))
    except BaseException as error:
        return Outcome(error=error)


async def told(begin: Callable[[Callable[[Outcome[T]], None]], None]) -> T:
    """The result of work that `begin` has done in a thread, which calls what it is given with the
    outcome. A cancellation is passed on when the work has ended."""
    loop = asyncio.get_running_loop()
    outcomes: list[Outcome[T]] = []
    waiting = loop.create_future()
    interrupted = False

    def ended(outcome: Outcome[T]) -> None:
        outcomes.append(outcome)
        if not waiting.done():
            waiting.set_result(None)

    def tell(outcome: Outcome[T]) -> None:
        loop.call_soon_threadsafe(ended, outcome)

    begin(tell)
    while not outcomes:
        try:
            await waiting
        except asyncio.CancelledError:
            interrupted = True
            if not outcomes:
                waiting = loop.create_future()
    if interrupted:
        raise asyncio.CancelledError
    return outcomes[0].value()


class Threads:
    """At most so many threads, started when they are needed, that do pieces of work in the order
    they come. They end with the process."""

    def __init__(self, most: int) -> None:
        self._most, self._started = most, 0
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()

    async def run(self, work: Callable[[], T]) -> T:
        """The result of the work; a cancellation waits until it has ended."""

        def begin(tell: Callable[[Outcome[T]], None]) -> None:
            self._work.put(lambda: tell(outcome_of(work)))
            if self._started < self._most and not self._work.empty():
                self._start()

        return await told(begin)

    def _start(self) -> None:
        try:
            _thread.start_new_thread(self._serve, ())
        except RuntimeError:
            # Others come to it. Where there are none, what is refused must not be done later.
            if not self._started:
                self._work.get()
                raise
        else:
            self._started += 1

    def _serve(self) -> None:
        while True:
            # Nothing of the last piece is held on to while the next is waited for.
            self._work.get()()
