"""A lab kernel that stays until it is ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from lab import kernel, processes, programs, standing

pytestmark = pytest.mark.skipif(
    programs.lookup("linux.uml") is None or not (programs.STATE / "xstate.so").exists(),
    reason="the lab kernel was not needed on this machine, so it was not unpacked",
)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing stands before or after."""
    if standing.stands():
        pytest.skip("a lab of somebody's stands; ./run demo --end ends it")
    yield
    standing.end()


def test_it_keeps_what_the_first_command_made_until_the_end(
    lab: None, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    made = standing.start(["sh", "-c", "ip link add bond7 type bond && echo made; exit 3"])
    assert made == 3
    assert standing.stands()
    assert standing.execute(["ip", "-brief", "link", "show", "bond7"]) == 0
    assert standing.execute(["sh", "-c", "echo error >&2; exit 9"]) == 9
    assert standing.execute(["no-such-command"]) == 127
    said = capfdbinary.readouterr().out.decode().splitlines()
    assert said[0] == "made"
    assert said[1].startswith("bond7 ")
    assert said[2:] == ["error", "no-such-command: No such file or directory"]
    with pytest.raises(kernel.LabKernelError, match="stands already"):
        standing.start(["true"])
    standing.end()
    assert not standing.stands()
    assert not standing.FOLDER.exists()


def test_ending_what_does_not_stand_is_no_error(lab: None) -> None:
    standing.end()
    standing.end()


def test_one_whose_holder_was_killed_does_not_stand(lab: None) -> None:
    standing.start(["true"])
    holder = int((standing.FOLDER / "holder").read_text().split()[0])
    os.kill(holder, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while processes.identity(holder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not standing.stands()
    assert not standing.FOLDER.exists()
