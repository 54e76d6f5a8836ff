"""Which addresses are reclaimed: pure decisions over the state and what witnesses say.

A holder is gone where a witness proves it. A node proves it by two reports, a grace period of the
cluster's clock apart, in which the attachment is missing and between which it was never there; an
admin by a word that names the generation; Kubernetes, of nodes that are fenced, as `witnesses`
says. Nobody's silence proves anything: neither a node that
reports nothing, nor an allocation that is newer than what the node had seen when it looked.
Reservations are no pod's, and nobody's report is about them; nor is a node's about what was taken
over from elsewhere, of which it has no record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from ipam_server.inventory import Absences, Held
from ipam_server.keys import SlotId
from ipam_server.records import Absence, AbsencesRecord
from ipam_server.state import ClusterState
from netspace.upkeep import AttachmentsReport, LiveAttachment, Testimony
from statestore import Compare


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a holder is proved gone. `missing` says what the proof lacks; `since` when it was
    first missed and `last` when it was last looked for, by the cluster's clock in milliseconds;
    None where nobody looked. `compares`: the proof as stored, so that a newer one stops the
    transaction that rests on it. `witness`: whose proof it is."""

    proved: bool
    missing: str = ""
    since: int | None = None
    last: int | None = None
    compares: tuple[Compare, ...] = ()
    witness: Testimony = "node"


class Witness(Protocol):
    """Somebody who can prove that a pod is gone."""

    def verdict(self, slot: SlotId, held: Held) -> Verdict:
        """What there is of a proof that this generation of the slot is over."""


@dataclass(frozen=True, slots=True)
class OperatorWord:
    """An admin who says that the holder of a generation is gone."""

    generation: int

    def verdict(self, slot: SlotId, held: Held) -> Verdict:
        if held.generation == self.generation:
            return Verdict(True)
        return Verdict(False, f"the address was given again since: generation {held.generation}")


@dataclass(frozen=True, slots=True)
class NodeReports:
    """What the nodes of a cluster have reported; `grace` in milliseconds."""

    state: ClusterState
    grace: int

    def verdict(self, slot: SlotId, held: Held) -> Verdict:
        node = held.holder.node
        told = self.state.absences.get(node)
        if held.holder.reserved:
            return Verdict(False, "it is a reservation")
        if told is None:
            return Verdict(False, f"node {node} has not reported its attachments")
        found = next((each for each in told.record.gone if is_about(each, slot, held)), None)
        if found is None:
            return Verdict(False, f"node {node} has not missed it since it was given")
        return self.judge(told, found, node)

    def judge(self, told: Absences, found: Absence, node: str) -> Verdict:
        """What is proved by an entry in a node's absences."""
        since, last = found.since, told.record.at
        compares = (Compare.modified_at(self.state.keys.absences(node), told.revision),)
        left = self.grace - (last - since)
        if left <= 0:
            return Verdict(True, "", since, last, compares)
        missing = (
            f"another report of node {node} that misses it, at least {left / 1000:.1f} s after"
            " its last one"
        )
        return Verdict(False, missing, since, last, compares)


def absences(
    state: ClusterState,
    held: Mapping[SlotId, Held],
    node: str,
    report: AttachmentsReport,
    now: int,
) -> AbsencesRecord:
    """What is missing in a node's report of what the node holds (`held`). What was missing before
    as well keeps its moment; what is there is forgotten. A report whose look was before the last
    one had come, a late copy of it for one, proves nothing, but that something is there."""
    alive = {(each.container, each.ifname): each for each in report.attachments}
    told = state.absences.get(node)
    before = {} if told is None else {(e.slot, e.generation): e for e in told.record.gone}
    late = told is not None and report.seen < told.revision
    missing = []
    for slot, each in sorted(held.items()):
        if not report.since < each.generation <= report.seen:
            # The node's records do not reach back to it, or it is newer than the look at them.
            continue
        if each.holder.imported:
            continue
        if _lives(alive.get(each.holder.attachment), each):
            continue
        known = before.get((slot, each.generation))
        if known is not None or not late:
            missing.append(known or Absence(slot[0], f"{slot[1]:x}", each.generation, now))
    if told is not None and late:
        return msgspec.structs.replace(told.record, gone=missing)
    return AbsencesRecord(at=now, seen=report.seen, gone=missing)


def held_by(state: ClusterState, node: str) -> Iterator[tuple[SlotId, Held]]:
    """What a node's pods hold; costs what the cluster holds."""
    for name, network in state.networks.items():
        for index, held in list(network.held.items()):
            if held.holder.node == node and not held.holder.reserved:
                yield (name, index), held


def complete(state: ClusterState, node: str, report: AttachmentsReport) -> bool:
    """Whether all that the node holds is in its report; costs what the report has."""
    present = 0
    for each in report.attachments:
        slot = state.attachments.get((each.container, each.ifname))
        held = None if slot is None else state.held(slot)
        present += (
            held is not None
            and held.holder.node == node
            and _lives(each, held)
        )  # fmt: skip
    return present == state.used_by.get(node, 0)


def _lives(found: LiveAttachment | None, held: Held) -> bool:
    """Whether what a node found is this generation. A node without the record's contents reports
    generation 0: whichever it is. What was taken back has another generation than the node knows,
    and the claim it knows."""
    if found is None:
        return False
    claim = None if found.holding is None else found.holding.claim
    return found.generation in (0, held.generation) or claim == held.holder.claim


def is_about(entry: Absence, slot: SlotId, held: Held) -> bool:
    """Whether the entry is about this generation of the slot."""
    return entry.generation == held.generation and entry.slot == slot
