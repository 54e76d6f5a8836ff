"""A drawing as SVG text, for a light and a dark ground: no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from netspacectl.picture_shapes import Box, Drawing, Label, Stroke

FONT: Final = '"DejaVu Sans Mono", "Liberation Mono", Menlo, Consolas, monospace'
Colours = Mapping[str, str]


@dataclass(frozen=True)
class Look:
    """How classes look. `rules` makes CSS of colours, `light` or `dark`; `lines`: the classes of
    strokes; `defs`: SVG that classes refer to."""

    light: Colours
    dark: Colours
    rules: Callable[[Colours], Iterable[str]]
    lines: Sequence[str]
    defs: Sequence[str] = ()


def document(drawing: Drawing, look: Look, title: str, description: str) -> str:
    """The picture; the same drawing makes the same text."""
    return "\n".join(_elements(drawing, look, title, description)) + "\n"


def hatch(name: str, step: int, turn: int) -> str:
    """A pattern of stripes, `step` pixels apart."""
    return (
        f'    <pattern id="{name}" width="{step}" height="{step}" patternUnits='
        f'"userSpaceOnUse" patternTransform="rotate({turn})">'
        f'<path class="stripe" d="M0 0V{step}"/></pattern>'
    )


def _elements(drawing: Drawing, look: Look, title: str, description: str) -> Iterator[str]:
    width, height = _n(drawing.width), _n(drawing.height)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" role="img" aria-labelledby="title desc">'
    )
    yield f'  <title id="title">{escape(title)}</title>'
    yield f'  <desc id="desc">{escape(description)}</desc>'
    yield f"  <style>\n    text {{ font-family: {FONT}; white-space: pre }}"
    strokes = ", ".join(f".{name}" for name in look.lines)
    yield f"    .b {{ font-weight: bold }}\n    {strokes} {{ fill: none }}"
    yield from (f"    {rule}" for rule in _rules(look, look.light))
    yield "    @media (prefers-color-scheme: dark) {"
    yield from (f"      {rule}" for rule in _rules(look, look.dark))
    yield "    }\n  </style>\n  <defs>"
    yield from look.defs
    yield "  </defs>"
    yield f'  <rect class="ground" width="{width}" height="{height}"/>'
    yield from (_box(box) for box in drawing.boxes)
    yield from (_stroke(stroke) for stroke in drawing.strokes)
    yield from (_label(label) for label in drawing.labels)
    yield "</svg>"


def _rules(look: Look, colours: Colours) -> Iterator[str]:
    yield f".ground {{ fill: {colours['ground']} }}"
    yield f".t, .b {{ fill: {colours['text']} }}"
    yield f".m {{ fill: {colours['muted']} }}"
    yield f".rule {{ stroke: {colours['rule']} }}"
    yield from look.rules(colours)


def _box(box: Box) -> str:
    place = f'x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" height="{_n(box.height)}"'
    start = f"  <rect class={quoteattr(box.style)} {place}"
    return f"{start}><title>{escape(box.title)}</title></rect>" if box.title else f"{start}/>"


def _stroke(stroke: Stroke) -> str:
    path = f"M{_n(stroke.x1)} {_n(stroke.y1)}L{_n(stroke.x2)} {_n(stroke.y2)}"
    start = f'  <path class="{stroke.style}" d="{path}"'
    title = stroke.title
    return f"{start}><title>{escape(title)}</title></path>" if title else f"{start}/>"


def _label(label: Label) -> str:
    anchor = "" if label.anchor == "start" else f' text-anchor="{label.anchor}"'
    place = f'x="{_n(label.x)}" y="{_n(label.y)}" font-size="{label.size}"{anchor}'
    return f'  <text class="{label.style}" {place}>{escape(label.text)}</text>'


def _n(value: float) -> str:
    """A length to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")
