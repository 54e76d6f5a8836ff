"""Load over HTTP from wrk: what it is told, and what it found."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import programs
from lab.processes import bound

SCRIPT = Path(__file__).with_name("wrk.lua")
SPARE = 15.0
"""Seconds that wrk may take longer than it was told to load."""


class LoadFailed(Exception):
    """A generator could not load, or requests failed: the figure would say nothing."""


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a load: answers of success in all and in a second, and their times in
    milliseconds."""

    requests: int
    per_second: float
    median_ms: float
    p99_ms: float


async def allocations(
    host: str, path: str, tag: str, connections: int, seconds: float, batch: int = 0
) -> Load:
    """Allocates over keep-alive connections for a time. `host` is `ADDRESS:PORT`, `tag` 8
    hexadecimal digits that no other load of this cluster has; `batch` allocations go together, or
    each by itself if 0. Raises `LoadFailed`."""
    process = await asyncio.create_subprocess_exec(
        *bound(),
        str(programs.find("wrk")),
        # One thread: it can send more than a server takes, and the other core is etcd's.
        "--threads=1",
        f"--connections={connections}",
        f"--duration={max(1, round(seconds))}s",
        f"--timeout={round(SPARE)}s",
        f"--script={SCRIPT}",
        f"http://{host}{path}",
        "--",
        host,
        path,
        tag,
        str(batch),
        env=programs.environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(seconds + 2 * SPARE):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _read(output.decode(errors="replace"))


def _read(output: str) -> Load:
    found = next((line for line in output.splitlines() if line.startswith("{")), None)
    if found is None:
        raise LoadFailed(f"wrk did not come to its end: {output.strip()[-300:]}")
    said: dict[str, Any] = json.loads(found)
    if said["refused"] or said["broken"]:
        raise LoadFailed(
            f"{said['refused']} of {said['requests']} requests were refused and {said['broken']}"
            " broke off; the server's log says why"
        )
    return Load(
        said["requests"],
        said["requests"] / said["microseconds"] * 1e6,
        said["median_us"] / 1e3,
        said["p99_us"] / 1e3,
    )
