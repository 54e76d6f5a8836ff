"""The other servers: who there is, what they say of themselves, and passing requests on to them.

Each server registers under its name on a lease. What only a leader can do is passed on to it, one
hop and no further; while nobody leads, or the leader is just giving up, it is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from ipam_server import keys
from ipam_server.committer import outcome_unknown
from ipam_server.leading import LeaderRecord, Leading
from netspace import http_client
from netspace import messages as m
from netspace.http_client import HttpClient
from netspace.problems import Problem
from statestore import Leadership, Store

log = logging.getLogger(__name__)
T = TypeVar("T")

ASKED_WITHIN = 1.0
"""Seconds another server may take to say how it is."""

LOOK = 0.2
"""Seconds between two looks for a leader when nothing was heard."""

PASSED_ON = "Netspace-Passed-On"
"""The header of a request that another server has passed on: it goes no further."""

ELSEWHERE = frozenset({"not-leader", "unavailable"})
"""Problems after which the leader is looked for again: the request was surely not carried out."""


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
        while True:
            async with await self._place.campaign() as place:
                await place.lost()

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
        """Carries a request out here if this server leads, else where one does. `repeat`: it does
        the same however often it comes, so a lost answer may be asked for again. A refusal after a
        lost answer is none of the whole: whether the request was carried out is not known."""
        deadline = time.monotonic() + self._patience
        unknown = False
        while True:
            endpoint = None if service.leading else service.elsewhere()
            try:
                if endpoint is None:
                    return await here()
                return await there(self._to(endpoint))
            except Problem as problem:
                lost = problem.code == "outcome-unknown"
                left = deadline - time.monotonic()
                if left <= 0 or not (problem.code in ELSEWHERE or (repeat and lost)):
                    if unknown and problem.code in http_client.ELSEWHERE:
                        raise outcome_unknown() from problem
                    raise
                unknown = unknown or lost
            await service.moved(min(LOOK, left))

    def _to(self, endpoint: str) -> HttpClient:
        if endpoint not in self._clients:
            self._clients[endpoint] = self._client(endpoint)
        return self._clients[endpoint]
