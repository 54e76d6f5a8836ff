"""The proxy between processes under test does what it is told to: else there would be no faults."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from lab.proxy import Proxy
from soak.world import standing


class Echo:
    """A server that answers each line with itself. `heard`: all lines so far."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                self.heard.append(line)
                writer.write(line)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def between(
    name_of: Callable[[str, int], str] | None = None,
) -> AsyncIterator[tuple[Proxy, Echo]]:
    echo = Echo()
    async with await asyncio.start_server(echo.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Proxy("127.0.0.1", port, name_of) as proxy:
            yield proxy, echo


async def said(proxy: Proxy, line: bytes) -> bytes:
    """What comes back over a new connection; empty if it was reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(line)
        async with asyncio.timeout(2):
            return await reader.readline()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_what_is_delayed_comes_later_both_ways() -> None:
    async def scenario() -> None:
        async with between() as (proxy, _):
            assert await said(proxy, b"at once\n") == b"at once\n"
            proxy.delay = 0.1
            began = time.monotonic()
            assert await said(proxy, b"later\n") == b"later\n"
            assert time.monotonic() - began >= 0.2

    asyncio.run(scenario())


def test_what_was_held_arrives_though_its_sender_gave_up() -> None:
    async def scenario() -> None:
        async with between() as (proxy, echo):
            proxy.hold()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await said(proxy, b"late\n")
            assert echo.heard == []
            proxy.flow()
            async with asyncio.timeout(2):
                while echo.heard != [b"late\n"]:
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_who_is_refused_is_reset_and_the_others_go_on() -> None:
    async def scenario() -> None:
        names = iter(("a", "b", "a"))
        async with between(lambda _host, _port: next(names)) as (proxy, echo):
            proxy.refused.add("a")
            assert await said(proxy, b"one\n") == b""
            assert await said(proxy, b"two\n") == b"two\n"
            proxy.refused.clear()
            assert await said(proxy, b"three\n") == b"three\n"
            assert echo.heard == [b"two\n", b"three\n"]

    asyncio.run(scenario())


def test_the_links_between_etcd_members_are_told_apart(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with standing(tmp_path, servers=0, members=3, waiting=1) as world:
            names = {member.name for member in world.members}
            for member, proxy in zip(world.members, world.peers, strict=True):
                assert set(proxy.connected) - {"?"} == names - {member.name}

    asyncio.run(scenario())
