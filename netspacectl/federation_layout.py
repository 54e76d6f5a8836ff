"""Where everything of the federations' picture stands.

Each federation has this cluster on the left, the other members on the right, and between them a
line for every tunnel that its nodes told of. Of many nodes those that are not well are shown, and
the others in one row; where there would be too many lines, each member has one for each state. No
line crosses a label: labels are in boxes, and lines between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from netspace.messages.federating import (
    FederationsStatus,
    FederationStatus,
    NodeStatus,
    PeerStatus,
)
from netspacectl.federation_rows import (
    STATES,
    Health,
    Row,
    State,
    ago,
    node_health,
    node_row,
    paths,
    peer_rows,
    shown,
    tunnels,
)
from netspacectl.picture_shapes import Box, Drawing, Label, Stroke, cut
from netspacectl.text import printable

MARGIN: Final = 24
WIDTH: Final = 1000
"""Of all between the margins; all lengths are pixels."""
LEFT: Final = 300
RIGHT: Final = 400
PAD: Final = 12
ROW: Final = 22
LINE: Final = 17
SMALL: Final = 11
NORMAL: Final = 12
NAME: Final = 14
HEADING: Final = 17
LINES: Final = 60
"""Lines of a federation; of more each member has one for each state."""
FAULTS: Final = 6

_LEGEND: Final[Sequence[tuple[Health, str]]] = (
    ("well", "well"),
    ("unsure", "in part, not known yet"),
    ("ill", "silent, down or not available"),
)
_HEALTH: Final[Mapping[State, Health]] = {"up": "well", "connecting": "unsure", "down": "ill"}


@dataclass(frozen=True)
class Port:
    """Where lines of a row begin or end."""

    x: float
    y: float


def layout(status: FederationsStatus) -> Drawing:
    """The picture of a status."""
    drawing = Drawing(WIDTH + 2 * MARGIN)
    y = _head(drawing, status)
    for federation in status.federations:
        y = _federation(drawing, status, federation, y + 36)
    if not status.federations:
        y += 32
        said = status.why or f"cluster {status.cluster} is in no federation"
        drawing.labels.append(Label(MARGIN, y, cut(printable(said), WIDTH, NORMAL), NORMAL, "m"))
    drawing.height = y + MARGIN
    return drawing


def _head(drawing: Drawing, status: FederationsStatus) -> float:
    title = Label(MARGIN, 40, _cut(f"Federations of cluster {status.cluster}", 620, 20), 20, "b")
    drawing.labels.append(title)
    down = sum(node_health(node)[1] == "ill" for node in status.nodes)
    counts = f"{len(status.nodes)} nodes" + (f", {down} not well" if down else "")
    drawing.labels.append(Label(title.x + title.width + 16, 40, counts, NORMAL, "m"))
    x: float = MARGIN
    for state in STATES:
        drawing.strokes += _tunnel(Port(x, 64), Port(x + 44, 64), state, "")
        label = Label(x + 52, 68, f"tunnel {state}", SMALL, "m")
        drawing.labels.append(label)
        x += 52 + label.width + 22
    for health, words in _LEGEND:
        drawing.boxes.append(Box(x, 57, 22, 13, health))
        label = Label(x + 30, 68, words, SMALL, "m")
        drawing.labels.append(label)
        x += 30 + label.width + 22
    return 72


def _federation(
    drawing: Drawing, status: FederationsStatus, federation: FederationStatus, y: float
) -> float:
    """Draws one from `y`, the base line of its name; how far down it comes."""
    name = Label(MARGIN, y, _cut(f"federation {federation.name}", 560, HEADING), HEADING, "b")
    beside = name.x + name.width + 14
    told = f"founded by {federation.founder} · change {federation.number}"
    drawing.labels += [
        name,
        Label(beside, y, _cut(told, MARGIN + WIDTH - beside, NORMAL), NORMAL, "m"),
    ]
    drawing.strokes.append(Stroke(MARGIN, y + 8, MARGIN + WIDTH, y + 8, "rule"))
    top = y + 22
    rows = shown([node_row(node, federation) for node in status.nodes])
    left, ports = _own(drawing, status, federation, rows, top)
    bottom, ends = top, {}
    for peer in federation.peers:
        known = shown(peer_rows(status.nodes, federation.name, peer))
        bottom, ends[peer.cluster] = _peer(drawing, peer, known, bottom)
        bottom += 16
    if not federation.peers:
        where = MARGIN + WIDTH - RIGHT
        drawing.labels.append(Label(where, top + 24, "no other members", NORMAL, "m"))
    _connect(drawing, status.nodes, federation, ports, ends)
    y = max(left, bottom - 16 if federation.peers else top + 30)
    return _trouble(drawing, status.nodes, federation, y)


def _own(
    drawing: Drawing,
    status: FederationsStatus,
    federation: FederationStatus,
    rows: Sequence[Row],
    top: float,
) -> tuple[float, dict[str, Port]]:
    """This cluster's box; its lower end, and by node where its lines begin."""
    frame = Box(MARGIN, top, LEFT, 0, "cluster", f"cluster {status.cluster}")
    y = top + 22
    _between(drawing, frame, y, status.cluster, "this cluster")
    y = _lines(drawing, frame, y, [_texts("ranges", federation.ranges)])
    return _filled(drawing, frame, rows, y, "right")


def _peer(
    drawing: Drawing, peer: PeerStatus, rows: Sequence[Row], top: float
) -> tuple[float, dict[str, Port]]:
    """Another member's box; its lower end, and by node where lines to it end. The member itself is
    the empty name."""
    style = "cluster" if peer.reached else "cluster silent"
    frame = Box(MARGIN + WIDTH - RIGHT, top, RIGHT, 0, style, f"cluster {peer.cluster}")
    y = top + 22
    since = "" if peer.age is None else f" for {ago(peer.age)}"
    _between(drawing, frame, y, peer.cluster, "answers" if peer.reached else f"silent{since}")
    how = "IPsec through gateways" if peer.kind == "heterogeneous" else "VXLAN mesh"
    down = f", {peer.down} down" if peer.down else ""
    counts = [f"{count} {state}" for state, count in tunnels(peer).items() if count]
    lines = [
        f"{how} · {peer.cni} · {peer.nodes} nodes{down}",
        _texts("ranges", peer.ranges),
        "tunnels: " + (", ".join(counts) or "none"),
        *(f"fault: {why}" for why in (peer.fault, "" if peer.reached else peer.why) if why),
    ]
    y = _lines(drawing, frame, y, lines)
    bottom, ports = _filled(drawing, frame, rows, y, "left")
    return bottom, {**ports, "": Port(frame.x, (top + bottom) / 2)}


def _between(drawing: Drawing, frame: Box, y: float, name: str, word: str) -> None:
    """A box's first line: a name on the left, a word on the right."""
    right = Label(frame.x + frame.width - PAD, y, word, NORMAL, "m", "end")
    room = right.left - frame.x - 2 * PAD
    drawing.labels += [Label(frame.x + PAD, y, _cut(name, room, NAME), NAME, "b"), right]


def _lines(drawing: Drawing, frame: Box, y: float, texts: Iterable[str]) -> float:
    for text in texts:
        y += LINE
        shown_ = _cut(text, frame.width - 2 * PAD, SMALL)
        drawing.labels.append(Label(frame.x + PAD, y, shown_, SMALL, "m"))
    return y


def _filled(
    drawing: Drawing, frame: Box, rows: Sequence[Row], y: float, side: Literal["left", "right"]
) -> tuple[float, dict[str, Port]]:
    """The box with its rows in it."""
    y += 10
    ports: dict[str, Port] = {}
    boxes: list[Box] = []
    x = frame.x if side == "left" else frame.x + frame.width
    for row in rows:
        title = printable(f"{row.name}: {row.word}")
        boxes.append(Box(frame.x + PAD, y, frame.width - 2 * PAD, ROW - 4, row.health, title))
        word = Label(frame.x + frame.width - PAD - 6, y + 13, row.word, SMALL, "t", "end")
        room = word.left - frame.x - PAD - 16
        drawing.labels += [
            Label(frame.x + PAD + 6, y + 13, _cut(row.name, room, SMALL), SMALL),
            word,
        ]
        for node in row.nodes:
            ports[node] = Port(x, y + (ROW - 4) / 2)
        y += ROW
    bottom = y + 8
    drawing.boxes.append(
        Box(frame.x, frame.y, frame.width, bottom - frame.y, frame.style, frame.title)
    )
    drawing.boxes += boxes
    return bottom, ports


# Tunnels


def _connect(
    drawing: Drawing,
    nodes: Sequence[NodeStatus],
    federation: FederationStatus,
    ports: Mapping[str, Port],
    ends: Mapping[str, Mapping[str, Port]],
) -> None:
    found: dict[tuple[Port, Port], list[tuple[State, str]]] = {}
    for peer in federation.peers:
        for node, other, state, _ in paths(nodes, federation.name, peer.cluster):
            line = (ports[node], ends[peer.cluster][other])
            found.setdefault(line, []).append((state, f"{node} → {peer.cluster}/{other}: {state}"))
    told = sum(len(each) for each in found.values())
    if len(found) <= LINES and told == sum(sum(p.tunnels.values()) for p in federation.peers):
        for (start, end), each in found.items():
            worst = max((state for state, _ in each), key=STATES.index)
            title = "; ".join(text for _, text in each[:FAULTS])
            more = f"; and {len(each) - FAULTS} more" if len(each) > FAULTS else ""
            drawing.strokes += _tunnel(start, end, worst, title + more)
        return
    middle = _middle(ports)
    for peer in federation.peers:
        end = ends[peer.cluster][""]
        states = [(state, count) for state, count in tunnels(peer).items() if count]
        for at, (state, count) in enumerate(states):
            shift = 9 * (at - (len(states) - 1) / 2)
            start = Port(MARGIN + LEFT, middle + shift)
            title = f"{peer.cluster}: {count} tunnels {state}"
            drawing.strokes += _tunnel(start, Port(end.x, end.y + shift), state, title)


def _middle(ports: Mapping[str, Port]) -> float:
    ys = [port.y for port in ports.values()]
    return (min(ys) + max(ys)) / 2 if ys else 0.0


def _tunnel(start: Port, end: Port, state: State, title: str) -> list[Stroke]:
    """A line; one that is down has a cross in its middle."""
    line = Stroke(start.x, start.y, end.x, end.y, f"{_HEALTH[state]}-line", printable(title))
    if state != "down":
        return [line]
    x, y = (start.x + end.x) / 2, (start.y + end.y) / 2
    return [
        line,
        Stroke(x - 5, y - 5, x + 5, y + 5, "cross"),
        Stroke(x - 5, y + 5, x + 5, y - 5, "cross"),
    ]


def _trouble(
    drawing: Drawing, nodes: Sequence[NodeStatus], federation: FederationStatus, y: float
) -> float:
    """In words what is not well; how far down it comes."""
    found = list(federation.faults)
    found += [f"{node.node}: {fault}" for node in nodes for fault in node.faults]
    for peer in federation.peers:
        said = [peer.fault, "" if peer.reached else peer.why]
        found += [f"cluster {peer.cluster}: {fault}" for fault in said if fault]
    for peer in federation.peers:
        for node, other, state, why in paths(nodes, federation.name, peer.cluster):
            if state != "up":
                text = f"{node} → {peer.cluster}/{other} is {state}"
                found.append(f"{text}: {why}" if why else text)
    y += 6
    for line in found[:FAULTS]:
        y += LINE
        drawing.labels.append(Label(MARGIN, y, _cut(line, WIDTH, SMALL), SMALL))
    if len(found) > FAULTS:
        y += LINE
        more = f"and {len(found) - FAULTS} more: netspacectl federation status"
        drawing.labels.append(Label(MARGIN, y, more, SMALL, "m"))
    return y


# Texts


def _texts(what: str, texts: Sequence[str]) -> str:
    return f"{what}: {', '.join(texts)}" if texts else f"{what}: none"


def _cut(text: str, room: float, size: int) -> str:
    return cut(printable(text), room, size)
