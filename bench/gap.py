"""How long nobody leads when the leader is killed, to a client that writes all the time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from itertools import pairwise

from bench import attachments
from bench.place import PATIENCE, Failed, Place, Server
from ipam_server.client import Client
from netspace import messages as m
from netspace.problems import Problem

BEFORE, AFTER = 1.0, 0.3
"""Seconds of writing before the leader is killed and after writing goes on."""

PAUSE = 0.005
"""Seconds between a refused write and the next attempt."""


async def measure(place: Place, cluster: str, tag: str) -> float:
    """Seconds from the last write before the leader was killed to the first one after."""
    done: list[float] = []

    async def write() -> None:
        async with Client([server.url for server in place.servers]) as client:
            for number in itertools.count():
                while True:
                    with contextlib.suppress(Problem):
                        await client.allocate(cluster, attachments.request(tag, number))
                        break
                    await asyncio.sleep(PAUSE)
                done.append(time.monotonic())

    writing = asyncio.create_task(write())
    try:
        await asyncio.sleep(BEFORE)
        leader = await _leader(place, cluster)
        killed = time.monotonic()
        leader.kill()
        while not done or done[-1] < killed + AFTER:
            if writing.done():
                await writing
            if time.monotonic() > killed + PATIENCE:
                raise Failed(f"no write went through for {PATIENCE:.0f} s after the leader's end")
            await asyncio.sleep(0.05)
        await asyncio.sleep(AFTER)
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    return max(later - earlier for earlier, later in pairwise(done) if later > killed)


async def settled(place: Place, cluster: str) -> None:
    """Starts the server that was killed and waits until every server knows the whole state."""
    await place.serving(cluster)
    leader = await _status(await _leader(place, cluster), cluster)
    deadline = time.monotonic() + PATIENCE
    for server in place.servers:
        while True:
            with contextlib.suppress(Problem):
                if (await _status(server, cluster)).used >= leader.used:
                    break
            if time.monotonic() > deadline:
                raise Failed(f"server {server.name} does not come to know what the leader knows")
            await asyncio.sleep(0.1)


async def _leader(place: Place, cluster: str) -> Server:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for server in place.servers:
            with contextlib.suppress(Problem):
                if (await _status(server, cluster)).leading:
                    return server
        await asyncio.sleep(0.1)
    raise Failed(f"nobody leads cluster {cluster}")


async def _status(server: Server, cluster: str) -> m.ClusterStatus:
    async with Client([server.url]) as client:
        for each in (await client.status()).clusters:
            if each.name == cluster:
                return each
    raise Problem("not-found", f"server {server.name} does not know cluster {cluster} yet")
