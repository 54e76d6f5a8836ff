"""Looking after one cluster's stored state: the audit of all its keys, and mending what it finds.

The audit reads etcd itself, at one revision, so that any server can make it, whoever leads and
whatever the state in memory is. Mending is the leader's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from ipam_server import keys as key_names
from ipam_server.allocations import Allocations
from ipam_server.committer import Conflict
from ipam_server.flaws import Flaw, shown
from ipam_server.inspection import Inspector
from ipam_server.keys import Keys
from ipam_server.term import Term
from netspace.callers import current
from netspace.problems import Problem
from netspace.upkeep import Inspection, Mended, Repair
from statestore import KeyValue, StoreError

log = logging.getLogger(__name__)

LISTED = 1000
"""Findings that one answer lists; a repair mends as many in a pass."""

PASSES = 3
"""Mends of one key are decided one after the other, each on what the one before has left."""


class Upkeep(Allocations):
    """See the module."""

    async def inspect(self) -> Inspection:
        """Everything that is not as it must be, in words."""
        flaws, inspection = await self._inspect()
        inspection.findings = [flaw.finding() for flaw in flaws[:LISTED]]
        return inspection

    async def repair(self) -> Repair:
        """Mends what can be mended safely, each finding in a transaction of its own, which compares
        the revisions that were looked at."""
        self._lead()
        mended: list[Mended] = []
        for _ in range(PASSES):
            flaws, _inspection = await self._inspect()
            before = len(mended)
            for flaw in [each for each in flaws if each.change is not None][:LISTED]:
                outcome = await self._finish(self._mend(flaw))
                if outcome.done or outcome.keys not in [other.keys for other in mended]:
                    mended.append(outcome)
            if not any(each.done for each in mended[before:]):
                break
        return Repair(mended=mended, left=await self.inspect())

    async def _inspect(self) -> tuple[list[Flaw], Inspection]:
        prefix = Keys(self.name).prefix
        fabrics: dict[str, KeyValue] = {}
        revision = 0
        try:
            async with contextlib.aclosing(self._store.pages(prefix)) as pages:
                async for page in pages:
                    if not revision:
                        revision = page.revision
                        fabrics = await self._all_fabrics(revision)
                        inspector = Inspector(self.name, fabrics)
                    # In a thread, so that requests and the lease go on.
                    await asyncio.to_thread(inspector.add, page.items)
        except StoreError as error:
            raise Problem("state-unavailable", str(error), retry_after=1) from None
        flaws = await asyncio.to_thread(inspector.flaws)
        return flaws, Inspection(
            cluster=self.name,
            revision=revision,
            keys=inspector.count,
            findings=[],
            more=max(0, len(flaws) - LISTED),
        )

    async def _all_fabrics(self, revision: int) -> dict[str, KeyValue]:
        found: dict[str, KeyValue] = {}
        async with contextlib.aclosing(
            self._store.pages(key_names.FABRICS, revision=revision)
        ) as pages:
            async for page in pages:
                found |= {
                    stored.key[len(key_names.FABRICS) :].decode(errors="replace"): stored
                    for stored in page.items
                }
        return found

    async def _mend(self, flaw: Flaw) -> Mended:
        assert flaw.change is not None
        mended = Mended(
            code=flaw.code, keys=[shown(key) for key in flaw.keys], what=flaw.what, done=False
        )
        try:
            revision = await (await self._settled(flaw)).submit(flaw.change)
        except Conflict:
            mended.why = "something of it changed meanwhile"
        except Problem as problem:
            if problem.code in ("not-leader", "outcome-unknown"):
                raise
            mended.why = str(problem)
        else:
            mended.done = True
            log.info(
                "cluster %s: mended %s", self.name, flaw.what,
                extra={
                    "event": "repair",
                    "cluster": self.name,
                    "revision": revision,
                    "who": current().encode(),
                    "code": flaw.code,
                    "keys": mended.keys,
                },
            )  # fmt: skip
        return mended

    async def _settled(self, flaw: Flaw) -> Term:
        """The term, once nothing is under way for the flaw's slots."""
        assert flaw.change is not None
        while True:
            term = await self._open()
            taken = next((slot for slot in flaw.change.slots if slot in term.state.taken), None)
            if taken is None:
                return term
            await term.decided(taken)
