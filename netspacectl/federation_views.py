"""What people see of federations: the rows of tables, made of the server's messages. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from netspace.messages.federating import (
    FederationServer,
    FederationsStatus,
    FederationStatus,
    NodeStatus,
    PeerStatus,
)
from netspace.messages.federation import PathWord
from netspace.messages.federation_trials import Direction, TrialReport
from netspacectl.text import duration
from netspacectl.views import Column

PATHS: Final = 20
"""Paths that are shown where not all are asked for."""
_RANK: Final = {"down": 0, "connecting": 1, "up": 2}


@dataclass(frozen=True)
class MemberRow:
    """Another member of a federation, by this cluster's leader."""

    federation: str
    peer: PeerStatus


@dataclass(frozen=True)
class PathRow:
    """A path of a node of this cluster."""

    node: str
    path: PathWord


@dataclass(frozen=True)
class TriedRow:
    """A path, or a pod, that was tried. `fails`: the hop, empty where all is well."""

    start: str
    end: str
    fails: str
    found: str
    do: str = ""


@dataclass(frozen=True)
class BenchedRow:
    """A path under load; rates in bits a second. `why` there are no figures."""

    start: str
    end: str
    rtt: float | None
    size: int
    asked: float
    got: float
    loss: float
    why: str = ""


def milliseconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds * 1000:.2f} ms"


def percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def megabits(rate: float) -> str:
    return f"{rate / 1e6:.3g} Mbit/s"


def _gateways(row: MemberRow) -> str | None:
    peer = row.peer
    if peer.kind == "homogeneous":
        return None
    return f"{len(set(peer.available) & set(peer.gateways))}/{len(peer.gateways)}"


def _tunnels(row: MemberRow) -> str:
    tunnels = row.peer.tunnels
    return f"{tunnels['up']}/{sum(tunnels.values())}"


def _nodes(row: MemberRow) -> str:
    peer = row.peer
    return f"{peer.nodes}, {peer.down} down" if peer.down else str(peer.nodes)


def _contact(row: MemberRow) -> str:
    age = row.peer.age
    return "never" if age is None else f"{duration(int(age))} ago"


def wrong_with(peer: PeerStatus) -> str:
    """What is wrong with another member, in words; empty if nothing."""
    return "; ".join(text for text in (peer.fault, "" if peer.reached else peer.why) if text)


def _up(node: NodeStatus) -> str:
    return f"{sum(path.state == 'up' for path in node.paths)}/{len(node.paths)}"


MEMBERS: Final[Sequence[Column[MemberRow]]] = (
    Column("FEDERATION", lambda row: row.federation),
    Column("MEMBER", lambda row: row.peer.cluster),
    Column("KIND", lambda row: row.peer.kind),
    Column("ANSWERS", lambda row: row.peer.reached),
    Column("CONTACT", _contact),
    Column("NODES", _nodes),
    Column("GATEWAYS", _gateways, right=True),
    Column("TUNNELS", _tunnels, right=True),
    Column("WRONG", lambda row: wrong_with(row.peer), wraps=True),
)
NODES: Final[Sequence[Column[NodeStatus]]] = (
    Column("NODE", lambda node: node.node),
    Column("SPEAKS", lambda node: node.down is None and node.heard is not None),
    Column("GATEWAY", lambda node: node.gateway),
    Column("CAN", lambda node: list(node.capabilities), wraps=True),
    Column("TUNNELS", _up, right=True),
    Column("FAULTS", lambda node: node.faults, wraps=True),
)
PATH_ROWS: Final[Sequence[Column[PathRow]]] = (
    Column("FEDERATION", lambda row: row.path.federation),
    Column("FROM", lambda row: row.node),
    Column("TO", lambda row: f"{row.path.cluster}/{row.path.node}"),
    Column("STATE", lambda row: row.path.state),
    Column("LOSS", lambda row: percent(row.path.loss), right=True),
    Column("ROUND TRIP", lambda row: milliseconds(row.path.rtt), right=True),
    Column("MTU", lambda row: row.path.mtu, right=True),
    Column("WHY", lambda row: row.path.why, wraps=True),
)
TRIED: Final[Sequence[Column[TriedRow]]] = (
    Column("FROM", lambda row: row.start),
    Column("TO", lambda row: row.end),
    Column("RESULT", lambda row: f"FAILS at {row.fails}" if row.fails else "ok"),
    Column("FOUND", lambda row: row.found, wraps=True),
    Column("DO", lambda row: row.do, wraps=True),
)
BENCHED: Final[Sequence[Column[BenchedRow]]] = (
    Column("FROM", lambda row: row.start),
    Column("TO", lambda row: row.end),
    Column("ROUND TRIP", lambda row: milliseconds(row.rtt), right=True),
    Column("PACKET", lambda row: row.size or None, right=True),
    Column("SENT", lambda row: None if row.why else megabits(row.asked), right=True),
    Column("ARRIVED", lambda row: None if row.why else megabits(row.got), right=True),
    Column("LOSS", lambda row: None if row.why else percent(row.loss), right=True),
    Column("WHY", lambda row: row.why, wraps=True),
)


def only(status: FederationsStatus, federation: str | None) -> FederationsStatus:
    """The status of one federation alone; all of it for None."""
    if federation is None:
        return status
    import msgspec

    nodes = [
        msgspec.structs.replace(
            node, paths=[path for path in node.paths if path.federation == federation]
        )
        for node in status.nodes
    ]
    return msgspec.structs.replace(
        status,
        federations=[each for each in status.federations if each.name == federation],
        nodes=nodes,
    )


def member_rows(status: FederationsStatus) -> list[MemberRow]:
    return [MemberRow(each.name, peer) for each in status.federations for peer in each.peers]


def path_rows(status: FederationsStatus) -> list[PathRow]:
    """The worst first."""
    rows = [PathRow(node.node, path) for node in status.nodes for path in node.paths]
    return sorted(rows, key=_badness)


def _badness(row: PathRow) -> tuple[int, float, str, str, str, str]:
    path = row.path
    rank = _RANK[path.state]
    return rank, -path.loss, row.node, path.federation, path.cluster, path.node


def faults(status: FederationsStatus) -> list[str]:
    """What is wrong with this cluster itself."""
    found = [] if status.ready else [f"server {status.server}: {status.why}"]
    found += [
        f"federation {each.name}: {fault}" for each in status.federations for fault in each.faults
    ]
    return found


def ill(status: FederationsStatus) -> bool:
    """Whether anything keeps pods from reaching others, or soon will."""
    return (
        bool(faults(status))
        or any(map(_peer_ill, (peer for each in status.federations for peer in each.peers)))
        or any(node.down is not None or bool(node.faults) for node in status.nodes)
    )


def _peer_ill(peer: PeerStatus) -> bool:
    if wrong_with(peer) or peer.tunnels["down"]:
        return True
    return bool(sum(peer.tunnels.values())) and not peer.tunnels["up"]


def verified_rows(report: TrialReport) -> list[TriedRow]:
    """What was tried both ways, each path by the first hop that fails."""
    rows = []
    for direction in _directions(report):
        rows += list(_not_tried(direction))
        for node in direction.nodes:
            start = f"{direction.source}/{node.node}"
            if node.why:
                rows.append(TriedRow(start, direction.target, "node", node.why))
            for path in node.verified:
                last = next(
                    (hop for hop in path.hops if not hop.ok), path.hops[-1] if path.hops else None
                )
                found, do = ("", "") if last is None else (last.found, last.do)
                end = f"{direction.target}/{path.node}"
                rows.append(TriedRow(start, end, path.fails, found, do))
            for pod in node.pods:
                fails = "" if pod.ok else "pod"
                rows.append(TriedRow(start, f"pod {pod.pod}", fails, pod.found, pod.do))
    return rows


def benched_rows(report: TrialReport) -> list[BenchedRow]:
    """The figures of all paths both ways."""
    rows = []
    for direction in _directions(report):
        for each in _not_tried(direction):
            rows.append(_without(each.start, each.end, each.found))
        for node in direction.nodes:
            start = f"{direction.source}/{node.node}"
            if node.why:
                rows.append(_without(start, direction.target, node.why))
            for path in node.benched:
                end = f"{direction.target}/{path.node}"
                figures = (path.rtt, path.size, path.asked, path.got, path.loss, path.why)
                rows.append(BenchedRow(start, end, *figures))
    return rows


def left_out(report: TrialReport) -> list[str]:
    """What was not tried since there was too much, in words."""
    found = []
    for direction in _directions(report):
        if direction.left_out:
            found.append(f"{direction.left_out} more nodes of cluster {direction.source}")
        paths = sum(node.left_out for node in direction.nodes)
        if paths:
            found.append(f"{paths} more paths from cluster {direction.source}")
    return found


def _directions(report: TrialReport) -> list[Direction]:
    return [report.there] if report.back is None else [report.there, report.back]


def _not_tried(direction: Direction) -> Iterator[TriedRow]:
    if direction.why:
        yield TriedRow(direction.source, direction.target, "server", direction.why)
    elif direction.awaited:
        why = f"{direction.awaited} nodes have not answered"
        yield TriedRow(direction.source, direction.target, "node", why)


def _without(start: str, end: str, why: str) -> BenchedRow:
    return BenchedRow(start, end, None, 0, 0.0, 0.0, 0.0, why)


def head(status: FederationsStatus) -> list[tuple[str, str]]:
    """The lines above the tables."""
    lines = [("cluster", status.cluster), ("leader", status.leader or "none")]
    lines.append(("servers", ", ".join(map(_server, status.servers)) or "none"))
    lines += [(f"ranges of {each.name}", _listed(each)) for each in status.federations]
    return lines


def _server(server: FederationServer) -> str:
    lacks = ", ".join(server.uncertified)
    return f"{server.name} (NO CERTIFICATE of {lacks})" if lacks else server.name


def _listed(federation: FederationStatus) -> str:
    return ", ".join(federation.ranges) or "none"
