"""What a demo says: steps, what was checked and how it came out, and the sum at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence


class Narrator:
    """Prints plain text, at once, as wide as a terminal at least is."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self._steps = 0
        self._begun = time.monotonic()

    def step(self, title: str) -> None:
        self._steps += 1
        self._print(f"\n{self._steps}. {title}")

    def say(self, text: str) -> None:
        for line in text.splitlines():
            self._print(f"   {line}" if line else "")

    def check(self, what: str, held: bool, seen: object = "") -> bool:
        """`what` is true or not; `seen` is shown behind it, and alone explains a failure."""
        self.passed += held
        self.failed += not held
        suffix = f" ({seen})" if seen != "" else ""
        self._print(f"   {'ok    ' if held else 'FAILED'} {what}{suffix}")
        return held

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
        for row in (head, ["─" * width for width in widths], *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.say("  ".join(cells).rstrip())

    def sum_up(self) -> int:
        """Prints the last line; returns the exit status."""
        self._print(f"\n{time.monotonic() - self._begun:.0f} s")
        self._print(f"demo: {self.passed} checks passed, {self.failed} failed")
        return 1 if self.failed or not self.passed else 0

    def _print(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
