"""What the federations' picture says of nodes, gateways and tunnels, in words and in three grades
of health. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from netspace.messages.federating import FederationStatus, NodeStatus, PeerStatus

ROWS: Final = 8
"""Nodes of a cluster that have a row of their own."""

Health = Literal["well", "unsure", "ill"]
State = Literal["up", "connecting", "down"]
STATES: Final[tuple[State, ...]] = ("up", "connecting", "down")


@dataclass(frozen=True)
class Row:
    """A node, or several, with a word on how they are."""

    name: str
    word: str
    health: Health
    nodes: tuple[str, ...]


def tunnels(peer: PeerStatus) -> Mapping[State, int]:
    """How many there are to a member, by their states."""
    return {state: peer.tunnels.get(state, 0) for state in STATES}


def shown(rows: Sequence[Row]) -> list[Row]:
    """Those that have a row, the ones that are not well first, and one row for all others."""
    if len(rows) <= ROWS:
        return list(rows)
    urgent = sorted(rows, key=lambda row: (("ill", "unsure", "well").index(row.health), row.name))
    kept, rest = urgent[: ROWS - 1], urgent[ROWS - 1 :]
    counts = [
        f"{number} {word}"
        for health, word in (("well", "well"), ("unsure", "in part"), ("ill", "not well"))
        if (number := sum(row.health == health for row in rest))
    ]
    worst = max((row.health for row in rest), key=("well", "unsure", "ill").index)
    nodes = tuple(node for row in rest for node in row.nodes)
    more = Row(f"and {len(rest)} more", ", ".join(counts), worst, nodes)
    return [*sorted(kept, key=lambda row: row.name), more]


def node_row(node: NodeStatus, federation: FederationStatus) -> Row:
    word, health = node_health(node)
    down = sum(path.federation == federation.name and path.state == "down" for path in node.paths)
    if health == "well" and down:
        word, health = f"{down} tunnel{'' if down == 1 else 's'} down", "unsure"
    what = "gateway, " if node.gateway else ""
    return Row(node.node, what + word, health, (node.node,))


def node_health(node: NodeStatus) -> tuple[str, Health]:
    if node.down is not None:
        return "down" if node.heard is None else f"silent for {ago(node.heard)}", "ill"
    if node.heard is None:
        return "not heard yet", "unsure"
    return ("has faults", "ill") if node.faults else ("well", "well")


def peer_rows(nodes: Iterable[NodeStatus], federation: str, peer: PeerStatus) -> list[Row]:
    """A member's gateways, or of a mesh the nodes that tunnels lead to."""
    ways: dict[str, list[State]] = {name: [] for name in sorted(peer.gateways)}
    for _, node, state, _ in paths(nodes, federation, peer.cluster):
        ways.setdefault(node, []).append(state)
    rows = []
    for name, states in ways.items():
        up = states.count("up")
        count = f"{up}/{len(states)} tunnels up"
        if peer.kind == "homogeneous":
            health: Health = "well" if up == len(states) else "ill" if not up else "unsure"
            rows.append(Row(name, count, health, (name,)))
            continue
        available = name in peer.available
        word = "available" if available else "not available"
        if name not in peer.gateways:
            word = "no gateway"
        known = f"{word}, {count}" if states else word
        rows.append(Row(name, known, "well" if available else "ill", (name,)))
    return rows


def paths(
    nodes: Iterable[NodeStatus], federation: str, cluster: str
) -> list[tuple[str, str, State, str]]:
    """Node, the other cluster's node, state and why it is so."""
    return [
        (node.node, path.node, path.state, path.why)
        for node in nodes
        for path in node.paths
        if (path.federation, path.cluster) == (federation, cluster)
    ]


def ago(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
