"""What this node's pods on macvlan want, written for the node agent (`netspace/handover.py`)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from federation.desired import DesiredNode
from federation.node.keeping import Done
from netspace import handover
from netspace.disk import write_synced
from netspace.handover import HandedRoute, Handover


def handed(desired: DesiredNode) -> Handover:
    """The file's content for this node."""
    if not desired.pod_routes:
        return Handover()
    return Handover(
        routes=tuple(
            HandedRoute(
                destination=str(each.destination), mtu=max(0, each.mtu), advmss=max(0, each.advmss)
            )
            for each in desired.pod_routes
        ),
        local=tuple(map(str, desired.local)),
    )


def besides(there: Handover, wanted: Handover) -> Handover:
    """What is there, and what of the wanted is missing in it."""
    known = {each.destination for each in there.routes}
    missing = tuple(each for each in wanted.routes if each.destination not in known)
    local = tuple(each for each in wanted.local if each not in there.local)
    return Handover(routes=(*there.routes, *missing), local=(*there.local, *local))


class HandoverDriver:
    """Call it with the desired node to bring the file in line; a file that is right is not written
    again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __call__(self, desired: DesiredNode) -> Done:
        return await asyncio.to_thread(self._ensure, handed(desired))

    async def add(self, desired: DesiredNode) -> Done:
        """Writes what is missing besides what is there."""

        def job() -> Done:
            try:
                there = handover.read(self._path)
            except ValueError:
                there = Handover()
            return self._ensure(besides(there, handed(desired)))

        return await asyncio.to_thread(job)

    def _ensure(self, wanted: Handover) -> Done:
        try:
            there = self._path.read_bytes()
        except FileNotFoundError:
            there = b""
        if not wanted:
            if not there:
                return Done()
            self._path.unlink(missing_ok=True)
            return Done(("told the node agent that no pod needs routes",))
        data = msgspec.json.encode(wanted)
        if data == there:
            return Done()
        write_synced(self._path, data)
        return Done((f"told the node agent of {len(wanted.routes)} routes for pods",))
