"""Starting the lab kernel: what comes out of it and what is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import kernel, programs

pytestmark = pytest.mark.skipif(
    programs.lookup("linux.uml") is None or not (programs.STATE / "xstate.so").exists(),
    reason="the lab kernel was not needed on this machine, so it was not unpacked",
)


def processes_of(mark: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "cmdline").read_bytes():
                found.append(process.name)
        except OSError:
            pass
    return found


def test_the_exit_status_and_all_of_the_output_come_back(tmp_path: Path) -> None:
    said: list[bytes] = []
    script = "seq 20000; echo error >&2; echo kept > $1/kept; touch $0 2>/dev/null; exit 7"
    outside = tmp_path / "outside"
    inside = tmp_path / "inside"
    inside.mkdir()
    status = kernel.run(
        ["sh", "-c", script, str(outside), str(inside)],
        writable=[inside],
        output=said.append,
        timeout=60,
    )
    assert status == 7
    expected = b"".join(b"%d\n" % n for n in range(1, 20001)) + b"error\n"
    assert b"".join(said) == expected
    assert (inside / "kept").read_text() == "kept\n"
    assert not outside.exists()


def test_a_command_ended_by_a_signal_gives_128_and_its_number() -> None:
    assert kernel.run(["sh", "-c", "kill -9 $$"], output=bytes, timeout=60) == 137


def test_a_command_that_does_not_exist_gives_127_and_says_so() -> None:
    said: list[bytes] = []
    assert kernel.run(["/no/such/command"], output=said.append, timeout=60) == 127
    assert b"/no/such/command: " in b"".join(said)


def test_a_command_that_takes_too_long_is_ended_with_its_kernel() -> None:
    before = set(kernel.RUNS.glob("*"))
    with pytest.raises(kernel.LabKernelTimeout, match="not done after 3 s"):
        kernel.run(["sleep", "1000"], timeout=3, output=bytes)
    assert set(kernel.RUNS.glob("*")) == before


@pytest.mark.parametrize(
    "numbers",
    [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGTERM, signal.SIGINT]],
)
def test_an_interrupted_run_leaves_no_process_and_no_file(numbers: list[int]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.kernel", "sh", "-c", "sleep 500 & echo up; wait"],
        cwd=programs.CLONE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert process.stdout and process.stdout.readline() == b"up\n"
    (mark,) = (
        str(folder)
        for folder in kernel.RUNS.glob("*")
        if (folder / "owner").read_text().split()[0] == str(process.pid)
    )
    assert len(processes_of(mark)) > 1
    for number in numbers:
        process.send_signal(number)
    process.wait(20)
    process.stdout.close()
    assert processes_of(mark) == []
    assert not Path(mark).exists()


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.kernel", "sh", "-c", "sleep 500 & echo up; wait"],
        cwd=programs.CLONE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert process.stdout and process.stdout.readline() == b"up\n"
    (mark,) = (
        str(folder)
        for folder in kernel.RUNS.glob("*")
        if (folder / "owner").read_text().split()[0] == str(process.pid)
    )
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kernel.end_stale_runs()
    deadline = time.monotonic() + 5
    while processes_of(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(mark) == []
    assert not Path(mark).exists()
