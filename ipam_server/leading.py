"""Following and leading one cluster, and carrying requests through a term.

Requests go on to their end when their caller has gone; the caller waits a limited time. For what
nodes ask, HTTP's server sees to both, so that it takes no second task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from ipam_server.audit_pages import audit_page
from ipam_server.changes import Change
from ipam_server.committer import Conflict
from ipam_server.figures import Figures
from ipam_server.following import Follower
from ipam_server.keys import Keys
from ipam_server.state import ClusterState
from ipam_server.term import Limits, Term
from netspace import messages as m
from netspace.passing import not_leader, outcome_unknown
from netspace.problems import Problem
from statestore import Leader, Leadership, Store, StoreError, again_and_again

log = logging.getLogger(__name__)
T = TypeVar("T")

SHARED_ATTEMPTS = 3
"""How often a change of a network is decided anew because its fabric changed meanwhile."""


class LeaderRecord(msgspec.Struct, frozen=True):
    """What a leader's key says: its name, and where the other servers reach it."""

    name: str
    endpoint: str


class Leading:
    """One cluster as this server has it: followed while another server leads, led otherwise.

    `start` it, `retire` before the end so that another server can go on, then `close`.
    """

    def __init__(
        self, store: Store, name: str, server: LeaderRecord, ttl: int, limits: Limits
    ) -> None:
        self.name = name
        self.figures = Figures()
        self._server = server
        self._limits = limits
        self._store = store
        self._term: Term | None = None
        self._following = Follower(store, name)
        self._leading = asyncio.Event()
        self._retired = False
        self._running: asyncio.Task[None] | None = None
        self._retiring: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        # Requests in their callers' tasks; and who waits until there is none.
        self._inside = 0
        self._emptied: asyncio.Future[None] | None = None
        value = msgspec.json.encode(server)
        self._election = Leadership(store, Keys(name).leader, value, ttl)

    def start(self) -> None:
        """Begins to follow, and to campaign."""
        self._following.resume(anew=True)
        self._running = asyncio.create_task(self._run(), name=f"cluster {self.name}")

    async def retire(self) -> None:
        """Decides nothing more, lets what is under way finish, and gives leadership up; what is
        asked from then on is for another server. It follows on. Done once, however often asked."""
        self._retired = True
        if self._retiring is None:
            self._retiring = asyncio.create_task(self._retire(), name=f"retiring {self.name}")
        await asyncio.shield(self._retiring)

    async def _retire(self) -> None:
        under_way: set[asyncio.Future[Any]] = {*self._tasks}
        if self._inside:
            self._emptied = asyncio.get_running_loop().create_future()
            under_way.add(self._emptied)
        if under_way:
            await asyncio.wait(under_way, timeout=self._limits.timeout)
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def close(self) -> None:
        """Ends it all."""
        await self.retire()
        await self._following.pause()

    async def _run(self) -> None:
        async def lead() -> None:
            async with await self._election.campaign() as leader:
                while leader.leads:
                    await self._serve(leader)
            log.warning("cluster %s: no longer leading", self.name)

        await again_and_again(lead, f"cluster {self.name}: leading")

    async def _serve(self, leader: Leader) -> None:
        """One term. It begins when everything up to the leader's own key is in the state, so that
        no write of an earlier leader can follow."""
        reached = asyncio.ensure_future(self._following.reached(leader.create_revision))
        lost = asyncio.ensure_future(leader.lost())
        try:
            await asyncio.wait({reached, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not reached.done():
                return
        finally:
            lost.cancel()
            reached.cancel()
        agreed = False
        try:
            await self._following.pause()
            term = self._term = Term(
                self._store, leader, self.state, self._limits, self.figures, self._server.name
            )
            log.info("cluster %s: leading from revision %d", self.name, term.state.revision)
            self._leading.set()
            agreed = await term.run()
        except Exception:
            log.exception("cluster %s: a fault; the state is read anew", self.name)
        finally:
            self._leading.clear()
            self._following.resume(anew=not agreed)

    @property
    def leading(self) -> bool:
        return self._leading.is_set()

    @property
    def leader_changes(self) -> int:
        """How often this server has seen the leadership begin anew, its own terms included."""
        return self._following.leaders

    async def wait_until_leading(self) -> None:
        await self._leading.wait()

    async def leader(self) -> LeaderRecord | None:
        """Who leads, as etcd has it now."""
        current = await self._election.current()
        return msgspec.json.decode(current[0], type=LeaderRecord) if current else None

    def elsewhere(self) -> str | None:
        """Where the server is that leads, as far as is known here; None: nobody, or this one."""
        state = self._following.state
        if state is None or state.leader is None:
            return None
        record = msgspec.json.decode(state.leader, type=LeaderRecord)
        return None if record == self._server else record.endpoint

    async def moved(self, seconds: float) -> None:
        """Waits until something has changed here, at most so long."""
        heard = asyncio.ensure_future(self._following.moved())
        waits: set[asyncio.Future[Any]] = {asyncio.ensure_future(self._leading.wait()), heard}
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    @property
    def state(self) -> ClusterState:
        """The state for reading: the leader's own, or what a follower has heard of."""
        if self._following.state is None:
            raise Problem(
                "state-unavailable", f"cluster {self.name} is being read from etcd", retry_after=1
            )
        return self._following.state

    def now(self) -> int:
        """The cluster's clock: exact where this server leads, else as it was last written."""
        if self.leading and self._term is not None:
            return self._term.clock.now()
        return self.state.clock

    @property
    def term(self) -> Term:
        """The term under way, or the last one."""
        if self._term is None:
            raise not_leader()
        return self._term

    def _lead(self) -> Term:
        if self._retired or not self.leading or self._term is None or self._term.over:
            raise not_leader()
        return self._term

    async def _open(self) -> Term:
        """The term under way, once nobody reshapes its networks or pools."""
        while True:
            term = self._lead()
            await term.open()
            if term is self._lead():
                return term

    def local_status(self) -> m.ClusterStatus:
        """How this server has the cluster; nothing is asked for."""
        state = self._following.state
        known = state.networks.values() if state else ()
        leader = state.leader if state else None
        return m.ClusterStatus(
            name=self.name,
            leading=self.leading,
            leader=msgspec.json.decode(leader, type=LeaderRecord).name if leader else None,
            revision=state.revision if state else 0,
            networks=len(known),
            pools=len(state.pools) if state else 0,
            used=sum(len(network.held) for network in known),
            released=sum(len(network.released) for network in known),
            waiting=self._term.waiting if self._term else 0,
        )

    async def status(self) -> m.ClusterStatus:
        """The same with the leader as etcd has it now."""
        status = self.local_status()
        try:
            leader = await self.leader()
        except StoreError as error:
            log.warning("cluster %s: cannot read who leads: %s", self.name, error)
            status.leader = None
        else:
            status.leader = leader.name if leader else None
        return status

    async def _reshape(
        self, decide: Callable[[Term], Awaitable[Change]], *, last: bool = False
    ) -> None:
        """Decides and commits while nothing else changes; once more when a fabric was changed by
        another cluster's leader in between. `last`: nothing may come after it."""
        await self._finish(self._reshaped(decide, last))

    async def _reshaped(self, decide: Callable[[Term], Awaitable[Change]], last: bool) -> None:
        term = self._lead()
        async with term.alone():
            if term is not self._lead():
                raise not_leader()
            for _ in range(SHARED_ATTEMPTS):
                with contextlib.suppress(Conflict):
                    await term.submit_audited(await decide(term))
                    self._retired = self._retired or last
                    return
            term.distrust()
        raise _changed()

    async def _commit_audited(self, term: Term, change: Change, cause: str = "") -> int:
        try:
            return await term.submit_audited(change, cause)
        except Conflict:
            raise _changed() from None

    async def audit(self, limit: int, after: str | None) -> m.AuditPage:
        """What was changed, oldest first, as etcd has it now."""
        return await audit_page(self._store, Keys(self.name).audits, limit, after)

    async def _commit(self, term: Term, change: Change) -> int:
        try:
            return await term.submit(change)
        except Conflict:
            raise _changed() from None

    @property
    def _begun(self) -> int:
        """How many requests have begun and not come to their end."""
        return len(self._tasks) + self._inside

    def _admit(self, work: Coroutine[Any, Any, T]) -> None:
        if self._begun >= 2 * self._limits.max_waiting:
            work.close()
            raise Problem("busy", "too many requests are under way", retry_after=1)

    async def _go_through(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a request to its end in its caller's task. That is HTTP's, which goes on when its
        client has gone or has waited long enough: were it cancelled, its attachment's next request
        would not wait for its change."""
        self._admit(work)
        self._inside += 1
        try:
            return await work
        finally:
            self._inside -= 1
            if self._emptied is not None and not self._inside and not self._emptied.done():
                self._emptied.set_result(None)

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a request to its end, whatever becomes of its caller, who waits a limited time."""
        self._admit(work)
        loop = asyncio.get_running_loop()
        task, heard = loop.create_task(work), loop.create_future()

        def tell(_: object) -> None:
            if not heard.done():
                heard.set_result(None)

        self._tasks.add(task)
        task.add_done_callback(self._ended)
        task.add_done_callback(tell)
        patience = loop.call_later(self._limits.timeout + 1, tell, None)
        try:
            await heard
        finally:
            patience.cancel()
        if not task.done():
            raise outcome_unknown()
        return task.result()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        _retrieve(task)


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
