"""What a picture is made of: boxes, strokes and labels, with the room that a label takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

ADVANCE: Final = 0.61
"""Width of a character in font sizes: 0.602 in DejaVu Sans Mono, 0.6 in Liberation Mono."""
Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Box:
    """A rectangle of a class, with what a pointer over it shows."""

    x: float
    y: float
    width: float
    height: float
    style: str
    title: str = ""


@dataclass(frozen=True)
class Label:
    """A text; `y` is its base line."""

    x: float
    y: float
    text: str
    size: int
    style: str = "t"
    anchor: Anchor = "start"

    @property
    def width(self) -> float:
        return width_of(self.text, self.size)

    @property
    def left(self) -> float:
        shift = {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor]
        return self.x - shift * self.width

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        top, bottom = self.y - 0.8 * self.size, self.y + 0.22 * self.size
        return self.left, top, self.left + self.width, bottom


@dataclass(frozen=True)
class Stroke:
    """A straight line of a class, with what a pointer over it shows."""

    x1: float
    y1: float
    x2: float
    y2: float
    style: str
    title: str = ""


@dataclass
class Drawing:
    """Everything in the order in which it is drawn."""

    width: float
    height: float = 0.0
    boxes: list[Box] = field(default_factory=list)
    strokes: list[Stroke] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


def width_of(text: str, size: int) -> float:
    return len(text) * ADVANCE * size


def cut(text: str, room: float, size: int) -> str:
    """The text as far as it fits, with an ellipsis where it does not."""
    length = int(room / (ADVANCE * size))
    return text if len(text) <= length else text[: max(0, length - 1)] + "…"
