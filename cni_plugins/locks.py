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
async def held(folder: Path, name: str, wait: float) -> AsyncIterator[None]:
    """Holds the lock for the body. `wait`: seconds before it is `CniError` 11; 0 tries once.

    The file is removed by its holder: whoever got a lock on a removed file begins again.
    """
    path = folder / f"{name}.lock"
    deadline = monotonic() + wait
    pause = _FIRST_PAUSE
    while (file := _try(path)) is None:
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
        path.unlink(missing_ok=True)
        os.close(file)


def _try(path: Path) -> int | None:
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine, current = os.fstat(file), path.stat()
    except (BlockingIOError, FileNotFoundError):
        os.close(file)
        return None
    except BaseException:
        os.close(file)
        raise
    if mine.st_ino != current.st_ino:
        os.close(file)
        return None
    return file
