"""When a tunnel that is up gets new keys because nothing comes through it: the other end may have
lost its states, of which no charon knows. Pure but for what it remembers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from federation.desired import Path
from federation.plan.paths import PathState

SILENT: Final = 10.0
"""Seconds of lost probes after which a tunnel gets new keys; each time it did not help it is left
alone for twice as long as before, at most `MOST`."""
MOST: Final = 320.0


class Renewing:
    """Ask `due` every second or so, at monotonic seconds `now`."""

    def __init__(self) -> None:
        self._due: dict[Path, tuple[float, float]] = {}

    def due(self, paths: Mapping[Path, PathState], now: float) -> list[Path]:
        """The paths whose tunnels should get new keys now. One that answers, or is down, begins
        anew."""
        silent = {path for path, state in paths.items() if state.up and state.lost}
        self._due = {path: each for path, each in self._due.items() if path in silent}
        found = []
        for path in sorted(silent):
            when, pause = self._due.setdefault(path, (now + SILENT, SILENT))
            if now >= when:
                found.append(path)
                pause = min(2 * pause, MOST)
                self._due[path] = now + pause, pause
        return found
