"""What nodes ask for: allocating, releasing and looking up an attachment's slot.

Decisions are made by the pure rules of `allocator` without giving way to other requests; then the
term commits them. Requests of one attachment come one after the other.
"""

from __future__ import annotations

import logging
import time

from ipam_server import views
from ipam_server.allocator import Choice, Repeat, Wait, choose
from ipam_server.audit import GROWTH
from ipam_server.changes import Change, burial
from ipam_server.inventory import Held
from ipam_server.keys import SlotId
from ipam_server.leading import LeaderRecord, Leading
from ipam_server.reclaim import OperatorWord
from ipam_server.serial import KeyedLocks
from ipam_server.term import Limits, Term
from netspace import messages as m
from netspace.callers import check_own, current
from netspace.problems import Problem
from statestore import Delete, Store

log = logging.getLogger(__name__)


class Allocations(Leading):
    """See the module."""

    def __init__(
        self, store: Store, name: str, server: LeaderRecord, ttl: int, limits: Limits
    ) -> None:
        super().__init__(store, name, server, ttl, limits)
        self._locks = KeyedLocks()

    async def allocate(self, request: m.AllocateRequest) -> m.Allocation:
        """A slot for an attachment; the same answer for the same attachment and claim."""
        return await self._go_through(self._give(request))

    async def release(self, request: m.ReleaseRequest) -> m.Released:
        """Frees what the attachment holds under this generation or claim, and nothing else."""
        return await self._go_through(self._release(request))

    async def held(self, attachment: m.AttachmentId) -> m.Allocation:
        """What an attachment holds now."""
        state = self.state
        slot = state.attachments.get((attachment.container, attachment.ifname))
        held = state.held(slot) if slot else None
        if slot is None or held is None:
            raise Problem("not-found", f"attachment {attachment} holds no address")
        check_own(held.holder.node, f"attachment {attachment}")
        return views.allocation(state, slot, held.holder, held.generation, "repeated")

    async def operator_release(self, request: m.OperatorRelease) -> m.Released:
        """Frees a slot on an admin's word that its holder is gone."""
        slot = views.find_slot(self.state, request.address, request.network)
        return await self._finish(self._release_slot(slot, request.generation))

    async def _give(self, request: m.AllocateRequest) -> m.Allocation:
        if request.note and current().role not in ("admin", "local"):
            raise Problem(
                "forbidden", f"{current()} may not take over what others gave", do="ask as an admin"
            )
        began = time.monotonic()
        try:
            answer = await self._allocate(request)
            self.figures.allocation.add(time.monotonic() - began)
            return answer
        except Problem as problem:
            if problem.code != "not-leader":  # Then it is asked where the leader is.
                self.figures.refused(problem.code)
            if problem.code != "address-taken" or current().role != "node":
                raise
            # What other nodes' pods hold is not a node's to know, nor its pods'.
            log.info("%s: %s", current(), problem)
            raise Problem(
                "address-taken", "the address asked for is not free", do="ask for another one"
            ) from None

    async def _allocate(self, request: m.AllocateRequest) -> m.Allocation:
        attachment = (request.attachment.container, request.attachment.ifname)
        began = time.monotonic()
        async with self._locks.hold(attachment):
            while True:
                term = await self._open()
                if (request.claim, *attachment) in term.state.buried:
                    raise Problem(
                        "claim-released",
                        f"the claim of attachment {request.attachment} was released already",
                        do="ask with a new claim",
                    )
                if request.node in term.state.fenced and not request.note:
                    await self._heard_from(term, request.node)
                    continue
                asked = time.monotonic()
                decision = choose(term.state, request, term.clock.now())
                match decision:
                    case Wait():
                        await term.decided(decision.slot)
                    case Repeat():
                        held = decision.held
                        return views.allocation(
                            term.state, decision.slot, held.holder, held.generation, "repeated"
                        )
                    case Choice():
                        choice, change = term.giving(decision)
                        self.figures.decided(began, asked, time.monotonic())
                        if choice.grown is None:
                            revision = await self._commit(term, change)
                        else:
                            revision = await self._commit_audited(term, change, GROWTH)
                        return views.allocation(
                            term.state, choice.slot, choice.holder, revision, choice.how
                        )

    async def _heard_from(self, term: Term, node: str) -> None:
        """A node that is heard of lives: what Kubernetes said of it as fenced counts no more. It is
        remembered apart from what people do: a living node whose Node object is gone may be fenced
        and heard of for days."""
        if node in term.state.fenced:
            key = term.state.keys.fenced(node)
            change = Change((), (Delete(key),), key, None)
            await self._commit_audited(term, change, f"unfencing by {current()}")

    async def _release(self, request: m.ReleaseRequest) -> m.Released:
        attachment = (request.attachment.container, request.attachment.ifname)
        async with self._locks.hold(attachment):
            while True:
                term = await self._open()
                slot = term.state.attachments.get(attachment)
                held = term.state.held(slot) if slot else None
                if slot is not None and slot in term.state.taken:
                    await term.decided(slot)
                    continue
                refused = _not_held(held, request)
                if refused is None:
                    assert slot is not None
                    assert held is not None
                    await self._commit(term, term.freeing(slot, held, request.conflict))
                    self.figures.freed["release"] += 1
                elif (held is None or held.holder.claim != request.claim) and (
                    claimed := (request.claim, *attachment)
                ) not in term.state.buried:
                    now = term.clock.now()
                    await self._commit(term, burial(term.state.keys, claimed, now))
                return m.Released(released=refused is None, why=refused or "released")

    async def _release_slot(self, slot: SlotId, generation: int) -> m.Released:
        while True:
            term = await self._open()
            if slot in term.state.taken:
                await term.decided(slot)
                continue
            held = term.state.held(slot)
            if held is None:
                return m.Released(released=False, why="nobody holds the address")
            verdict = OperatorWord(generation).verdict(slot, held)
            if not verdict.proved:
                return m.Released(released=False, why=verdict.missing)
            await self._commit_audited(term, term.freeing(slot, held))
            self.figures.freed["operator"] += 1
            return m.Released(released=True, why="released")


def _not_held(held: Held | None, request: m.ReleaseRequest) -> str | None:
    """Why the release names nothing that is held; None if it names what is."""
    if held is None:
        return "the attachment holds nothing"
    if held.holder.node != request.node:
        return f"the attachment is node {held.holder.node}'s"
    if request.claim == held.holder.claim:
        # Also under a generation that a restored state does not know.
        return None
    if request.generation is not None and request.generation != held.generation:
        return f"the attachment holds an address of another generation: {held.generation}"
    if request.generation is None:
        return "the attachment holds an address under another claim"
    return None
