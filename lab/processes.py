"""Processes by name, by identity and by descent, and ending them however one is ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from lab import programs

_PR_SET_PDEATHSIG = 1
_LOOK = 0.3
_libc = ctypes.CDLL(None)


def end_on_signals() -> None:
    """Turn the first Ctrl-C or SIGTERM into an exception and ignore the rest.

    Both come when somebody interrupts a program that passes it on; the second
    must not stop the cleanup that the first began.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def identity(pid: int) -> str:
    """Return pid and start time, which together name a process for good; empty if it ended."""
    try:
        state, *rest = stat(pid)
    except OSError:
        return ""
    return "" if state == "Z" else f"{pid} {rest[18]}"


def stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on. Raises OSError."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def kill_all(chosen: Callable[[int], bool]) -> None:
    """Kill the processes that `chosen` says, until there are none: they may be forking."""
    found = True
    while found:
        found = False
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                pid = int(process.name)
                if identity(pid) and chosen(pid):
                    os.kill(pid, signal.SIGKILL)
                    found = True
        if found:
            time.sleep(0.01)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while something is made or removed as a whole."""
    signals = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def bound() -> list[str]:
    """Return what to put before a command that is to end when its starter does."""
    return [str(programs.find("setpriv")), "--pdeathsig=KILL"]


def die_with_parent() -> None:
    """Be run in a new process before it becomes its program: it ends when its starter does."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def idlest_processor() -> int:
    """Return the number of the processor that did least in the last moment, of those we may use."""
    before = _idle()
    time.sleep(_LOOK)
    after = _idle()
    return max(os.sched_getaffinity(0), key=lambda number: after[number] - before[number])


def _idle() -> dict[int, int]:
    """By processor, how many ticks it had nothing to do or waited for a disk (proc_stat(5))."""
    lines = Path("/proc/stat").read_text().splitlines()
    return {
        int(line.split()[0].removeprefix("cpu")): sum(map(int, line.split()[4:6]))
        for line in lines
        if re.match(r"cpu\d", line)
    }
