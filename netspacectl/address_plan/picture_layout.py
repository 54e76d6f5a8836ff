"""Where everything of the address plan's picture stands: boxes and labels with their places.

A network is a band. It is to scale where every pool of it is wide enough to be seen; else its
scale is broken: each stretch between two borders gets room by the logarithm of its size, so that a
pool of eight addresses in a /8 can be seen beside the rest. Labels are in a font whose characters
all have one width, so that no two can overlap; what finds no place in its box stands below the
band, tied to it by a line, or in a list below that.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from math import log2
from textwrap import wrap
from typing import Final

from netspace.ranges import Interval, Ranges
from netspacectl.address_plan.figures import NetworkFigures, Plan, PoolFigures
from netspacectl.address_plan.figures_text import gateways, number, percent, segment
from netspacectl.picture_shapes import (
    ADVANCE,
    Box,
    Drawing,
    Label,
    Stroke,
    cut,
    width_of,
)
from netspacectl.text import printable

MARGIN: Final = 24
BAND: Final = 1000
"""Width of a network's band; all lengths are pixels."""
HEIGHT: Final = 56
NESTED_TOP: Final = 22
NESTED_HEIGHT: Final = 25
BAR: Final = 5
LINE: Final = 16
LANES: Final = 6
"""Lines of labels below a band."""
VISIBLE: Final = 3
"""The least width of a pool on a scale that is not broken."""
SMALL: Final = 11
NORMAL: Final = 12
NAME: Final = 14
HEADING: Final = 17
NAME_LENGTH: Final = 28


class Scale:
    """Where an index of a network stands in its band."""

    def __init__(self, network: NetworkFigures) -> None:
        spans = [pool.ranges for pool in network.all_pools()]
        borders = {0, network.slots.count}
        for ranges in (*spans, network.total):
            for first, last in ranges.intervals:
                borders |= {first, last + 1}
        self.borders = sorted(borders)
        count = network.slots.count
        smallest = min((b - a + 1 for span in spans for a, b in span.intervals), default=count)
        self.broken = smallest * BAND < VISIBLE * count
        steps = [b - a for a, b in zip(self.borders, self.borders[1:], strict=False)]
        weights = [log2(step) + 1 for step in steps] if self.broken else steps
        total = sum(weights)
        self.places = [float(MARGIN)]
        gone: float = 0
        for weight in weights:
            gone += weight
            self.places.append(MARGIN + BAND * (gone / total))

    def x(self, border: int) -> float:
        """The place of a border: the first index of a stretch, or the one behind its last."""
        return self.places[bisect_left(self.borders, border)]

    def span(self, interval: Interval) -> tuple[float, float]:
        """Left end and width of an interval."""
        left = self.x(interval[0])
        return left, self.x(interval[1] + 1) - left


def layout(plan: Plan) -> Drawing:
    """The picture of a plan."""
    drawing = Drawing(BAND + 2 * MARGIN)
    y = _legend(drawing, plan)
    for cluster in plan.clusters:
        y += 34
        name = f"cluster {cluster.cluster.name}"
        drawing.labels.append(Label(MARGIN, y, name, HEADING, "b"))
        drawing.strokes.append(Stroke(MARGIN, y + 8, MARGIN + BAND, y + 8, "rule"))
        y += 8
        if not cluster.networks:
            y += 20
            drawing.labels.append(Label(MARGIN, y, "no networks", NORMAL, "m"))
        for network in cluster.networks:
            y = _network(drawing, network, y + 26)
    drawing.height = y + MARGIN
    return drawing


_LEGEND: Final = (
    ("netspace", "netspace pool"),
    ("application", "application pool"),
    ("default", "default pool"),
    ("free", "total pool"),
    ("closed", "excluded, gateway"),
    ("elsewhere", "out of its range"),
)


def _legend(drawing: Drawing, plan: Plan) -> float:
    clusters, networks = len(plan.clusters), sum(len(c.networks) for c in plan.clusters)
    pools = sum(len(n.all_pools()) for c in plan.clusters for n in c.networks)
    counts = ", ".join(
        f"{count} {what}{'' if count == 1 else 's'}"
        for count, what in ((clusters, "cluster"), (networks, "network"), (pools, "pool"))
    )
    title = Label(MARGIN, 40, "Address plan", 20, "b")
    beside = title.x + title.width + 16
    drawing.labels += [title, Label(beside, 40, counts, NORMAL, "m")]
    x: float = MARGIN
    for style, text in _LEGEND:
        drawing.boxes.append(Box(x, 58, 18, 12, style))
        label = Label(x + 24, 68, text, SMALL, "m")
        drawing.labels.append(label)
        x += 24 + label.width + 18
    drawing.boxes.append(Box(x, 58, 30, 12, "default"))
    drawing.boxes.append(Box(x, 70 - BAR, 18, BAR, "bar default-bar"))
    drawing.labels.append(Label(x + 36, 68, "share in use", SMALL, "m"))
    return 70


def _network(drawing: Drawing, network: NetworkFigures, y: float) -> float:
    """Draws one network from `y`, the base line of its name; how far down it comes."""
    scale, known = Scale(network), network.network
    name = Label(MARGIN, y, cut(known.name, BAND / 2, NAME), NAME, "b")
    beside = name.x + name.width + 12
    where = f"{segment(network)} · {network.slots}"
    room = MARGIN + BAND - beside
    drawing.labels += [name, Label(beside, y, cut(where, room, NORMAL), NORMAL, "m")]
    y += LINE
    drawing.labels.append(Label(MARGIN, y, cut(_summary(network, scale), BAND, SMALL), SMALL, "m"))
    y += LINE
    drawing.labels += _axis(network, scale, y)
    top = y + 6
    drawing.boxes.append(Box(MARGIN, top, BAND, HEIGHT, "free", f"{known.name}: total pool"))
    unplaced: list[tuple[float, str]] = []
    for pool in network.pools:
        _pool(drawing, network, pool, scale, top, HEIGHT, unplaced)
        for inner in pool.nested:
            _pool(drawing, network, inner, scale, top + NESTED_TOP, NESTED_HEIGHT, unplaced)
    _closed(drawing, network, scale, top)
    for first, last in network.free.intervals:
        left, width = scale.span((first, last))
        text = f"free {number(last - first + 1)}"
        fits = width_of(text, SMALL) + 12 <= width
        if fits:
            middle = left + width / 2
            drawing.labels.append(Label(middle, top + 32, text, SMALL, "m", "middle"))
        if scale.broken and width >= (width_of(text, SMALL) + 60 if fits else 24):
            drawing.strokes += [
                Stroke(left + 8 + shift, top + HEIGHT + 4, left + 16 + shift, top - 4, "break")
                for shift in (0, 5)
            ]
    return _callouts(drawing, unplaced, top + HEIGHT)


def _summary(network: NetworkFigures, scale: Scale) -> str:
    known, free = network.network, network.free.size
    parts = [
        gateways(network),
        f"{number(network.total.size)} to carve from",
        f"{known.used} in use",
        f"free in the total pool {number(free)}",
    ]
    if free:
        parts.append(f"largest block {number(network.largest)}")
        parts.append(f"fragmentation {percent(network.fragmentation)}")
    parts.append("not to scale" if scale.broken else "to scale")
    return printable(" · ".join(parts))


def _axis(network: NetworkFigures, scale: Scale, y: float) -> Iterator[Label]:
    """The first and last address, and between them where pools begin, as far as they fit."""
    slots = network.slots
    first = Label(MARGIN, y, slots.format_ranges(Ranges.single(0))[0], SMALL, "m")
    last_text = slots.format_ranges(Ranges.single(slots.count - 1))[0]
    last = Label(MARGIN + BAND, y, last_text, SMALL, "m", "end")
    yield first
    yield last
    if slots.ipv4 is None:
        return
    end = first.box[2] + 10
    for index in sorted({pool.ranges.first for pool in network.pools if pool.ranges}):
        octets = str(slots.ipv4_of(index)).split(".")
        text = "." + ".".join(octets[slots.ipv4.prefixlen // 8 :][-4:])
        if len(octets[slots.ipv4.prefixlen // 8 :]) == 0:
            continue
        label = Label(scale.x(index), y, text, SMALL, "m")
        if label.x >= end and label.box[2] + 10 <= last.left:
            yield label
            end = label.box[2] + 10


def _pool(
    drawing: Drawing,
    network: NetworkFigures,
    figures: PoolFigures,
    scale: Scale,
    top: float,
    height: float,
    unplaced: list[tuple[float, str]],
) -> None:
    pool = figures.pool
    name = printable(pool.name)
    shown = name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"
    use = f"{pool.used}/{number(pool.size)}"
    title = printable(
        f"{pool.name}: {pool.kind}, {pool.used} of {pool.size} in use, {pool.cooling} cooling,"
        f" {pool.retained} retained"
    )
    widest: tuple[float, float] = (0.0, 0.0)
    placed = False
    for interval in figures.ranges.intervals:
        left, width = scale.span(interval)
        widest = max(widest, (width, left))
        (span,) = network.slots.format_ranges(Ranges((interval,)))
        drawing.boxes.append(Box(left, top, width, height, pool.kind, f"{title}, {span}"))
        bar = width * min(1.0, figures.share)
        drawing.boxes.append(Box(left, top + height - BAR, bar, BAR, f"bar {pool.kind}-bar", title))
        room = width - 8
        if width_of(f"{shown} {use}", NORMAL) <= room:
            drawing.labels.append(Label(left + 4, top + 15, f"{shown} {use}", NORMAL))
            placed = True
        elif width_of(shown, NORMAL) <= room:
            drawing.labels.append(Label(left + 4, top + 15, shown, NORMAL))
            placed = True
            if height == HEIGHT and not figures.nested and width_of(use, SMALL) <= room:
                drawing.labels.append(Label(left + 4, top + 15 + LINE, use, SMALL))
    if not placed and figures.ranges:
        unplaced.append((widest[1] + widest[0] / 2, f"{shown} {use}"))


def _closed(drawing: Drawing, network: NetworkFigures, scale: Scale, top: float) -> None:
    """What no pool can have, over whatever it lies in."""
    known, slots = network.network, network.slots
    everything = Ranges(((0, slots.count - 1),))
    part = slots.parse_ranges(known.range) if known.range else everything
    outside = everything - part
    for style, ranges in (("elsewhere", outside), ("closed", everything - outside - network.total)):
        for interval in _at_borders(ranges, scale):
            left, width = scale.span(interval)
            (span,) = slots.format_ranges(Ranges((interval,)))
            drawing.boxes.append(Box(left, top, width, HEIGHT, style, f"not for pools: {span}"))


def _at_borders(ranges: Ranges, scale: Scale) -> Iterable[Interval]:
    """The intervals cut where the scale has borders, so that each has a place."""
    for first, last in ranges.intervals:
        at = bisect_left(scale.borders, first)
        if scale.borders[at] != first:
            at -= 1
        while at + 1 < len(scale.borders) and scale.borders[at] <= last:
            yield scale.borders[at], scale.borders[at + 1] - 1
            at += 1


def _callouts(drawing: Drawing, unplaced: Sequence[tuple[float, str]], bottom: float) -> float:
    """Labels below the band, from right to left: each stands below those whose lines would cross
    it. Those that would come too low are listed. How far down it comes."""
    placed: list[tuple[float, int]] = []
    rest: list[tuple[float, str]] = []
    for x, text in sorted(unplaced, reverse=True):
        end = x + 4 + width_of(text, SMALL) + 10
        lane = max((lane for other, lane in placed if other < end), default=-1) + 1
        if lane >= LANES or end > MARGIN + BAND + MARGIN:
            rest.append((x, text))
            continue
        placed.append((x, lane))
        y = bottom + 16 + lane * LINE
        drawing.strokes.append(Stroke(x, bottom - 2, x, y, "leader"))
        drawing.labels.append(Label(x + 4, y, text, SMALL))
    y = bottom + (16 + max(lane for _, lane in placed) * LINE if placed else 0)
    if rest:
        text = "also, from left to right: " + ", ".join(text for _, text in sorted(rest))
        for line in wrap(text, int(BAND / (ADVANCE * SMALL)), break_on_hyphens=False):
            y += LINE
            drawing.labels.append(Label(MARGIN, y, line, SMALL))
    return y + 6
