"""The lab kernel's memory: how much of it, and where the file that backs it can lie."""

from __future__ import annotations

import mmap
import shutil
import tempfile
from pathlib import Path

from lab import programs

MEBIBYTE = 1 << 20
# The whole test suite with etcd, hypothesis and 64 executables at once stays below 1 GiB.
_MEMORY_LEAST, _MEMORY_MOST = 768 * MEBIBYTE, 2048 * MEBIBYTE


class NoRoom(RuntimeError):
    """There is no place for the memory's file; the text says what to do."""


def choose() -> tuple[int, Path]:
    """Return the kernel's memory in bytes and the folder for the file that backs it.

    Raises NoRoom.
    """
    available = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    )
    memory = max(_MEMORY_LEAST, min(_MEMORY_MOST, available // 2 // MEBIBYTE * MEBIBYTE))
    places = [Path("/dev/shm"), Path(tempfile.gettempdir()), programs.STATE]
    for place in places:
        if _can_back_memory(place, memory):
            return memory, place
    raise NoRoom(
        f"the lab kernel needs {memory // MEBIBYTE} MiB in a folder that is writable and not "
        f"mounted noexec; none of {', '.join(map(str, places))} is. Set TMPDIR to one that is."
    )


def _can_back_memory(place: Path, memory: int) -> bool:
    """Say whether a file in `place` can be mapped to execute, and there is room for it."""
    try:
        if shutil.disk_usage(place).free < memory:
            return False
        with tempfile.TemporaryFile(dir=place) as file:
            file.truncate(mmap.PAGESIZE)
            mmap.mmap(file.fileno(), mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
    except OSError:
        return False
    return True
