"""The other servers: who there is, what they say of themselves, and passing requests on to them.

Each server registers under its name on a lease. What only a leader can do is passed on to it, one
hop and no further; while nobody leads, or the leader is just giving up, it is waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from ipam_server import keys
from ipam_server.leading import LeaderRecord, Leading
from netspace import messages as m
from netspace import passing
from netspace.http_client import HttpClient
from netspace.problems import Problem
from statestore import Leadership, Store, again_and_again

log = logging.getLogger(__name__)
T = TypeVar("T")

ASKED_WITHIN = 1.0
"""Seconds another server may take to say how it is."""


class Peers:
    """This server's place among the others. `client` makes an HTTP client for an endpoint;
    `patience` is how many seconds a leader is waited for."""

    def __init__(
        self,
        store: Store,
        me: LeaderRecord,
        ttl: int,
        client: Callable[[str], HttpClient],
        patience: float,
    ) -> None:
        self.me = me
        self._patience = patience
        self._store = store
        self._client = client
        self._clients: dict[str, HttpClient] = {}
        value = msgspec.json.encode(me)
        self._place = Leadership(store, keys.server(me.name), value, ttl)
        self._registering: asyncio.Task[None] | None = None

    def register(self) -> None:
        """Keeps this server registered until `close`."""
        self._registering = asyncio.create_task(self._register(), name="registration")

    async def close(self) -> None:
        if self._registering is not None:
            self._registering.cancel()
            await asyncio.gather(self._registering, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self._clients.values()))

    async def _register(self) -> None:
        async def hold() -> None:
            async with await self._place.campaign() as place:
                await place.lost()

        await again_and_again(hold, "registration")

    async def servers(self, own: m.ServerStatus) -> list[m.ServerStatus]:
        """How every registered server is, by its own account; raises `StoreError`."""
        records = []
        async for page in self._store.pages(keys.SERVERS):
            records += [msgspec.json.decode(kv.value, type=LeaderRecord) for kv in page.items]
        others = [record for record in records if record.name != self.me.name]
        told = await asyncio.gather(*(self._ask(record) for record in others))
        return sorted([own, *told], key=lambda server: server.name)

    async def _ask(self, record: LeaderRecord) -> m.ServerStatus:
        try:
            async with asyncio.timeout(ASKED_WITHIN):
                answer = await self._to(record.endpoint).request("GET", "/v1/server")
            return msgspec.json.decode(answer, type=m.ServerStatus)
        except (Problem, TimeoutError, msgspec.DecodeError) as error:
            why = str(error) or f"no answer within {ASKED_WITHIN:g} s"
            return m.ServerStatus(
                name=record.name, endpoint=record.endpoint, version="", clusters=[], error=why
            )

    async def lead(
        self,
        service: Leading,
        here: Callable[[], Awaitable[T]],
        there: Callable[[HttpClient], Awaitable[T]],
        *,
        repeat: bool,
    ) -> T:
        """Carries a request out where the cluster is led: `netspace.passing.lead`."""
        return await passing.lead(
            service, here, there, to=self._to, patience=self._patience, repeat=repeat
        )

    def _to(self, endpoint: str) -> HttpClient:
        if endpoint not in self._clients:
            self._clients[endpoint] = self._client(endpoint)
        return self._clients[endpoint]
