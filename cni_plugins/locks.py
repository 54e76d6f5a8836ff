"""Locks by name that hold between processes and between coroutines of one process.

Each name is a byte of one file that is always empty, far behind its end, locked by its holder's own
open file (F_OFD_SETLK, fcntl(2)). So the kernel ends a lock with the process that held it, and no
file comes and goes.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Final

from cni_plugins.protocol import TRY_AGAIN, CniError
from netspace.disk import make_folder

_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.05
_FLOCK: Final = struct.Struct("@hhqqi0q")
"""`struct flock`: type, whence, start, length, pid."""
_OPENING: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


@asynccontextmanager
async def held(file: Path, name: str, wait: float, *, shared: bool = False) -> AsyncIterator[None]:
    """Holds the lock of this name for the body, alone or together with others who hold it `shared`.
    `file`: where the locks are, made where it is missing. `wait`: seconds before it is `CniError`
    11; 0 tries once."""
    opened = _open(os.fspath(file))
    try:
        if not _locked(opened, name, shared):
            await _wait(opened, name, wait, shared)
        yield
    finally:
        os.close(opened)


async def _wait(opened: int, name: str, wait: float, shared: bool) -> None:
    deadline = monotonic() + wait
    pause = _FIRST_PAUSE
    while True:
        if monotonic() >= deadline:
            raise CniError(
                TRY_AGAIN,
                f"another call is at work on {name}",
                f"it did not end within {wait:.0f} s",
            )
        await asyncio.sleep(pause)
        if _locked(opened, name, shared):
            return
        pause = min(2 * pause, _LONGEST_PAUSE)


def _open(path: str) -> int:
    try:
        return os.open(path, _OPENING, 0o600)
    except FileNotFoundError:
        make_folder(str(Path(path).parent))
        return os.open(path, _OPENING, 0o600)


def _locked(opened: int, name: str, shared: bool) -> bool:
    kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
    wanted = _FLOCK.pack(kind, os.SEEK_SET, _place(name), 1, 0)
    try:
        fcntl.fcntl(opened, fcntl.F_OFD_SETLK, wanted)
    except BlockingIOError:
        return False
    return True


def _place(name: str) -> int:
    """The name's byte, of 2^62: two names never meet."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) >> 2
