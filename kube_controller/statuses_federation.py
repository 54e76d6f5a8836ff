"""The status of a Federation, from what the federation server says. Pure.

Conditions: `Ready`, it is as it is declared; `Joined`, this cluster is a member; `Reachable`, all
other members' servers answer; `Overlap`, ranges of two members overlap, so that something is not
applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from kube_controller.kinds import Custom
from kube_controller.statuses import Status, condition, first, ready, reason_of, written
from netspace.messages.federating import FederationDetails, FederationStatus, PeerStatus
from netspace.problems import Problem

JOINED: Final = "Joined"
REACHABLE: Final = "Reachable"
OVERLAP: Final = "Overlap"
FRESH: Final = 60
"""Seconds in which a later contact is not worth telling."""
_FIGURES: Final = ("founder", "number", "ranges", "faults", "membersText", "members")
_SHOWN: Final = 5
_OVERLAPS: Final = "overlap"
"""In the words of every fault that is one."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A federation as the server has it. `status` None: its leader has said nothing of it yet."""

    details: FederationDetails
    status: FederationStatus | None


def status(custom: Custom, found: Seen | None, problem: Problem | None, now: datetime) -> Status:
    """`found` None: this cluster is in none of the name; `problem`: why it is not as declared."""
    state = "True" if problem is None and found is not None and not custom.going else "False"
    conditions = [
        ready(custom, state, problem, now),
        _joined(custom, found, problem, now),
        _reachable(custom, found, now),
        _overlap(custom, found, problem, now),
    ]
    return {
        "observedGeneration": custom.metadata.generation,
        "conditions": conditions,
        **_figures(custom, found),
    }


def refused(custom: Custom, problem: Problem, reason: str, now: datetime) -> Status:
    """Where nothing can be asked at all, for lack of configuration."""
    conditions = [condition(custom, "Ready", "False", reason, str(problem), now)]
    return {
        "observedGeneration": custom.metadata.generation,
        "conditions": conditions,
        **dict.fromkeys(_FIGURES),
    }


def unknown(custom: Custom, problem: Problem, now: datetime) -> Status:
    """Where the server could not be asked: what is known stays, but whether the others are reached
    is not known; nor whether it is as declared, where that was changed."""
    seen = custom.status.get("observedGeneration") == custom.metadata.generation
    kept: dict[str, Any] = {
        each["type"]: each for each in custom.status.get("conditions") or () if "type" in each
    }
    for kind in (REACHABLE,) if seen and not custom.going else (REACHABLE, "Ready"):
        reason = reason_of(problem)
        kept[kind] = condition(custom, kind, "Unknown", reason, str(problem), now)
    return {"conditions": list(kept.values())}


def _joined(custom: Custom, found: Seen | None, problem: Problem | None, now: datetime) -> Status:
    if found is None:
        reason = "NotJoined" if problem is None else reason_of(problem)
        message = "this cluster is no member yet" if problem is None else str(problem)
        return condition(custom, JOINED, "False", reason, message, now)
    federation = found.details.federation
    own = None if found.status is None else _own(found)
    if own == "":
        message = (
            f"the founder, cluster {federation.founder}, has removed this cluster: delete this"
            " object, and make it again with another token"
        )
        return condition(custom, JOINED, "False", "Removed", message, now)
    what = "founded" if found.details.founded else "is a member of"
    message = f"this cluster {what} federation {federation.name}"
    return condition(custom, JOINED, "True", "Member", message, now)


def _own(found: Seen) -> str:
    """This cluster's name, empty where it is no member any more: it is the one that is no peer."""
    assert found.status is not None
    peers = {peer.cluster for peer in found.status.peers}
    members = [each.cluster for each in found.details.federation.members]
    return next((name for name in members if name not in peers), "")


def _reachable(custom: Custom, found: Seen | None, now: datetime) -> Status:
    if found is None:
        message = "nobody is asked as long as this cluster is no member"
        return condition(custom, REACHABLE, "Unknown", "NotJoined", message, now)
    if found.status is None:
        return condition(custom, REACHABLE, "Unknown", "NotHeard", "not asked yet", now)
    peers = found.status.peers
    silent = [peer for peer in peers if not peer.reached]
    if silent:
        message = _list([f"{peer.cluster} ({peer.why})" for peer in silent])
        return condition(custom, REACHABLE, "False", "Silent", f"no answer: {message}", now)
    if not peers:
        return condition(custom, REACHABLE, "True", "Alone", "there is no other member", now)
    message = f"all {len(peers)} other members answer"
    return condition(custom, REACHABLE, "True", "Answering", message, now)


def _overlap(custom: Custom, found: Seen | None, problem: Problem | None, now: datetime) -> Status:
    faults = [] if problem is None or problem.code != "overlap" else [str(problem)]
    if found is not None and found.status is not None:
        faults += [fault for fault in found.status.faults if _OVERLAPS in fault]
        faults += [peer.fault for peer in found.status.peers if _OVERLAPS in peer.fault]
    if faults:
        return condition(custom, OVERLAP, "True", "Overlap", _list(faults), now)
    return condition(custom, OVERLAP, "False", "Disjoint", "no ranges overlap", now)


def _figures(custom: Custom, found: Seen | None) -> Status:
    figures: Status = dict.fromkeys(_FIGURES)
    if found is None:
        return figures
    federation = found.details.federation
    figures |= {"founder": federation.founder, "number": federation.number}
    if found.status is not None:
        peers = found.status.peers
        before = {
            each.get("cluster"): each
            for each in custom.status.get("members") or ()
            if isinstance(each, Mapping)
        }
        figures |= {
            "ranges": first(found.status.ranges),
            "faults": first(found.status.faults),
            "membersText": f"{sum(peer.reached for peer in peers)}/{len(peers)}",
            "members": [_member(peer, before.get(peer.cluster, {})) for peer in peers],
        }
    return figures


def _member(peer: PeerStatus, before: Mapping[str, Any]) -> Status:
    tunnels = peer.tunnels
    shown: Status = {
        "cluster": peer.cluster,
        "kind": peer.kind,
        "cni": peer.cni,
        "reached": peer.reached,
        "ranges": first(peer.ranges),
        "nodes": peer.nodes,
        "nodesDown": peer.down,
        "tunnelsUp": tunnels.get("up", 0),
        "tunnelsWanted": sum(tunnels.values()),
    }
    if peer.kind == "heterogeneous":
        shown |= {"gateways": len(peer.gateways), "gatewaysAvailable": len(peer.available)}
    if peer.contact is not None:
        shown["lastContact"] = _contact(peer.contact, before.get("lastContact"))
    fault = peer.fault or peer.why
    return {**shown, "fault": fault} if fault else shown


def _contact(contact: int, before: object) -> str:
    """The time of the last contact, as it was told unless it is much later by now."""
    if isinstance(before, str):
        try:
            told = datetime.strptime(before, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError:
            told = None
        if told is not None and 0 <= contact - told.timestamp() < FRESH:
            return before
    return written(datetime.fromtimestamp(contact, UTC))


def _list(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more
