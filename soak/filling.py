"""What goes wrong with what etcd keeps: it is compacted to the present, and it is filled."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

from lab.etcd import EtcdError
from soak.history import History
from soak.world import World

JUNK = b"/junk/"
BLOCK = 2**20
"""Bytes of one value of what fills etcd."""

MENDING = 60.0
"""Seconds in which etcd has to have space again."""


class StoreFaults:
    """`wait` waits between so many and so many seconds, no longer than the soak goes on; `stopped`
    says whether it does."""

    def __init__(
        self,
        world: World,
        history: History,
        wait: Callable[[float, float], Awaitable[None]],
        stopped: Callable[[], bool],
    ) -> None:
        self._world = world
        self._history = history
        self._wait = wait
        self._stopped = stopped

    async def compact(self) -> str:
        """Everything before now is forgotten; whoever watches and lags behind reads anew."""
        revision = await self._revision()
        await self._ask("kv/compaction", {"revision": str(revision)})
        return f"revision {revision}"

    async def fill_store(self) -> str:
        """Until etcd takes no more; then it is cleared and disarmed."""
        value = base64.b64encode(bytes(BLOCK)).decode()
        blocks = 0
        try:
            while not self._stopped():
                key = base64.b64encode(JUNK + b"%d" % blocks).decode()
                await self._ask("kv/put", {"key": key, "value": value})
                blocks += 1
        except EtcdError as error:
            if "space exceeded" in str(error):
                await self._wait(0.5, 3)
        finally:
            await self.mend()
        return f"{blocks} MiB"

    async def mend(self) -> None:
        """Gives etcd its space back and ends the alarm. Raises `EtcdError` if that cannot be done
        within a minute."""
        deadline = self._history.seconds() + MENDING
        first, last = (base64.b64encode(key).decode() for key in (JUNK, JUNK[:-1] + b"0"))
        while True:
            try:
                await self._ask("kv/deleterange", {"key": first, "range_end": last})
                await self._ask("kv/compaction", {"revision": str(await self._revision())})
            except EtcdError as error:
                if "has been compacted" not in str(error):
                    if self._history.seconds() > deadline:
                        raise
                    await asyncio.sleep(0.3)
                    continue
            try:
                for member in self._world.members:
                    if member.running:
                        # It may stand still or be cut off: then it is tried again.
                        await asyncio.to_thread(member.request, "maintenance/defragment", {}, 5)
                running = [member for member in self._world.members if member.running]
                await asyncio.to_thread(running[0].disarm)
                await self._ask("kv/put", {"key": first, "value": first})
                return
            except (EtcdError, IndexError):
                if self._history.seconds() > deadline:
                    raise
                await asyncio.sleep(0.3)

    async def _revision(self) -> int:
        answer = await self._ask("kv/range", {"key": base64.b64encode(b"/").decode()})
        return int(answer["header"]["revision"])

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Asks the members in turn until one answers. Raises the last `EtcdError`."""
        error = EtcdError("no member runs")
        for member in self._world.members:
            if not member.running:
                continue
            try:
                return await asyncio.to_thread(member.request, path, body, 2)
            except EtcdError as failure:
                error = failure
                if "space exceeded" in str(failure) or "compacted" in str(failure):
                    break
        raise error
