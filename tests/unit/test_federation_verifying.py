"""How long a path is listened to before it is called dead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import pytest

from federation.desired import Path
from federation.node import verifying
from federation.node.prober import Target
from federation.node.probing import SLOWEST

PATH = Path("f", "b", "one")


def probes(
    monkeypatch: pytest.MonkeyPatch, first_answer: float | None
) -> tuple[list[bool], int | None, float]:
    """What is heard and how long it took, where the first answer comes after so many seconds."""

    class Slow:
        def __init__(
            self, heard: Callable[[Path, bool], None], size: Callable[[Path, int], None]
        ) -> None:
            self._heard, self._size = heard, size

        def want(self, targets: Mapping[Path, Target]) -> None:
            pass

        async def run(self) -> None:
            for _ in range(5):
                await asyncio.sleep(0.1)
                self._heard(PATH, False)
            if first_answer is not None:
                await asyncio.sleep(first_answer - 0.5)
                for _ in range(5):
                    self._heard(PATH, True)
                self._size(PATH, 1400)

        def close(self) -> None:
            pass

    monkeypatch.setattr(verifying, "Prober", Slow)
    began = time.monotonic()
    heard, size = asyncio.run(verifying._probes(PATH, Target("192.0.2.1", 4321, 0.2, 1500)))
    return heard, size, time.monotonic() - began


def test_a_path_whose_answers_come_late_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five lost probes are no reason to stop."""
    monkeypatch.setattr(verifying, "SLOWEST", 10.0)
    heard, size, _ = probes(monkeypatch, 0.8)
    assert heard.count(True) == 5
    assert size == 1400


def test_a_silent_path_is_listened_to_for_as_long_as_the_slowest_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard, size, took = probes(monkeypatch, None)
    assert (any(heard), size) == (False, None)
    assert SLOWEST <= took < verifying.WITHIN
