"""Kubernetes as a witness, and all witnesses together: pure, as `reclaim`.

Of a node that is fenced, its Node object deleted or tainted out-of-service, Kubernetes' word counts
in place of the node's reports: the controller names the held slots whose pods are absent or
finished, twice, a grace period of the cluster's clock apart, and never the contrary between. A node
that is heard of ends it: of a living node Kubernetes alone frees nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from ipam_server.inventory import Fenced, Held
from ipam_server.keys import SlotId
from ipam_server.reclaim import NodeReports, Verdict, is_about
from ipam_server.records import Absence, FencingRecord
from ipam_server.state import ClusterState
from netspace.kubernetes import Fencing
from netspace.messages import Fence
from statestore import Compare

WORDS: dict[Fence, str] = {
    "deleted": "its Node object is deleted",
    "out-of-service": "it is tainted out-of-service",
}
"""Why a node is fenced, for people."""


@dataclass(frozen=True, slots=True)
class KubernetesWord:
    """What Kubernetes has said of the pods of fenced nodes; `grace` in milliseconds."""

    state: ClusterState
    grace: int

    def verdict(self, slot: SlotId, held: Held) -> Verdict:
        node = held.holder.node
        told = self.state.fenced.get(node)
        if held.holder.reserved:
            return Verdict(False, "it is a reservation")
        if told is None:
            return Verdict(
                False, f"node {node} is not fenced: Kubernetes' word alone frees nothing"
            )
        found = next((each for each in told.record.gone if is_about(each, slot, held)), None)
        if found is None:
            return Verdict(False, f"Kubernetes has not said that its pod on node {node} is gone")
        return self.judge(told, found, node)

    def judge(self, told: Fenced, found: Absence, node: str) -> Verdict:
        """What is proved by an entry in what was said of a fenced node."""
        since, last = found.since, told.record.at
        compares = (Compare.modified_at(self.state.keys.fenced(node), told.revision),)
        left = self.grace - (last - since)
        if left <= 0:
            return Verdict(True, "", since, last, compares, "kubernetes")
        missing = (
            f"Kubernetes' word once more that it is gone and node {node} fenced"
            f" ({WORDS[told.record.why]}), at least {left / 1000:.1f} s after its last one"
        )
        return Verdict(False, missing, since, last, compares, "kubernetes")


def fenced(state: ClusterState, node: str, asked: Fencing, now: int) -> FencingRecord:
    """What is known of a fenced node after a word on it. What was gone before as well keeps its
    moment; what is not named is there again. A word whose look was before the last one had come
    proves nothing, but that something is there; so does one about what is newer than the look."""
    told = state.fenced.get(node)
    before = {} if told is None else {(e.slot, e.generation): e for e in told.record.gone}
    late = told is not None and asked.seen < told.revision
    gone: dict[SlotId, Absence] = {}
    for each in asked.gone:
        slot = each.network, int(each.slot)
        held = state.held(slot)
        if (
            held is None
            or held.generation != each.generation
            or held.generation > asked.seen
            or held.holder.reserved
            or held.holder.node != node
        ):
            continue
        known = before.get((slot, each.generation))
        if known is not None or not late:
            gone[slot] = known or Absence(slot[0], f"{slot[1]:x}", each.generation, now)
    listed = [gone[slot] for slot in sorted(gone)]
    if told is not None and late:
        return msgspec.structs.replace(told.record, gone=listed)
    began = now if told is None else told.record.began
    return FencingRecord(why=asked.why, began=began, at=now, seen=asked.seen, gone=listed)


def verdict(state: ClusterState, grace: int, slot: SlotId, held: Held) -> Verdict:
    """The word of whichever witness proves the most."""
    reports = NodeReports(state, grace).verdict(slot, held)
    if reports.proved or held.holder.node not in state.fenced:
        return reports
    word = KubernetesWord(state, grace).verdict(slot, held)
    return word if word.proved or word.since is not None else reports


def candidates(state: ClusterState, grace: int) -> list[tuple[SlotId, Held, Verdict]]:
    """Everything that a witness has missed and is held still, with what its proof lacks."""
    found: dict[SlotId, tuple[Held, Verdict]] = {}
    reports, words = NodeReports(state, grace), KubernetesWord(state, grace)
    for node, reported in state.absences.items():
        for entry in reported.record.gone:
            held = state.held(entry.slot)
            if held is not None and is_about(entry, entry.slot, held):
                found[entry.slot] = held, reports.judge(reported, entry, node)
    for node, said in state.fenced.items():
        for entry in said.record.gone:
            held = state.held(entry.slot)
            if held is None or not is_about(entry, entry.slot, held):
                continue
            if entry.slot not in found or not found[entry.slot][1].proved:
                found[entry.slot] = held, words.judge(said, entry, node)
    return [(slot, *found[slot]) for slot in sorted(found)]
