"""The leader's worker for one other member: it asks, again and again, and keeps what it is told.

What was known of a member that is silent stands, and nothing of the others is touched. Every so
often everything is asked for anew, which heals whatever was missed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from federation.plan.overlap import of_info
from federation.server import authority
from federation.server.checks import member_fault
from federation.server.claiming import Own, clash
from federation.server.identity import Identity
from federation.server.info import compared, fault_of
from federation.server.place import Place, member_of
from federation.server.state import FederationRecord, State, pack
from federation.server.term import Term
from netspace.asking import path, query
from netspace.http_client import HttpClient
from netspace.messages.federating import Info
from netspace.messages.federation import ClusterInfo, Federation, Member, Version
from netspace.problems import Problem
from statestore import Delete, Op, Put, prefix_end

log = logging.getLogger(__name__)

WAIT: Final = 20.0
"""Seconds that the other side waits for something new."""

MARGIN: Final = 10.0
"""Seconds more until an endpoint counts as silent."""

FIRST: Final = 0.2
"""Seconds until the first other attempt."""

KEEP: Final = 1.0
"""Seconds until it is asked again after what it told could not be kept."""

TURN: Final = 0.05
"""Seconds between an answer and the next question at least, whatever the other side does."""

NOTED: Final = 15
"""Seconds between two notes of a contact in the state at least. With the question that it waits for
(`WAIT`) and the nodes' own it stays below the minute after which these call a member silent."""


class Exchange:
    """With one member of one federation. `contact`: when it last answered, Unix seconds; `reached`:
    whether it did when it was last asked, `why` not; `clock`: by how many seconds its clock was
    ahead then; `own` gives what this cluster uses itself."""

    def __init__(
        self,
        place: Place,
        term: Term,
        identity: Identity,
        federation: str,
        member: Member,
        own: Callable[[], Own],
    ) -> None:
        self.federation = federation
        self.member = member
        self.reached = False
        self.why = "it has not been asked yet"
        self.clock: float | None = None
        self.contact = place.state.contacts.get((federation, member.cluster))
        self._place = place
        self._term = term
        self._own = own
        self._noted = -math.inf
        # Whether what it told last is still to be kept.
        self._owed = False
        self._seen: Version | None = None
        self._pending: ClusterInfo | None = None
        self._towards = identity.towards(federation, member.ca)

    async def run(self) -> None:
        """Until it is cancelled."""
        endpoints = self.member.endpoints
        patience = (WAIT + MARGIN) * len(endpoints)
        client = HttpClient(endpoints, patience, self._towards, self.federation)
        try:
            await self._go_on(client)
        finally:
            await client.close()

    async def _go_on(self, client: HttpClient) -> None:
        pause, turn, full = FIRST, TURN, 0.0
        times = self._place.config.times
        while True:
            now = time.monotonic()
            whole, wait = now >= full, self._patience()
            try:
                answer = await self._ask(client, wait, whole=whole)
            except Problem as problem:
                self._failed(problem.detail)
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))
                pause = min(2 * pause, times.backoff)
                continue
            self._heard()
            if answer.time:
                self.clock = round(answer.time - time.time(), 3)
            pause = FIRST
            if whole:
                full = now + times.refresh
            early = time.monotonic() - now < wait / 2
            before = self._number(), self._latest()
            try:
                await self._take(answer)
            except Problem as problem:
                self.why, self._owed = problem.detail, True
                log.warning("what a member told is not kept", extra={"why": self.why})
                turn = max(KEEP, next_turn(turn, times.backoff))
            else:
                self._owed = False
                news = before != (self._number(), self._latest())
                turn = next_turn(turn, times.backoff) if early and not (whole or news) else TURN
                # Nobody tells news more often than this, and each is written.
                turn = max(turn, times.pause if news else 0.0)
            await asyncio.sleep(turn)

    def _patience(self) -> float:
        """Seconds that it is to wait for something new. Of one that was silent it is to be known at
        once whether it is there, and what is owed is not to wait for news."""
        if not self.reached or self._owed:
            return 0.0
        return min(WAIT, self._place.config.times.refresh)

    def _number(self) -> int:
        record = self._place.state.federations.get(self.federation)
        return 0 if record is None else record.federation.number

    async def _ask(self, client: HttpClient, wait: float, *, whole: bool) -> Info:
        seen = self._latest()
        after = None if whole or seen is None else f"{seen.epoch}.{seen.number}"
        target = path("federations", self.federation, "info")
        asked = query(after=after, known=str(self._number()), wait=f"{wait:g}")
        answer = await client.request("GET", target + asked)
        try:
            return msgspec.json.decode(answer, type=Info)
        except msgspec.DecodeError as error:
            raise Problem("internal", f"its answer cannot be understood: {error}") from None

    def _latest(self) -> Version | None:
        """The latest that it has told, kept or not."""
        if self._seen is not None:
            return self._seen
        known = self._place.state.peers.get((self.federation, self.member.cluster))
        return None if known is None else known.version

    def _heard(self) -> None:
        if not self.reached:
            log.info(
                "a member answers",
                extra={"federation": self.federation, "member": self.member.cluster},
            )
        self.reached, self.why, self.contact = True, "", int(time.time())

    def _failed(self, why: str) -> None:
        if self.reached or self.why != why:
            log.warning(
                "a member does not answer",
                extra={"federation": self.federation, "member": self.member.cluster, "why": why},
            )
        self.reached, self.why = False, why

    async def _take(self, answer: Info) -> None:
        cluster = self.member.cluster
        if answer.federation is not None:
            told = answer.federation
            await self._term.change(lambda state: self.taken_over(state, told))
        latest = self._latest()
        # One that tells less than before is asked on after what it told before, and learns by that
        # that its state was set back.
        if answer.info is not None and (latest is None or answer.info.version >= latest):
            self._seen = answer.info.version
            self._pending = answer.info
        if self._pending is not None:
            info = self._pending
            state = await self._term.change(lambda state: self.taken(state, info))
            if not state.faults.get((self.federation, cluster)):
                self._pending = None
        assert self.contact is not None
        now = time.monotonic()
        if now - self._noted >= NOTED:
            self._noted = now
            key = self._place.keys.contact(self.federation, cluster)
            await self._term.note(key, str(self.contact).encode())

    def taken(self, state: State, info: ClusterInfo) -> Iterable[Op]:
        """What a member's information changes: nothing, if it is older than what is known, or the
        same; only a fault, if it cannot be applied."""
        cluster, keys = self.member.cluster, self._place.keys
        record = state.federations.get(self.federation)
        if record is None or member_of(record, cluster) is None:
            return
        at = (self.federation, cluster)
        known = state.peers.get(at)
        judged = compared(known, info)
        if judged == "older":
            return
        fault = fault_of(info, cluster, known)
        if not fault and (known is None or at in state.faults or of_info(info) != of_info(known)):
            fault = clash(state, record, of_info(info), self._own())
        if fault != state.faults.get(at, ""):
            key = keys.fault(self.federation, cluster)
            yield Put(key, msgspec.json.encode(fault)) if fault else Delete(key)
        if fault or judged == "same":
            return
        yield Put(keys.peer(self.federation, cluster), pack(info))
        if record.federation.founder == self._place.cluster:
            changed = renewed(record, info)
            if changed is not record:
                yield Put(keys.federation(self.federation), msgspec.json.encode(changed))

    def taken_over(self, state: State, told: Federation) -> Iterable[Op]:
        """What a federation's newer description changes; the founder's alone counts."""
        record = state.federations.get(self.federation)
        if record is None or record.federation.founder != self.member.cluster:
            return
        known = record.federation
        if told.number <= known.number:
            return
        why = why_not_taken(known, told, self._place.cluster)
        if why:
            raise Problem("invalid", f"its description of the federation is not taken: {why}")
        keys, name = self._place.keys, self.federation
        new = msgspec.structs.replace(record, federation=told)
        yield Put(keys.federation(name), msgspec.json.encode(new))
        members = {each.cluster for each in told.members}
        gone = [each.cluster for each in known.members if each.cluster not in members]
        yield from forgotten(self._place, state, name, gone)


def why_not_taken(known: Federation, told: Federation, cluster: str) -> str:
    """Why another description of the federation cannot be the founder's; empty where it can."""
    if (told.name, told.founder, told.root) != (known.name, known.founder, known.root):
        return "it is of another federation"
    names = [each.cluster for each in told.members]
    if len(set(names)) != len(names):
        return "a member stands twice in it"
    mine = {each.cluster: each.ca for each in known.members}.get(cluster)
    for member in told.members:
        if member.cluster == cluster and member.ca != mine:
            return "it has another authority for this cluster"
        why = authority.why_not_genuine(member.ca, told.root, told.name, member.cluster)
        why = why or member_fault(member)
        if why:
            return why
    return ""


def next_turn(turn: float, most: float) -> float:
    """Seconds until the next question after one more that was answered too early, with nothing."""
    return min(2 * turn, most)


def renewed(record: FederationRecord, info: ClusterInfo) -> FederationRecord:
    """The founder's record with the member as it now says it is; the same where nothing changed."""
    members = []
    for member in record.federation.members:
        if member.cluster == info.cluster:
            member = msgspec.structs.replace(
                member,
                cni=info.cni,
                endpoints=info.endpoints or member.endpoints,
                ranges=info.ranges,
                services=info.services,
            )
        members.append(member)
    if members == record.federation.members:
        return record
    return with_members(record, members)


def with_members(record: FederationRecord, members: list[Member]) -> FederationRecord:
    federation = msgspec.structs.replace(
        record.federation, number=record.federation.number + 1, members=members
    )
    return msgspec.structs.replace(record, federation=federation)


def forgotten(place: Place, state: State, name: str, clusters: Sequence[str]) -> Iterable[Op]:
    """Takes away what is known of clusters that are no members any more."""
    keys = place.keys
    for cluster in clusters:
        yield Delete(keys.peer(name, cluster))
        yield Delete(keys.fault(name, cluster))
        yield Delete(keys.contact(name, cluster))
    available = state.available.get(name, {})
    left = {cluster: nodes for cluster, nodes in available.items() if cluster not in clusters}
    if left != available:
        yield Put(keys.available(name), msgspec.json.encode(left))


def dissolved(place: Place, name: str) -> Iterable[Op]:
    """Takes away a whole federation."""
    keys = place.keys
    yield from (Delete(keys.federation(name)), Delete(keys.own(name)), Delete(keys.available(name)))
    for prefix in (
        keys.token(name, ""),
        keys.peer(name, ""),
        keys.fault(name, ""),
        keys.contact(name, ""),
    ):
        yield Delete(prefix, prefix_end(prefix))
