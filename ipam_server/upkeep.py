"""Looking after one cluster's stored state: the audit of all its keys, and mending what it finds.

The audit reads etcd itself, at one revision and in a process of its own (`auditing`), so that any
server can make it, whoever leads and whatever the state in memory is. Mending is the leader's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ipam_server.audit import tell
from ipam_server.auditing import AuditFailed, Found, Order, audit
from ipam_server.batching import Batching
from ipam_server.committer import Conflict
from ipam_server.flaws import Flaw, shown
from ipam_server.leading import LeaderRecord
from ipam_server.runs import Runs, UnderWay
from ipam_server.term import Limits, Term
from netspace.problems import Problem
from netspace.upkeep import Inspection, Mended, Repair
from statestore import Store, StoreError

PASSES = 3
"""Mends of one key are decided one after the other, each on what the one before has left."""


class Upkeep(Batching):
    """See the module."""

    def __init__(
        self, store: Store, name: str, server: LeaderRecord, ttl: int, limits: Limits
    ) -> None:
        super().__init__(store, name, server, ttl, limits)
        self._looking = asyncio.Lock()
        self._inspections: Runs[Inspection] = Runs()
        self._repairs: Runs[Repair] = Runs()

    async def retire(self) -> None:
        await self._inspections.end()
        await self._repairs.end()
        await super().retire()

    async def inspection(self, run: str | None) -> Inspection:
        """`inspect`, begun or waited for: as long as it is under way only how far it is."""
        found = await self._inspections.ask(run, self.inspect)
        return self._under_way(found) if isinstance(found, UnderWay) else found

    async def repairing(self, run: str | None) -> Repair:
        """The same of `repair`."""
        self._lead()
        found = await self._repairs.ask(run, self.repair)
        if isinstance(found, UnderWay):
            return Repair(mended=[], left=self._under_way(found))
        return found

    def _under_way(self, found: UnderWay) -> Inspection:
        return Inspection(
            cluster=self.name, revision=0, keys=found.progress, findings=[], more=0, run=found.run
        )

    async def inspect(self, told: Callable[[int], None] = lambda _: None) -> Inspection:
        """Everything that is not as it must be, in words; `told`: how many keys were read."""
        found = await self._look(told)
        return Inspection(
            cluster=self.name,
            revision=found.revision,
            keys=found.keys,
            findings=[flaw.finding() for flaw in found.flaws],
            more=found.count - len(found.flaws),
        )

    async def repair(self, told: Callable[[int], None] = lambda _: None) -> Repair:
        """Mends what can be mended safely, each finding in a transaction of its own, which compares
        the revisions that were looked at."""
        self._lead()
        mended: list[Mended] = []
        for _ in range(PASSES):
            found = await self._look(told)
            before = len(mended)
            for flaw in found.mendable:
                outcome = await self._finish(self._mend(flaw))
                if outcome.done or outcome.keys not in [other.keys for other in mended]:
                    mended.append(outcome)
            if not any(each.done for each in mended[before:]):
                break
        return Repair(mended=mended, left=await self.inspect(told))

    async def _look(self, told: Callable[[int], None]) -> Found:
        """What the audit's process finds; one at a time of a cluster."""
        async with self._looking:
            try:
                return await audit(Order(self.name, *self._store.place), told)
            except AuditFailed as error:
                raise Problem("state-unavailable", str(error), retry_after=1) from None

    async def _mend(self, flaw: Flaw) -> Mended:
        assert flaw.change is not None
        mended = Mended(
            code=flaw.code, keys=[shown(key) for key in flaw.keys], what=flaw.what, done=False
        )
        try:
            before = {op.key: await self._value(op.key) for op in flaw.change.then}
            term = await self._settled(flaw)
            change, entries = term.repaired(flaw.change, before)
            revision = await term.submit(change)
        except Conflict:
            mended.why = "something of it changed meanwhile"
        except Problem as problem:
            if problem.code in ("not-leader", "outcome-unknown"):
                raise
            mended.why = str(problem)
        else:
            mended.done = True
            for entry in entries:
                tell(entry, self.name, revision)
        return mended

    async def _value(self, key: bytes) -> bytes | None:
        """What a mend is about to replace; that it stood there the mend's comparison says."""
        try:
            stored = await self._store.get(key)
        except StoreError as error:
            raise Problem("state-unavailable", str(error), retry_after=1) from None
        return stored.value if stored else None

    async def _settled(self, flaw: Flaw) -> Term:
        """The term, once nothing is under way for the flaw's slots."""
        assert flaw.change is not None
        while True:
            term = await self._open()
            taken = next((slot for slot in flaw.change.slots if slot in term.state.taken), None)
            if taken is None:
                return term
            await term.decided(taken)
