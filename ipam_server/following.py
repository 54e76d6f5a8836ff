"""A cluster's state kept warm by watching etcd, so that reads are answered from memory and a server
that becomes leader goes on at once, whatever the size of the state.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging

from ipam_server.state import ClusterState
from statestore import SnapshotPage, Store

log = logging.getLogger(__name__)

PAUSE = 0.5
"""Seconds until the state is read anew after it could not be understood."""


class Follower:
    """Follows between `resume` and `pause`. While somebody leads on its `state`, it is paused.
    `leaders`: how many leaders have followed the first one it heard of."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._task: asyncio.Task[None] | None = None
        self._waiting: list[tuple[int, asyncio.Future[ClusterState]]] = []
        self._moved = asyncio.Event()
        self._current = False
        self._history = 0
        self._term = 0
        self.leaders = 0
        self.state: ClusterState | None = None

    def resume(self, *, anew: bool) -> None:
        """Goes on from the state there is; with `anew`, without a state, or where etcd was restored
        since, reads all of it again, beside the old one, which answers until the new one takes its
        place."""
        anew = anew or self._store.history != self._history
        after = None if anew or self.state is None else self.state.revision
        self._current = after is not None
        self._task = asyncio.create_task(self._follow(after), name=f"following {self._name}")

    async def pause(self) -> None:
        """Stops following; the state is the caller's from then on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def reached(self, revision: int) -> ClusterState:
        """The state, once it has come to a revision at which something of the cluster changed."""
        if self._has(revision):
            assert self.state is not None
            return self.state
        future: asyncio.Future[ClusterState] = asyncio.get_running_loop().create_future()
        self._waiting.append((revision, future))
        return await future

    def _has(self, revision: int) -> bool:
        """Of an etcd that was restored since, the state says nothing, whatever its revision."""
        current = self._current and self._store.history == self._history
        return current and self.state is not None and self.state.revision >= revision

    async def moved(self) -> None:
        """Returns when the state has changed."""
        await self._moved.wait()

    async def _follow(self, after: int | None) -> None:
        while True:
            try:
                await self._watch(after)
            except Exception:
                log.exception("cluster %s: what etcd has cannot be understood", self._name)
                await asyncio.sleep(PAUSE)
                after = None

    async def _watch(self, after: int | None) -> None:
        fresh, history = ClusterState(self._name), self._store.history
        prefix = fresh.keys.prefix
        changes = self._store.watch(prefix, after, without=fresh.keys.attachments)
        async with contextlib.aclosing(changes):
            async for change in changes:
                if isinstance(change, SnapshotPage):
                    if change.first:
                        fresh, history = ClusterState(self._name), self._store.history
                    fresh.apply(change.revision, change.items, more=not change.last)
                    # What was read stays: the collector need not go through it again and again.
                    gc.freeze()
                    if not change.last:
                        continue
                    self.state, self._current, self._history = fresh, True, history
                else:
                    assert self.state is not None
                    ordered = sorted(change.events, key=lambda event: event.key)
                    self.state.apply(change.revision, ordered)
                self._tell()

    def _tell(self) -> None:
        assert self.state is not None
        if self.state.led_since != self._term:
            self.leaders += self._term != 0
            self._term = self.state.led_since
        self._moved.set()
        self._moved.clear()
        waiting, self._waiting = self._waiting, []
        for revision, future in waiting:
            if not self._has(revision):
                self._waiting.append((revision, future))
            elif not future.done():
                future.set_result(self.state)
