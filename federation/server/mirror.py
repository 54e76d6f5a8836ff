"""The state kept warm by watching etcd, on every server of the cluster, the leader included."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable

from federation.server.keys import Keys
from federation.server.state import State
from statestore import Event, KeyValue, SnapshotPage, Store

log = logging.getLogger(__name__)

PAUSE = 0.5
"""Seconds until the state is read anew after it could not be understood."""


class Mirror:
    """`start` it, then `close` it. `state` is what was heard last; it is replaced, or changed
    between two awaits. `known`: whether it was read once."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self.state = State(keys)
        self.known = asyncio.Event()
        self.history = 0
        self._store = store
        self._keys = keys
        self._moved = asyncio.Event()
        self._renumbered = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._follow(), name="federation state")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def moved(self) -> None:
        """Returns when anything has changed."""
        await self._moved.wait()

    async def renumbered(self) -> None:
        """Returns when what nodes are told has changed, or at `wake`."""
        await self._renumbered.wait()

    def wake(self) -> None:
        """Lets everybody look who waits."""
        for event in (self._moved, self._renumbered):
            event.set()
            event.clear()

    async def reached(self, revision: int) -> State:
        """The state, once it has come to a revision at which something changed in it."""
        while not self._has(revision):
            await self._moved.wait()
        return self.state

    def _has(self, revision: int) -> bool:
        current = self.known.is_set() and self._store.history == self.history
        return current and self.state.revision >= revision

    async def _follow(self) -> None:
        while True:
            try:
                await self._watch()
            except Exception:
                log.exception("what etcd has cannot be understood")
            await asyncio.sleep(PAUSE)

    async def _watch(self) -> None:
        fresh, history = State(self._keys), self._store.history
        async with contextlib.aclosing(self._store.watch(self._keys.prefix)) as changes:
            async for change in changes:
                before = self.state.number
                if isinstance(change, SnapshotPage):
                    if change.first:
                        fresh, history = State(self._keys), self._store.history
                    _apply(fresh, change.revision, change.items)
                    if not change.last:
                        continue
                    self.state, self.history = fresh, history
                    self.known.set()
                else:
                    _apply(self.state, change.revision, change.events)
                self._moved.set()
                self._moved.clear()
                if self.state.number != before:
                    self._renumbered.set()
                    self._renumbered.clear()


def _apply(state: State, revision: int, changes: Iterable[KeyValue | Event]) -> None:
    known = dict(state.unreadable)
    state.apply(revision, changes)
    for parts, why in state.unreadable.items():
        if known.get(parts) != why:
            log.error("a record in etcd is passed over", extra={"key": "/".join(parts), "why": why})
