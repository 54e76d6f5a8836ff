"""What a figure is worth depends on where it was measured: cores, memory, disk, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from statistics import median
from time import perf_counter

import grpc

from lab import programs

_WRITES = 200


def describe(folder: Path) -> dict[str, object]:
    """The machine, and the disk that `folder` lies on."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    etcd = subprocess.run([programs.find("etcd"), "--version"], capture_output=True, text=True)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memory_gib": round(memory, 1),
        "fsync_ms": round(_fsync(folder), 3),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "etcd": etcd.stdout.split("\n")[0].removeprefix("etcd Version: "),
        "grpc": grpc.__version__,
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def _fsync(folder: Path) -> float:
    """Milliseconds, the median, until 4 KiB appended to a file are on the disk."""
    path = folder / "fsync"
    times = []
    with path.open("wb", buffering=0) as file:
        for _ in range(_WRITES):
            begun = perf_counter()
            file.write(b"\0" * 4096)
            os.fdatasync(file.fileno())
            times.append(perf_counter() - begun)
    path.unlink()
    return median(times) * 1e3
