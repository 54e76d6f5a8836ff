"""Reclaiming: nodes' reports of live attachments taken in, what they prove gone freed, and what
lives without being known taken back.

What a node's last report missed is kept in etcd, so that a proof outlives its leader. A report and
the frees that rest on the one before never overlap. A node that reports is not fenced: what
Kubernetes said of it is over.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import msgspec

from ipam_server import adoption, reclaim, views, witnesses
from ipam_server.allocator import Choice, Wait
from ipam_server.audit import FENCED, RECLAIMING
from ipam_server.changes import Change
from ipam_server.committer import Conflict
from ipam_server.inventory import Held
from ipam_server.keys import SlotId
from ipam_server.reclaim import Verdict
from ipam_server.records import Disputed
from ipam_server.state import ClusterState
from ipam_server.term import Term
from ipam_server.upkeep import Upkeep
from netspace.problems import Problem
from netspace.upkeep import (
    AttachmentsReport,
    Candidate,
    Dispute,
    LiveAttachment,
    NodeAttachments,
    Reclaimed,
)
from statestore import Put

log = logging.getLogger(__name__)


class Reclaiming(Upkeep):
    """See the module."""

    _rounds: asyncio.Task[None] | None = None

    def start(self) -> None:
        super().start()
        self._rounds = asyncio.create_task(self._keep_reclaiming(), name=f"reclaim {self.name}")

    async def retire(self) -> None:
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.gather(self._rounds, return_exceptions=True)
        await super().retire()

    async def node_attachments(self, node: str) -> NodeAttachments:
        """What there is of a node's attachments at the revision that this server has reached."""
        state = self.state
        told = state.absences.get(node)
        return NodeAttachments(
            node=node,
            revision=state.revision,
            held=state.used_by.get(node, 0),
            missing=0 if told is None else len(told.record.gone),
            disputes=tuple(_dispute(state, each) for each in adoption.disputes(state, node)),
        )

    async def report_attachments(self, node: str, report: AttachmentsReport) -> NodeAttachments:
        """Takes a node's report in."""
        adopted = await self._finish(self._report(node, report))
        return msgspec.structs.replace(await self.node_attachments(node), adopted=adopted)

    async def reclaimable(self) -> Reclaimed:
        """Every candidate, and what its proof lacks; nothing is freed."""
        return self._told([])

    async def reclaim(self) -> Reclaimed:
        """One round: frees what is proved to be nobody's."""
        self._lead()
        freed = []
        for slot, held, _ in self._candidates():
            found = await self._finish(self._reclaim(slot, held.generation))
            if found is not None:
                freed.append(found)
        return self._told(freed)

    async def _report(self, node: str, report: AttachmentsReport) -> int:
        """How many addresses the report has brought back."""
        async with self._locks.hold(("node", node, "")):
            term = await self._open()
            await self._heard_from(term, node)
            told = term.state.absences.get(node)
            quiet = told is None or not (told.record.gone or told.record.disputed)
            unknown = list(adoption.unknown(term.state, report.attachments))
            if quiet and not unknown and reclaim.complete(term.state, node, report):
                return 0
            if told is not None and report.seen < told.revision:
                # A late copy says nothing of what is held now.
                adopted, disputed = 0, told.record.disputed
            else:
                adopted, disputed = await self._adopt_all(node, unknown)
            term = await self._open()
            held = dict(reclaim.held_by(term.state, node))
            record = reclaim.absences(term.state, held, node, report, term.clock.now())
            record = msgspec.structs.replace(record, disputed=disputed)
            if told is not None or record.gone or record.disputed:
                put = Put(term.state.keys.absences(node), msgspec.json.encode(record))
                await self._commit(term, Change((), (put,), put.key, put.value))
            return adopted

    async def _adopt_all(
        self, node: str, unknown: list[LiveAttachment]
    ) -> tuple[int, list[Disputed]]:
        """How many were taken back, and what is in dispute."""
        work = (self._adopt(node, each) for each in unknown)
        found = await asyncio.gather(*work, return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException):
                raise each
        disputed = [each for each in found if isinstance(each, Disputed)]
        return sum(each is True for each in found), disputed

    async def _adopt(self, node: str, live: LiveAttachment) -> Disputed | bool:
        """Whether the slot is the attachment's again, or that it is in dispute."""
        async with self._locks.hold((live.container, live.ifname)):
            while True:
                term = await self._open()
                if not any(adoption.unknown(term.state, [live])):
                    return False
                decision = adoption.adopt(term.state, node, live)
                match decision:
                    case Wait():
                        await term.decided(decision.slot)
                    case Disputed():
                        log.error(
                            "cluster %s: an address is in dispute", self.name,
                            extra={"event": "dispute", "cluster": self.name, "node": node,
                                   **msgspec.structs.asdict(decision)},
                        )  # fmt: skip
                        return decision
                    case Choice():
                        choice, change = term.giving(decision)
                        await self._commit(term, change)
                        log.warning(
                            "cluster %s: an address was taken back", self.name,
                            extra={"event": "adopt", "cluster": self.name, "node": node,
                                   "container": live.container, "ifname": live.ifname,
                                   "network": choice.slot[0], "slot": str(choice.slot[1])},
                        )  # fmt: skip
                        return True

    async def _reclaim(self, slot: SlotId, generation: int) -> Candidate | None:
        """Frees this generation if it is proved gone still; what was freed."""
        while True:
            term = await self._open()
            held = term.state.held(slot)
            if held is None or held.generation != generation:
                return None
            async with (
                self._locks.hold(("node", held.holder.node, "")),
                self._locks.hold(held.holder.attachment),
            ):
                if slot not in term.state.taken:
                    return await self._free(term, slot, generation)
            await term.decided(slot)

    async def _free(self, term: Term, slot: SlotId, generation: int) -> Candidate | None:
        held = term.state.held(slot)
        if held is None or held.generation != generation:
            return None
        verdict = witnesses.verdict(term.state, self._grace, slot, held)
        if not verdict.proved:
            return None
        told = _candidate(term.state, slot, held, verdict, term.clock.now())
        change = term.freeing(slot, held)
        change = replace(change, compares=(*change.compares, *verdict.compares), shared=True)
        try:
            by_node = verdict.witness == "node"
            revision = await term.submit_audited(change, RECLAIMING if by_node else FENCED)
        except Conflict:
            return None
        self.figures.freed["reclaim" if by_node else "fencing"] += 1
        log.info(
            "cluster %s: reclaimed %s", self.name, told.ipv4 or told.ipv6,
            extra={
                "event": "reclaim",
                "cluster": self.name,
                "revision": revision,
                **msgspec.to_builtins(told),
            },
        )  # fmt: skip
        return told

    @property
    def _grace(self) -> int:
        return int(self._limits.reclaim_grace * 1000)

    def _candidates(self) -> list[tuple[SlotId, Held, Verdict]]:
        return witnesses.candidates(self.state, self._grace)

    @property
    def reclaim_candidates(self) -> int:
        """How many there are."""
        return len(self._candidates())

    def _told(self, freed: list[Candidate]) -> Reclaimed:
        state, now = self.state, self.now()
        left = [_candidate(state, *each, now) for each in self._candidates()]
        return Reclaimed(grace=self._limits.reclaim_grace, freed=freed, left=left)

    async def _keep_reclaiming(self) -> None:
        while True:
            await asyncio.sleep(self._limits.reclaim_interval)
            if not self.leading:
                continue
            try:
                await self.reclaim()
            except Problem as problem:
                log.warning("cluster %s: reclaiming: %s", self.name, problem)
            except Exception:
                log.exception("cluster %s: a fault in reclaiming", self.name)


def _dispute(state: ClusterState, disputed: Disputed) -> Dispute:
    address, why = adoption.shown(state, disputed)
    held = state.held(disputed.slot)
    own = (disputed.container, disputed.ifname)
    return Dispute(
        container=disputed.container,
        ifname=disputed.ifname,
        namespace=disputed.namespace,
        pod=disputed.pod,
        address=address,
        why=why,
        other=held is not None and held.holder.attachment != own,
    )


def _candidate(
    state: ClusterState, slot: SlotId, held: Held, verdict: Verdict, now: int
) -> Candidate:
    ipv4, ipv6 = views.addresses(state.networks[slot[0]].slots, slot[1])
    holder = held.holder
    assert verdict.since is not None
    assert verdict.last is not None
    return Candidate(
        network=slot[0],
        slot=str(slot[1]),
        ipv4=ipv4,
        ipv6=ipv6,
        node=holder.node,
        namespace=holder.namespace,
        pod=holder.pod,
        container=holder.container,
        ifname=holder.ifname,
        generation=held.generation,
        since=max(0, now - verdict.since) / 1000,
        last=max(0, now - verdict.last) / 1000,
        proved=verdict.proved,
        lacks=verdict.missing,
        witness=verdict.witness,
    )
