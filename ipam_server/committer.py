"""The way of every write to etcd: changes that wait while one transaction is under way go together
in the next one.

The outer transaction compares that this server leads; each change is a transaction nested in it, so
that a loser falls out alone. When etcd's answer is lost, the same changes are put again until it is
known what became of them: whichever copy is carried out first makes the other one fall out, and the
key that a change probes tells which one it was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ipam_server.changes import Change
from ipam_server.figures import Figures
from netspace.passing import not_leader, outcome_unknown
from netspace.problems import Problem
from statestore import (
    DEFAULT_MAX_OPERATIONS,
    Compare,
    Event,
    OutcomeUnknown,
    OutOfSpace,
    Put,
    Store,
    StoreError,
    Txn,
    TxnResult,
    Unavailable,
    operations,
)

log = logging.getLogger(__name__)

MAX_BYTES = 1 << 20
"""What the changes of one transaction may weigh together; etcd takes 1.5 MiB unless configured."""

LOOK = 0.1
"""Seconds between two looks for changes that have waited too long."""

FEW = 8
"""Changes that one transaction takes in any case, if they wait."""

PAUSE = 0.2
"""Seconds between two attempts to learn what became of a transaction."""


class Conflict(Exception):
    """A comparison of the change did not hold: etcd has something else than the state in memory."""


@dataclass(eq=False, slots=True)
class Pending:
    """A change in the queue, `since` when by the monotonic clock, or under way. `decided` becomes
    its revision, a `Problem` or a `Conflict`."""

    change: Change
    nested: Txn
    since: float
    decided: asyncio.Future[int] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Committer:
    """The queue of changes of one term of leading, and the task that commits them.

    `applied(revision, events)` is called with what was committed before the futures of the changes
    are set; `finished(change)` when a change is decided, one way or the other. `extra()` gives a
    put that goes along with every outer transaction: an etcd out of space refuses those that put
    something themselves, but counts nothing of what nested transactions put.
    """

    def __init__(
        self,
        store: Store,
        fence: Compare,
        applied: Callable[[int, list[Event]], None],
        finished: Callable[[Change], None],
        extra: Callable[[], Put],
        max_operations: int = DEFAULT_MAX_OPERATIONS,
        max_waiting: int = 10_000,
        figures: Figures | None = None,
    ) -> None:
        self._store = store
        self._fence = fence
        self._applied = applied
        self._finished = finished
        self._extra = extra
        self._max_operations = max_operations
        self._max_waiting = max_waiting
        self._figures = figures or Figures()
        self._waiting: deque[Pending] = deque()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._last = 0
        self.stopped = False
        self.differs = False

    @property
    def waiting(self) -> int:
        """How many changes wait for a transaction."""
        return len(self._waiting)

    def put(self, change: Change) -> Pending:
        """Queues a change."""
        if self.stopped:
            raise not_leader()
        if len(self._waiting) >= self._max_waiting:
            raise Problem(
                "busy",
                f"{len(self._waiting)} changes wait for the state store",
                do="try again in a moment",
                retry_after=1,
            )
        pending = Pending(change, change.nested(), time.monotonic())
        self._waiting.append(pending)
        self._idle.clear()
        self._work.set()
        return pending

    async def expire(self, seconds: float) -> None:
        """Takes what has waited so long out of the queue, until cancelled."""
        while True:
            await asyncio.sleep(min(LOOK, seconds / 2))
            while self._waiting and self._waiting[0].since <= time.monotonic() - seconds:
                slow = Unavailable("a change", why="the state store is too slow or away")
                self._fail((self._waiting.popleft(),), state_unavailable(slow))

    def stop(self, *, differs: bool) -> None:
        """Sends nothing more; `run` returns once what is under way is decided."""
        self.stopped = True
        self.differs = self.differs or differs
        self._work.set()

    def nudge(self) -> None:
        """Starts a transaction though no change waits, for what `extra` has to say."""
        self._idle.clear()
        self._work.set()

    async def idle(self) -> None:
        """Returns when nothing waits and nothing is under way."""
        await self._idle.wait()

    async def run(self) -> None:
        """Commits until leadership is found to be lost, or etcd and memory to differ; cancel it to
        stop. After a difference nothing more is sent, so that the state can be read anew."""
        try:
            while True:
                await self._work.wait()
                if self.stopped:
                    return
                batch = self._batch()
                try:
                    await self._commit(batch)
                except BaseException:
                    self._fail(batch, outcome_unknown())
                    raise
                if not self._waiting and not self.stopped:
                    self._work.clear()
                    self._idle.set()
        finally:
            self.stopped = True
            self._fail(self._waiting, not_leader())
            self._waiting.clear()
            self._idle.set()

    def _batch(self) -> list[Pending]:
        """As many waiting changes, in order, as one outer transaction takes; no key twice."""
        batch: list[Pending] = []
        keys: set[bytes] = set()
        widest = weight = 0
        # Half of all who take turns: were all in one, this server would wait for etcd and etcd for
        # this server.
        most = max(FEW, (len(self._waiting) + self._last + 1) // 2)
        while self._waiting and len(batch) < most:
            change = self._waiting[0].change
            widest = max(widest, operations(self._waiting[0].nested))
            weight += change.weight
            touched = {op.key for op in change.then}
            full = len(batch) + 2 + widest > self._max_operations or weight > MAX_BYTES
            if batch and (full or touched & keys):
                break
            keys |= touched
            batch.append(self._waiting.popleft())
        self._last = len(batch)
        return batch

    async def _commit(self, batch: list[Pending]) -> None:
        extra = self._extra()
        outer = Txn((self._fence,), (*(pending.nested for pending in batch), extra))
        unknown = False
        began = time.monotonic()
        try:
            while True:
                try:
                    result = await self._store.txn(outer)
                except OutcomeUnknown as error:
                    log.warning("asking again what became of %d changes: %s", len(batch), error)
                    unknown = True
                except Unavailable as error:
                    if not unknown:
                        self._fail(batch, state_unavailable(error))
                        return
                except OutOfSpace as error:
                    if not unknown:
                        self._fail(batch, state_full(error))
                        return
                else:
                    break
                await asyncio.sleep(PAUSE)
        except StoreError as error:
            log.exception("the state store refused a transaction")
            self._fail(batch, Problem("internal", str(error)))
            return
        if not result.succeeded:
            self.stopped = True
            self._fail(batch, outcome_unknown() if unknown else not_leader())
            return
        changes = [(pending.change, pending.since) for pending in batch]
        self._figures.sent(changes, began, time.monotonic())
        self._settle(batch, result, extra)

    def _settle(self, batch: list[Pending], result: TxnResult, extra: Put) -> None:
        """Applies what landed, revision by revision, then tells everybody."""
        revisions: list[int | None] = []
        clock = Event("put", extra.key, extra.value, result.revision, result.revision)
        events: dict[int, list[Event]] = {result.revision: [clock]}
        for pending, nested in zip(batch, result.results, strict=False):
            assert isinstance(nested, TxnResult)
            revision = pending.change.landed(nested)
            revisions.append(revision)
            if revision is not None:
                events.setdefault(revision, []).extend(pending.change.events(revision))
        for revision in sorted(events):
            self._applied(revision, sorted(events[revision], key=lambda event: event.key))
        for pending, landed in zip(batch, revisions, strict=True):
            self._finished(pending.change)
            if landed is None:
                if not pending.change.shared:
                    self.stop(differs=True)
                _fail(pending, Conflict(pending.change.probe))
            elif not pending.decided.done():
                pending.decided.set_result(landed)

    def _fail(self, batch: Iterable[Pending], problem: Problem) -> None:
        for pending in batch:
            self._finished(pending.change)
            _fail(pending, problem)


def _fail(pending: Pending, error: Exception) -> None:
    if not pending.decided.done():
        pending.decided.set_exception(error)
        pending.decided.exception()


def state_unavailable(error: StoreError) -> Problem:
    return Problem("state-unavailable", str(error), retry_after=1)


def state_full(error: StoreError) -> Problem:
    return Problem("state-full", str(error))
