"""A cluster's federations as an SVG picture: clusters, gateways and tunnels with their health.

What is well, uncertain or not differs by colour, by how lines and borders are drawn, and by a word,
so that the picture can be printed without colours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from netspace.messages.federating import FederationsStatus
from netspacectl.federation_layout import layout
from netspacectl.federation_rows import STATES, tunnels
from netspacectl.picture_svg import Colours, Look, document

_LIGHT: Final = {
    "ground": "#ffffff", "text": "#1b2530", "muted": "#55626f", "rule": "#c4ccd4",
    "cluster": "#f5f7f9", "cluster-line": "#8c99a6",
    "well": "#d6ecd2", "well-line": "#2f7026",
    "unsure": "#fbe9c0", "unsure-line": "#9a6700",
    "ill": "#f8d3cf", "ill-line": "#b3261e",
}  # fmt: skip
_DARK: Final = {
    "ground": "#12171c", "text": "#e8edf2", "muted": "#a3b0bd", "rule": "#3c4753",
    "cluster": "#1a2027", "cluster-line": "#6b7885",
    "well": "#1f3d1b", "well-line": "#7cc46f",
    "unsure": "#4a3a10", "unsure-line": "#e3b341",
    "ill": "#52201c", "ill-line": "#ff8a80",
}  # fmt: skip
_DRAWN: Final = {"well": ("1.6", ""), "unsure": ("1.8", "7 4"), "ill": ("2.2", "2 4")}
"""Width and dashes of lines and borders."""


def svg(status: FederationsStatus) -> str:
    """The picture; the same status makes the same text."""
    title = f"Federations of cluster {status.cluster}"
    return document(layout(status), _LOOK, title, _description(status))


def _rules(colours: Colours) -> Iterator[str]:
    yield f".cluster {{ fill: {colours['cluster']}; stroke: {colours['cluster-line']} }}"
    for health, (width, dashes) in _DRAWN.items():
        line = f"stroke: {colours[f'{health}-line']}; stroke-width: {width}"
        dashed = f"; stroke-dasharray: {dashes}" if dashes else ""
        yield f".{health} {{ fill: {colours[health]}; {line}{dashed} }}"
        yield f".{health}-line {{ {line}{dashed} }}"
    yield f".silent {{ stroke: {colours['ill-line']}; stroke-width: 2.2; stroke-dasharray: 2 4 }}"
    yield f".cross {{ stroke: {colours['ill-line']}; stroke-width: 2.2 }}"


_LOOK: Final = Look(
    _LIGHT,
    _DARK,
    _rules,
    lines=("rule", "cross", *(f"{health}-line" for health in _DRAWN)),
)


def _description(status: FederationsStatus) -> str:
    parts = []
    for federation in status.federations:
        for peer in federation.peers:
            answer = "answers" if peer.reached else "does not answer"
            counts = ", ".join(f"{tunnels(peer).get(state, 0)} {state}" for state in STATES)
            parts.append(
                f"In federation {federation.name} cluster {peer.cluster} ({peer.kind}) {answer};"
                f" tunnels to it: {counts}."
            )
    return " ".join(parts) or "There are no other members."
