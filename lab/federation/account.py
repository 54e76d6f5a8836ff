"""What the programs of a federated place are doing, for whoever waited for something in vain.

A program of the nursery that receives `ASK` writes to its log where all of its threads and
coroutines are, and goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Final

from lab import processes

ASK: Final = signal.SIGUSR1
_LAST: Final = 4000
"""Characters of each log."""
_ANSWERED: Final = 3.0
"""Seconds in which a program writes what it does, on a slow processor."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def answer() -> None:
    """From now on this process says what it does when it is asked."""
    signal.signal(ASK, _answer)


def of(programs: Mapping[int, Path]) -> str:
    """By process id a program's log: how long it has used the processor, and how its log ends, with
    what it does now."""
    for pid in programs:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, ASK)
    time.sleep(_ANSWERED)
    return "\n".join(_account(pid, log) for pid, log in programs.items())


def _account(pid: int, log: Path) -> str:
    try:
        state, *rest = processes.stat(pid)
        used = f"{state}, {(int(rest[10]) + int(rest[11])) / _TICKS:.1f} s of processor"
    except OSError:
        used = "has ended"
    said = log.read_text(errors="replace")[-_LAST:] if log.exists() else ""
    return f"--- {log} (process {pid}: {used})\n{said}"


def _answer(_number: int, _frame: FrameType | None) -> None:
    faulthandler.dump_traceback(sys.stderr, all_threads=True)
    for task in [each for each in gc.get_objects() if isinstance(each, asyncio.Task)]:
        if not task.done():
            print(task.get_name(), _places(task), file=sys.stderr)
    sys.stderr.flush()


def _places(task: asyncio.Task[object]) -> str:
    """Where a task waits, the innermost last."""
    awaited: object = task.get_coro()
    found = []
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is None:
            break
        found.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return " > ".join(found)
