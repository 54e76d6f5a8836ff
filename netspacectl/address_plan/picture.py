"""The address plan as an SVG picture, readable on a light and on a dark ground."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from netspacectl.address_plan.figures import Plan
from netspacectl.address_plan.picture_layout import layout
from netspacectl.address_plan.picture_shapes import Box, Drawing, Label, Stroke

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
FONT: Final = '"DejaVu Sans Mono", "Liberation Mono", Menlo, Consolas, monospace'


def svg(plan: Plan) -> str:
    """The picture; the same plan makes the same text."""
    return "\n".join(_elements(layout(plan), plan)) + "\n"


def _elements(drawing: Drawing, plan: Plan) -> Iterator[str]:
    width, height = _n(drawing.width), _n(drawing.height)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" role="img" aria-labelledby="title desc">'
    )
    yield '  <title id="title">Address plan</title>'
    yield f'  <desc id="desc">{escape(_description(plan))}</desc>'
    yield f"  <style>\n    text {{ font-family: {FONT}; white-space: pre }}"
    yield "    .b { font-weight: bold }\n    .rule, .leader, .break { fill: none }"
    yield from (f"    {rule}" for rule in _rules(_LIGHT))
    yield "    @media (prefers-color-scheme: dark) {"
    yield from (f"      {rule}" for rule in _rules(_DARK))
    yield "    }\n  </style>\n  <defs>"
    for name, turn in (("hatch", 45), ("sparse", -45)):
        step = 6 if name == "hatch" else 12
        yield (
            f'    <pattern id="{name}" width="{step}" height="{step}" patternUnits='
            f'"userSpaceOnUse" patternTransform="rotate({turn})">'
            f'<path class="stripe" d="M0 0V{step}"/></pattern>'
        )
    yield "  </defs>"
    yield f'  <rect class="ground" width="{width}" height="{height}"/>'
    yield from (_box(box) for box in drawing.boxes)
    yield from (_stroke(stroke) for stroke in drawing.strokes)
    yield from (_label(label) for label in drawing.labels)
    yield "</svg>"


def _rules(colours: dict[str, str]) -> Iterator[str]:
    yield f".ground {{ fill: {colours['ground']} }}"
    yield f".t, .b {{ fill: {colours['text']} }}"
    yield f".m {{ fill: {colours['muted']} }}"
    yield f".rule {{ stroke: {colours['rule']} }}"
    yield f".leader {{ stroke: {colours['muted']}; stroke-width: 0.8 }}"
    yield f".break {{ stroke: {colours['muted']}; stroke-width: 1.5 }}"
    yield f".stripe {{ stroke: {colours['hatch']}; stroke-width: 1.6 }}"
    yield f".closed {{ fill: url(#hatch); stroke: {colours['hatch']}; stroke-width: 0.6 }}"
    yield f".elsewhere {{ fill: url(#sparse); stroke: {colours['hatch']}; stroke-width: 0.6 }}"
    for kind in ("free", "netspace", "application", "default"):
        yield f".{kind} {{ fill: {colours[kind]}; stroke: {colours[f'{kind}-line']} }}"
    for kind in ("netspace", "application", "default"):
        yield f".{kind}-bar {{ fill: {colours[f'{kind}-line']} }}"


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


def _box(box: Box) -> str:
    place = f'x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" height="{_n(box.height)}"'
    start = f"  <rect class={quoteattr(box.style)} {place}"
    return f"{start}><title>{escape(box.title)}</title></rect>" if box.title else f"{start}/>"


def _stroke(stroke: Stroke) -> str:
    path = f"M{_n(stroke.x1)} {_n(stroke.y1)}L{_n(stroke.x2)} {_n(stroke.y2)}"
    return f'  <path class="{stroke.style}" d="{path}"/>'


def _label(label: Label) -> str:
    anchor = "" if label.anchor == "start" else f' text-anchor="{label.anchor}"'
    place = f'x="{_n(label.x)}" y="{_n(label.y)}" font-size="{label.size}"{anchor}'
    return f'  <text class="{label.style}" {place}>{escape(label.text)}</text>'


def _n(value: float) -> str:
    """A length to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")
