"""One term of leading a cluster: the state in memory, its clock, and the changes under way.

A term begins with the state at a revision after the leader's key was made, so that no write of an
earlier leader can follow, and ends for good when leadership is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from ipam_server.allocator import Choice
from ipam_server.audit import GROWTH, SHRINKING, AuditRecord, Word, audited, overdue, repaired, tell
from ipam_server.changes import Change, allocation, freeing, resizing
from ipam_server.committer import Committer, Conflict, state_unavailable
from ipam_server.elastic import Resize, ahead, given_back, spare
from ipam_server.figures import Entry, Figures
from ipam_server.history import forgetting, page_after, remembering
from ipam_server.inventory import Held, PoolState
from ipam_server.keys import SlotId
from ipam_server.records import Release, ranges_of
from ipam_server.state import ClusterState
from netspace.callers import Caller, current
from netspace.problems import Problem
from statestore import Delete, Leader, Put, Store, Unavailable

log = logging.getLogger(__name__)

FORGOTTEN = 50
"""Remembered changes, or released claims, that one transaction forgets."""

BURIED = 300.0
"""Seconds that a released claim is remembered: longer than a copy of its ADD is under way."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_operations`: etcd's limit for one transaction. `max_waiting`: changes in the queue.
    `timeout`: seconds a change may take. `clock_interval`: seconds between writes of the clock.
    `audit_entries`, `audit_age`: how many changes are remembered, and for how many seconds at most;
    looked at each `audit_interval`. `history_entries`, `history_age`: the same of the past holders
    of each slot, of which some are looked at each `history_interval`. `pool_interval`: how often
    elastic pools are looked at. `reclaim_grace`: seconds between two reports that prove a pod gone;
    `reclaim_interval`: how often what was proved gone is freed. `controller_networks`: whether
    controllers may make networks of their clusters."""

    max_operations: int = 128
    max_waiting: int = 10_000
    timeout: float = 20.0
    clock_interval: float = 5.0
    audit_entries: int = 10_000
    audit_age: float = 365 * 86400.0
    audit_interval: float = 60.0
    history_entries: int = 8
    history_age: float = 90 * 86400.0
    history_interval: float = 30.0
    pool_interval: float = 1.0
    reclaim_grace: float = 300.0
    reclaim_interval: float = 30.0
    controller_networks: bool = True


class Clock:
    """Milliseconds that the cluster has been led. It stands still between leaders, so a change of
    leader only lengthens what is measured by it; no wall clock is ever asked."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._since = time.monotonic()

    def now(self) -> int:
        return self._start + int((time.monotonic() - self._since) * 1000)


class Term:
    """See the module; `run` commits until leadership is lost. `server`: the leader's name."""

    def __init__(
        self,
        store: Store,
        leader: Leader,
        state: ClusterState,
        limits: Limits,
        figures: Figures,
        server: str,
    ) -> None:
        self.state = state
        self._server = Caller("server", name=server)
        self.limits = limits
        self._figures = figures
        self.clock = Clock(state.clock)
        self._sequence = 0
        self._store = store
        self._leader = leader
        self._gate = asyncio.Event()
        self._gate.set()
        self._admin = asyncio.Lock()
        self._waiters: dict[SlotId | str, list[asyncio.Future[None]]] = {}
        self._committer = Committer(
            store,
            leader.fence,
            state.apply,
            self._finished,
            self._tick,
            limits.max_operations,
            limits.max_waiting,
            figures,
        )

    @property
    def waiting(self) -> int:
        return self._committer.waiting

    @property
    def over(self) -> bool:
        return self._committer.stopped or not self._leader.leads

    async def run(self) -> bool:
        """Returns when the term has ended: True when leadership was lost, False when memory and
        etcd were found to differ, so that the state must be read anew."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(each)
                for each in (
                    self._committer.run(),
                    self._committer.expire(self.limits.timeout),
                    self._leader.lost(),
                    self._keep_clock(),
                    self._keep_audit(),
                    self._keep_buried(),
                    self._keep_history(),
                    self._keep_pools(),
                )
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        return not self._committer.differs

    def distrust(self) -> None:
        """Ends the term: what is in memory was refused too often to be what etcd has."""
        self._committer.stop(differs=True)

    def freeing(self, slot: SlotId, held: Held, conflict: bool = False) -> Change:
        """The change that ends one generation of a slot, at this moment of the cluster's clock.
        `conflict`: nobody gets the slot again for having had it."""
        self._sequence += 1
        said = int(time.time())
        now = self.clock.now()
        return freeing(self.state.keys, slot, held, now, self._sequence, said, conflict)

    def giving(self, choice: Choice) -> tuple[Choice, Change]:
        """The change that makes a choice true, and the choice with the time of day on it."""
        now = self.clock.now()
        choice = choice.stamped(now, int(time.time()))
        change = allocation(self.state.keys, choice, now)
        return choice, self.remembering(change, choice.slot, choice.past)

    def remembering(self, change: Change, slot: SlotId, past: Release | None) -> Change:
        """The change with a slot's past holder kept in its history."""
        return remembering(change, self.state, slot, past, self.limits.history_entries)

    def audited(self, change: Change, cause: str = "") -> tuple[Change, tuple[AuditRecord, ...]]:
        """The change with the word of who asked for it, if it is of something declared; where
        nobody did, `cause` says why this server makes it."""
        change, entries = audited(change, self.state, self._word(cause))
        self._sequence += len(entries)
        return change, entries

    def repaired(
        self, change: Change, before: Mapping[bytes, bytes | None]
    ) -> tuple[Change, tuple[AuditRecord, ...]]:
        """The same of a mend; `before`: the values of the keys that it writes."""
        word = self._word(f"repair by {current()}")
        self._sequence += 1
        return repaired(change, self.state, word, before)

    def _word(self, cause: str) -> Word:
        said = datetime.now(UTC).isoformat(timespec="seconds")
        caller = self._server if cause else current()
        return Word(caller, cause, self._sequence + 1, self.clock.now(), said)

    async def submit_audited(self, change: Change, cause: str = "") -> int:
        """Commits a change with the word of who made it, and says the same in the log."""
        change, entries = self.audited(change, cause)
        revision = await self.submit(change)
        for entry in entries:
            tell(entry, self.state.name, revision)
        return revision

    async def open(self) -> None:
        """Waits while somebody reshapes networks or pools."""
        # Whoever was waked may find the gate shut again by the next one who reshapes.
        while not self._gate.is_set():
            await self._gate.wait()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Keeps new allocations and releases waiting and lets those under way finish, so that a
        network or a pool is reshaped on a state that stands still."""
        async with self._admin:
            self._gate.clear()
            try:
                await self._bounded(self._committer.idle())
                yield
            finally:
                self._gate.set()

    async def submit(self, change: Change) -> int:
        """Commits a change and returns its revision. What was sent is waited for however long it
        takes; what was not sent within the time limit is withdrawn."""
        for slot in change.slots:
            self.state.take(slot)
        if change.resizes is not None:
            self.state.resizing.add(change.resizes)
        try:
            pending = self._committer.put(change)
        except Problem:
            self._finished(change)
            raise
        return await pending.decided

    async def decided(self, slot: SlotId | str) -> None:
        """Waits until the transaction under way for a slot, or for a pool of a network that grows
        or shrinks, is decided."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(slot, []).append(future)
        await self._bounded(future)

    async def _bounded(self, awaitable: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self.limits.timeout):
                await awaitable
        except TimeoutError:
            raise state_unavailable(
                Unavailable("waiting for a change under way", why="the state store does not answer")
            ) from None

    def _finished(self, change: Change) -> None:
        for slot in change.slots:
            self.state.give_back(slot)
            self._wake(slot)
        if change.resizes is not None:
            self.state.resizing.discard(change.resizes)
            self._wake(change.resizes)

    def _wake(self, slot: SlotId | str) -> None:
        for future in self._waiters.pop(slot, ()):
            if not future.done():
                future.set_result(None)

    def _tick(self) -> Put:
        return Put(self.state.keys.clock, b"%d" % self.clock.now())

    async def _keep_audit(self) -> None:
        """Forgets the oldest remembered changes, a few at a time."""
        while True:
            age = int(self.limits.audit_age * 1000)
            gone = overdue(self.state.audit, self.clock.now(), self.limits.audit_entries, age)
            await self._forget("audit", gone)
            await asyncio.sleep(self.limits.audit_interval)

    async def _keep_buried(self) -> None:
        """Forgets the claims that were released long ago."""
        while True:
            old = self.state.buried_before(self.clock.now() - int(BURIED * 1000))
            await self._forget("claim", old)
            await asyncio.sleep(self.limits.clock_interval)

    async def _keep_history(self) -> None:
        """Forgets the past holders of long ago, a page of them at a time, round and round."""
        after = b""
        while True:
            page = await page_after(self._store, self.state.keys, after)
            if page is not None:
                after = page.items[-1].key if page.items else b""
                age = int(self.limits.history_age * 1000)
                for change in forgetting(page, self.clock.now(), age):
                    with contextlib.suppress(Problem, Conflict):
                        await self.submit(change)
                        self._figures.forgotten["history"] += len(change.then)
            await asyncio.sleep(self.limits.history_interval)

    async def _keep_pools(self) -> None:
        """Lets elastic pools grow ahead of need and give back what is not needed."""
        calm: dict[str, int] = {}
        while True:
            for name in sorted(self.state.pools):
                await self.open()
                pool = self.state.pools.get(name)
                if pool is None or pool.record.network in self.state.resizing:
                    continue
                resize = self._resize(pool, calm)
                if resize is not None:
                    with contextlib.suppress(Problem, Conflict):
                        grows = ranges_of(resize.record).size > pool.ranges.size
                        change = resizing(self.state.keys, resize)
                        await self.submit_audited(change, GROWTH if grows else SHRINKING)
            await asyncio.sleep(self.limits.pool_interval)

    def _resize(self, pool: PoolState, calm: dict[str, int]) -> Resize | None:
        """What is to become of a pool now; `calm`: since when pools were not needed whole."""
        now = self.clock.now()
        grown = ahead(self.state, pool, now)
        count = 0 if grown else spare(self.state, pool, now)
        bounds = pool.record.bounds
        if not count or bounds is None:
            calm.pop(pool.name, None)
            return grown
        if now - calm.setdefault(pool.name, now) < bounds.quiet * 1000:
            return None
        calm[pool.name] = now
        return given_back(pool, count)

    async def _forget(self, entry: Entry, keys: list[bytes]) -> None:
        for at in range(0, len(keys), FORGOTTEN):
            deletes = tuple(map(Delete, keys[at : at + FORGOTTEN]))
            with contextlib.suppress(Problem, Conflict):
                await self.submit(Change((), deletes, deletes[0].key, None))
                self._figures.forgotten[entry] += len(deletes)

    async def _keep_clock(self) -> None:
        """Writes the clock while something is measured by it."""
        while True:
            await asyncio.sleep(self.limits.clock_interval)
            for pool in self.state.pools.values():
                self.state.settle(pool, self.clock.now())
            if any(pool.cooling or pool.retained for pool in self.state.pools.values()):
                self._committer.nudge()
