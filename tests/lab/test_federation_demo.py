"""The demo of joined clusters as a user sees it: its checks pass and it leaves nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lab import place, probe, programs

SECONDS = 800
STEPS = 10


@pytest.fixture(autouse=True)
def nothing_before_and_after() -> Iterator[None]:
    assert place.left() == [], "a demo stands already; ./run demo --end ends it"
    yield
    place.end()


@pytest.mark.skipif(programs.charon() is None, reason="needs strongSwan's charon: ./run demo")
@pytest.mark.skipif(not probe.kernel().esp, reason=f"needs ESP: {probe.kernel().no_esp}")
def test_every_check_passes_and_nothing_is_left() -> None:
    done = subprocess.run(
        [sys.executable, "-u", "-m", "lab.federation.demo", "--verbose"],
        cwd=programs.CLONE, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=SECONDS, check=False,
    )  # fmt: skip
    print(done.stdout)
    found = re.fullmatch(r"demo: (\d+) checks passed, 0 failed", done.stdout.splitlines()[-1])
    assert done.returncode == 0
    assert found is not None
    assert int(found[1]) >= 2 * STEPS
    assert place.left() == []


def test_an_unknown_option_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lab.federation.demo", "--fast"],
        cwd=programs.CLONE, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, "--fast" in done.stderr) == (2, True)
