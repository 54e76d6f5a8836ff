"""What a killed program leaves beside the records: half-written files."""

from __future__ import annotations

from contextlib import suppress

from cni_plugins import locks
from cni_plugins.attachment import Host
from cni_plugins.protocol import CniError
from cni_plugins.steps import in_thread


async def sweep(host: Host) -> None:
    """Takes them away, all but those that somebody is at work on. Raises `OSError`."""
    for key, half in await in_thread(host.records.half_written):
        with suppress(CniError):
            async with locks.held(host.records.lock_file, key, 0):
                half.unlink(missing_ok=True)
