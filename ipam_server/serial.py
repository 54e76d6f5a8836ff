"""One thing at a time for each key: ADD and DEL of one attachment never overlap."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable

_Waiting = deque[asyncio.Future[None]]


class KeyedLocks:
    """A lock per key, first come first served; keys that nobody uses take no memory."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, _Waiting | None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def hold(self, key: Hashable) -> Hold:
        """To be used in `async with`."""
        return Hold(self._waiting, key)


class Hold:
    """One use of one key's lock."""

    __slots__ = ("_key", "_waiting")

    def __init__(self, waiting: dict[Hashable, _Waiting | None], key: Hashable) -> None:
        self._waiting = waiting
        self._key = key

    async def __aenter__(self) -> None:
        if self._key not in self._waiting:
            self._waiting[self._key] = None
            return
        queue = self._waiting[self._key]
        if queue is None:
            queue = self._waiting[self._key] = deque()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # It was given to us just when we were cancelled.
                self._leave()
            raise

    async def __aexit__(self, *error: object) -> None:
        self._leave()

    def _leave(self) -> None:
        queue = self._waiting[self._key]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[self._key]
