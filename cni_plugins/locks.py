"""Locks by name that hold between processes and between coroutines of one process: flock(2).

Every holder has an open file of its own, so the kernel ends a lock with the process that held it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Final

from cni_plugins.protocol import TRY_AGAIN, CniError

_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.05


@asynccontextmanager
async def held(
    folder: Path, name: str, wait: float, *, shared: bool = False
) -> AsyncIterator[None]:
    """Holds the lock for the body, alone or together with others who hold it `shared`. `wait`:
    seconds before it is `CniError` 11; 0 tries once.

    The file is removed by its last holder: whoever got a lock on a removed file begins again.
    """
    path = folder / f"{name}.lock"
    deadline = monotonic() + wait
    pause = _FIRST_PAUSE
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while (file := _try(path, how)) is None:
        if monotonic() >= deadline:
            raise CniError(
                TRY_AGAIN,
                f"another call is at work on {name}",
                f"it did not end within {wait:.0f} s",
            )
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    try:
        yield
    finally:
        if not shared or _locked(file, path, fcntl.LOCK_EX):
            path.unlink(missing_ok=True)
        os.close(file)


def _try(path: Path, how: int) -> int | None:
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        got = _locked(file, path, how)
    except BaseException:
        os.close(file)
        raise
    if got:
        return file
    os.close(file)
    return None


def _locked(file: int, path: Path, how: int) -> bool:
    """Whether the open file is locked now, and is still the one at the path."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
        return os.fstat(file).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False
