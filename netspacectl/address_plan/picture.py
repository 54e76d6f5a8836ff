"""The address plan as an SVG picture, readable on a light and on a dark ground."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from netspacectl.address_plan.figures import Plan
from netspacectl.address_plan.picture_layout import layout
from netspacectl.picture_svg import Colours, Look, document, hatch

_LIGHT: Final = {
    "ground": "#ffffff", "text": "#1b2530", "muted": "#55626f", "rule": "#c4ccd4",
    "free": "#f1f4f7", "free-line": "#9aa7b4", "hatch": "#7b8996",
    "netspace": "#cfe3f7", "netspace-line": "#1f6bb0",
    "application": "#fbdfc0", "application-line": "#b5651d",
    "default": "#d6ecd2", "default-line": "#3b7d32",
}  # fmt: skip
_DARK: Final = {
    "ground": "#12171c", "text": "#e8edf2", "muted": "#a3b0bd", "rule": "#3c4753",
    "free": "#1d242b", "free-line": "#5d6a77", "hatch": "#8494a3",
    "netspace": "#1b3a57", "netspace-line": "#5aa5e6",
    "application": "#573615", "application-line": "#e6a15a",
    "default": "#24441f", "default-line": "#7cc46f",
}  # fmt: skip


def svg(plan: Plan) -> str:
    """The picture; the same plan makes the same text."""
    return document(layout(plan), _LOOK, "Address plan", _description(plan))


def _rules(colours: Colours) -> Iterator[str]:
    yield f".leader {{ stroke: {colours['muted']}; stroke-width: 0.8 }}"
    yield f".break {{ stroke: {colours['muted']}; stroke-width: 1.5 }}"
    yield f".stripe {{ stroke: {colours['hatch']}; stroke-width: 1.6 }}"
    yield f".closed {{ fill: url(#hatch); stroke: {colours['hatch']}; stroke-width: 0.6 }}"
    yield f".elsewhere {{ fill: url(#sparse); stroke: {colours['hatch']}; stroke-width: 0.6 }}"
    for kind in ("free", "netspace", "application", "default"):
        yield f".{kind} {{ fill: {colours[kind]}; stroke: {colours[f'{kind}-line']} }}"
    for kind in ("netspace", "application", "default"):
        yield f".{kind}-bar {{ fill: {colours[f'{kind}-line']} }}"


_LOOK: Final = Look(
    _LIGHT,
    _DARK,
    _rules,
    lines=("rule", "leader", "break"),
    defs=(hatch("hatch", 6, 45), hatch("sparse", 12, -45)),
)


def _description(plan: Plan) -> str:
    parts = []
    for cluster in plan.clusters:
        for network in cluster.networks:
            pools = ", ".join(pool.pool.name for pool in network.all_pools()) or "no pools"
            parts.append(
                f"Network {network.network.name} of cluster {cluster.cluster.name},"
                f" {network.slots}: {pools}; {network.free.size} free in the total pool."
            )
    return " ".join(parts) or "There are no networks."
