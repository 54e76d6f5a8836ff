"""Leading one cluster: campaigning, reading the state, and carrying requests through a term.

Requests go on to their end when their caller has gone; the caller waits a limited time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from ipam_server.changes import Change
from ipam_server.committer import Conflict, not_leader, outcome_unknown
from ipam_server.keys import Keys
from ipam_server.state import ClusterState
from ipam_server.term import Limits, Term
from netspace import messages as m
from netspace.problems import Problem
from statestore import Leadership, Store, StoreError

log = logging.getLogger(__name__)
T = TypeVar("T")

SHARED_ATTEMPTS = 3
"""How often a change of a network is decided anew because its fabric changed meanwhile."""

PAUSE = 0.5
"""Seconds between two attempts to read the state after a failure."""


class Leading:
    """One cluster's terms, one after the other. `run` campaigns, leads and campaigns again."""

    def __init__(self, store: Store, name: str, server: str, ttl: int, limits: Limits) -> None:
        self.name = name
        self._store = store
        self._limits = limits
        self._term: Term | None = None
        self._leading = asyncio.Event()
        self.dissolved = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._election = Leadership(store, Keys(name).leader, server.encode(), ttl)

    async def run(self) -> None:
        """Leads whenever it can; cancel it to stop. On the way out leadership is given up."""
        while True:
            async with await self._election.campaign() as leader:
                while leader.leads:
                    try:
                        term = await Term.load(self._store, leader, self.name, self._limits)
                    except StoreError as error:
                        log.warning("cluster %s: cannot read the state: %s", self.name, error)
                        await asyncio.sleep(PAUSE)
                        continue
                    except Exception:
                        log.exception("cluster %s: the state cannot be understood", self.name)
                        await asyncio.sleep(2 * PAUSE)
                        continue
                    self._begin(term)
                    try:
                        await term.run()
                    except Exception:
                        log.exception("cluster %s: a fault; the state is read anew", self.name)
                        await asyncio.sleep(PAUSE)
                    finally:
                        self._leading.clear()
                log.warning("cluster %s: no longer leading", self.name)

    def _begin(self, term: Term) -> None:
        self._term = term
        self._leading.set()
        log.info("cluster %s: leading from revision %d", self.name, term.state.revision)

    async def close(self) -> None:
        """Lets the requests under way finish, at most as long as one may take."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._limits.timeout)

    @property
    def leading(self) -> bool:
        return self._leading.is_set()

    async def wait_until_leading(self) -> None:
        await self._leading.wait()

    async def leader(self) -> str | None:
        """Who leads, as etcd has it."""
        current = await self._election.current()
        return current[0].decode() if current else None

    @property
    def term(self) -> Term:
        """The term under way, or the last one for reading while there is none."""
        if self._term is None:
            raise not_leader()
        return self._term

    def _lead(self) -> Term:
        term = self.term
        if self.dissolved or not self.leading or term.over:
            raise not_leader()
        return term

    async def _open(self) -> Term:
        """The term under way, once nobody reshapes its networks or pools."""
        while True:
            term = self._lead()
            await term.open()
            if term is self._lead():
                return term

    async def status(self) -> m.ClusterStatus:
        leader = None
        try:
            leader = await self.leader()
        except StoreError as error:
            log.warning("cluster %s: cannot read who leads: %s", self.name, error)
        term = self._term
        state = term.state if term else ClusterState(self.name)
        return m.ClusterStatus(
            name=self.name,
            leading=self.leading,
            leader=leader,
            revision=state.revision,
            networks=len(state.networks),
            pools=len(state.pools),
            used=sum(len(known.held) for known in state.networks.values()),
            released=sum(len(known.released) for known in state.networks.values()),
            waiting=term.waiting if term else 0,
        )

    async def _reshape(self, decide: Callable[[Term], Awaitable[Change]]) -> None:
        """Decides and commits while nothing else changes; once more when a fabric was changed by
        another cluster's leader in between."""
        await self._finish(self._reshaped(decide))

    async def _reshaped(self, decide: Callable[[Term], Awaitable[Change]]) -> None:
        term = self._lead()
        async with term.alone():
            for _ in range(SHARED_ATTEMPTS):
                with contextlib.suppress(Conflict):
                    await term.submit(await decide(term))
                    return
        raise _changed()

    async def _commit(self, term: Term, change: Change) -> int:
        try:
            return await term.submit(change)
        except Conflict:
            raise _changed() from None

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a request to its end, whatever becomes of its caller, who waits a limited time."""
        if len(self._tasks) >= 2 * self._limits.max_waiting:
            work.close()
            raise Problem("busy", "too many requests are under way", retry_after=1)
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_retrieve)
        done, _ = await asyncio.wait({task}, timeout=self._limits.timeout + 1)
        if not done:
            raise outcome_unknown()
        return task.result()


def _changed() -> Problem:
    return Problem(
        "changed",
        "something changed while the request was decided",
        do="ask again",
        retry_after=1,
    )


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
