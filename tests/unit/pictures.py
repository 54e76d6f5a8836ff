"""What holds of the labels of every picture."""

from __future__ import annotations

from itertools import combinations

from netspacectl.picture_shapes import Drawing


def check_labels(drawing: Drawing) -> None:
    """None overlaps another one, and all are on the picture."""
    for one, other in combinations(drawing.labels, 2):
        a, b = one.box, other.box
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (one, other)
    for left, top, right, bottom in (label.box for label in drawing.labels):
        assert left >= 0
        assert top >= 0
        assert right <= drawing.width
        assert bottom <= drawing.height
