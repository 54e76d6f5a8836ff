"""One federation server among those of its cluster: it follows while another one leads, and leads
otherwise. Any of them answers; what only the leader can do is passed on to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec

from federation.server.config import FederationConfig
from federation.server.files import Folder
from federation.server.identity import Identity
from federation.server.keys import Keys
from federation.server.leading import Duty, kept
from federation.server.mirror import Mirror
from federation.server.place import Place
from federation.server.state import ServerRecord
from federation.server.views import Views
from netspace.http_client import HttpClient
from netspace.passing import lead, not_leader
from statestore import Leader, Leadership, Store

log = logging.getLogger(__name__)
T = TypeVar("T")

PATIENCE: Final = 8.0
"""Seconds that a leader is waited for."""

LOOK: Final = 2.0
"""Seconds between two looks at which keys and certificates this server has."""


class Service:
    """`start` it, `retire` before the end so that another server can go on, then `close`."""

    def __init__(self, config: FederationConfig, store: Store) -> None:
        keys = Keys(config.cluster)
        mirror = Mirror(store, keys)
        self.place = Place(config, store, keys, mirror, Folder(config.state_dir))
        self.identity = Identity(self.place)
        self.views = Views(self.place)
        self.me = ServerRecord(config.name, config.reached_at)
        self._duty: Duty | None = None
        self._history: int | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._retired = False

    def start(self) -> None:
        self.place.mirror.start()
        for name, work in (
            ("leading", self._run),
            ("registration", self._register),
            ("certificates", self.identity.run),
        ):
            self._tasks.append(asyncio.create_task(kept(work), name=name))

    async def retire(self) -> None:
        """Gives leadership up, and lets go whoever waits."""
        self._retired = True
        self.views.close()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        await self.retire()
        await self.place.mirror.close()
        await self.place.close()

    # Leading

    @property
    def leading(self) -> bool:
        return self._duty is not None

    @property
    def duty(self) -> Duty:
        """The leader's; `Problem` not-leader elsewhere."""
        if self._duty is None:
            raise not_leader()
        return self._duty

    def elsewhere(self) -> str | None:
        leader = self.place.mirror.state.leader
        return None if leader is None or leader.name == self.me.name else leader.endpoint

    async def moved(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.place.mirror.moved()

    async def led(
        self,
        here: Callable[[], Awaitable[T]],
        there: Callable[[HttpClient], Awaitable[T]],
        *,
        repeat: bool,
    ) -> T:
        """Carries out here what the leader must do, or where the leader is."""
        return await lead(self, here, there, to=self.place.client, patience=PATIENCE, repeat=repeat)

    async def _run(self) -> None:
        value = msgspec.json.encode(self.me)
        place = self.place
        election = Leadership(place.store, place.keys.leader, value, place.config.leader_ttl)
        while True:
            async with await election.campaign() as leader:
                while leader.leads:
                    await self._serve(leader)
            log.warning("no longer leading")

    async def _serve(self, leader: Leader) -> None:
        """One term. It begins when everything up to the leader's own key is in the state, so that
        no write of an earlier leader can follow."""
        place = self.place
        if not await _first(place.mirror.reached(leader.create_revision), leader.lost()):
            return
        history = place.store.history
        restored = self._history not in (None, history)
        self._history = history
        log.info("leading", extra={"cluster": place.cluster})
        duty = self._duty = Duty(place, self.identity, leader, restored=restored)
        try:
            await duty.run()
        except Exception:
            log.exception("a fault: the term begins anew")
        finally:
            self._duty = None

    async def _register(self) -> None:
        """Says that this server is there, and which keys and certificates it has."""
        place = self.place
        while True:
            record = self._record()
            key, value = place.keys.server(record.name), msgspec.json.encode(record)
            registered = Leadership(place.store, key, value, place.config.leader_ttl)
            async with await registered.campaign() as registration:
                while registration.leads and self._record() == record:
                    await self.moved(LOOK)

    def _record(self) -> ServerRecord:
        federations = self.place.mirror.state.federations
        have = tuple(name for name, record in federations.items() if self.identity.has_key(record))
        lacks = tuple(sorted(self.identity.faults))
        return ServerRecord(self.me.name, self.me.endpoint, have, lacks)

    def why_not_ready(self) -> str:
        """Empty where this server can serve."""
        mirror = self.place.mirror
        if not mirror.known.is_set() or mirror.history != self.place.store.history:
            return "the federations have not been read from etcd yet"
        leader = mirror.state.leader
        if leader is None or (leader.name == self.me.name and not self.leading):
            return f"no server leads cluster {self.place.cluster}"
        return ""


async def _first(awaited: Awaitable[Any], other: Awaitable[Any]) -> bool:
    """Whether what is awaited comes before the other."""
    one, two = asyncio.ensure_future(awaited), asyncio.ensure_future(other)
    try:
        await asyncio.wait({one, two}, return_when=asyncio.FIRST_COMPLETED)
        return one.done()
    finally:
        one.cancel()
        two.cancel()
