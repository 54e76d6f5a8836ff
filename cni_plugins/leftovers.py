"""What a killed program leaves beside the records: half-written files, and locks nobody holds."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from cni_plugins import locks
from cni_plugins.attachment import Host
from cni_plugins.protocol import CniError
from cni_plugins.steps import in_thread


async def sweep(host: Host) -> None:
    """Takes them away, all but those that somebody is at work on. Raises `OSError`."""
    folder = host.records.locks
    for name in await in_thread(lambda: _locks(folder)):
        await _alone(folder, name)
    for key, half in await in_thread(host.records.half_written):
        await _alone(folder, key, half)


async def _alone(folder: Path, name: str, file: Path | None = None) -> None:
    """Holds the lock, which goes with its holder, and takes the file away meanwhile."""
    with suppress(CniError):
        async with locks.held(folder, name, 0):
            if file is not None:
                file.unlink(missing_ok=True)


def _locks(folder: Path) -> list[str]:
    try:
        return [path.stem for path in folder.iterdir() if path.suffix == ".lock"]
    except FileNotFoundError:
        return []
