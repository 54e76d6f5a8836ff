"""Files that survive a power cut: written beside, synced, renamed.

Several are read and written for every pod, so the calls are `os`'s: `pathlib`'s cost tens of
microseconds each.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_AT_ONCE: Final = 1 << 12
_WRITING: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


def read_whole(path: Path | str) -> bytes:
    """The file's bytes. `OSError` as `os.open` raises it."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Room for all of it: mostly that is little, and much is slow to get and to give back.
        parts = [os.read(file, os.fstat(file).st_size + 1)]
        while parts[-1]:
            parts.append(os.read(file, _AT_ONCE))
        return b"".join(parts)
    finally:
        os.close(file)


def write_synced(path: Path | str, data: bytes, writer: str = "") -> None:
    """Puts the data into the file, whole or not at all; when this returns it outlives a power cut.
    `writer` tells apart those who may write the same file at once."""
    whole = os.fspath(path)
    folder = os.path.dirname(whole)
    temporary = half_of(whole) + writer
    try:
        file = os.open(temporary, _WRITING, 0o600)
    except FileNotFoundError:
        make_folder(folder)
        file = os.open(temporary, _WRITING, 0o600)
    try:
        _write(file, data)
        os.rename(temporary, whole)
    except BaseException:
        remove(temporary)
        raise
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def half_of(path: str) -> str:
    """Where the file is written before it is renamed. It ends otherwise: nobody reads it."""
    return f"{path}.new"


def make_folder(folder: str) -> None:
    """The folder and those above it, for this program's user alone."""
    Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)


def remove(path: str) -> None:
    """Takes the file away; nothing happens where there is none."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def append_synced(path: str, data: bytes) -> None:
    """Puts the data at the end of the file, which may happen in part; when this returns it outlives
    a power cut. The file must be there, and its name synced."""
    _write(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC), data)


def _write(file: int, data: bytes) -> None:
    """Writes, syncs, closes."""
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    finally:
        os.close(file)
