"""Files that survive a power cut: written beside, synced, renamed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_AT_ONCE: Final = 1 << 16
_WRITING: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


def read_whole(path: Path) -> bytes:
    """The file's bytes. `OSError` as `os.open` raises it."""
    # Some microseconds where pathlib takes some tens: several files are read for every pod.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(file, _AT_ONCE):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(file)


def write_synced(path: Path, data: bytes, writer: str = "") -> None:
    """Puts the data into the file, whole or not at all; when this returns it outlives a power cut.
    `writer` tells apart those who may write the same file at once."""
    # Not ending in the suffix: a half-written one is never read.
    temporary = path.with_name(f"{path.name}.new{writer}")
    try:
        file = os.open(temporary, _WRITING, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(temporary, _WRITING, 0o600)
    try:
        with os.fdopen(file, "wb", buffering=0) as output:
            rest = memoryview(data)
            while rest:
                rest = rest[output.write(rest) :]
            os.fsync(output.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
