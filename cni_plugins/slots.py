"""Bounded work: so many at once, so many that wait in the order they came, and no more."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from cni_plugins.protocol import TRY_AGAIN, CniError


class Slots:
    """Turns that are taken and given back in one event loop; the bounds may change at any time."""

    def __init__(self) -> None:
        self.busy = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._queue)

    @asynccontextmanager
    async def one(self, at_once: int, waiting: int) -> AsyncIterator[None]:
        """A turn for the body, waited for behind those that came before. `CniError` 11 where
        `waiting` wait already."""
        if self.busy < at_once and not self._queue:
            self.busy += 1
        else:
            await self._turn(waiting)
        try:
            yield
        finally:
            self.busy -= 1
            self._next(at_once)

    async def _turn(self, waiting: int) -> None:
        if len(self._queue) >= waiting:
            raise CniError(
                TRY_AGAIN,
                "the agent has too much to do",
                f"{self.busy} calls are under way and {waiting} wait; netspace-agent status says "
                "what keeps them, agent.at_once and agent.waiting bound them",
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):
                    self._queue.remove(turn)
            else:  # The turn came at the same moment: it is the next one's.
                self.busy -= 1
                self._next(self.busy + 1)
            raise

    def _next(self, at_once: int) -> None:
        while self.busy < at_once and self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                self.busy += 1
                turn.set_result(None)
