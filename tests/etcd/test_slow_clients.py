"""Who dawdles is cut off: in the handshake, in a header, in taking an answer, and between."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from pathlib import Path
from typing import Any, cast

import pytest

from netspace import messages as m
from netspace import tls as tls_module
from netspace.http_client import HttpClient
from netspace.http_server import Limits
from tests.api_double import Double
from tests.pki import ADMIN, Pki
from tests.tls_served import ask, serving


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


# Slow clients


async def ended(reader: asyncio.StreamReader, seconds: float) -> float:
    """How long it took until the server hung up."""
    started = time.monotonic()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        async with asyncio.timeout(seconds):
            while await reader.read(65536):
                pass
    return time.monotonic() - started


def test_a_handshake_that_does_not_come_to_an_end_is_cut_off(pki: Pki, caplog: Any) -> None:
    async def run() -> tuple[float, str]:
        async with serving(pki.server(), Limits(arrival=0.4)) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(b"\x16\x03\x01")
            took = await ended(reader, 5)
            writer.close()
            return took, await served.metrics()

    took, metrics = asyncio.run(run())
    assert took > 0.3
    assert 'netspace_http_connections_cut_total{why="handshake"} 1.0' in metrics
    assert "no TLS with 127.0.0.1" in caplog.text


@pytest.mark.parametrize("first", [True, False])
def test_a_header_that_drips_in_is_cut_off_and_others_are_served_meanwhile(
    pki: Pki, first: bool
) -> None:
    async def run() -> str:
        async with serving(pki.server(), Limits(arrival=0.6)) as served:
            mine = pki.make(ADMIN)
            context = tls_module.client_context(mine)
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=context)
            if not first:
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
                await reader.readuntil(b"ok\n")

            async def drip() -> None:
                for byte in b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1000:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.05)

            dripping = asyncio.create_task(drip())
            assert await ask(served.url(), mine) == "ok"
            await ended(reader, 8)
            dripping.cancel()
            await asyncio.gather(dripping, return_exceptions=True)
            writer.close()
            return await served.metrics()

    metrics = asyncio.run(run())
    assert 'netspace_http_connections_cut_total{why="slow"} 1.0' in metrics


def test_an_idle_connection_ends_by_itself(pki: Pki) -> None:
    async def run() -> float:
        async with serving(pki.server(), Limits(arrival=5, idle=0.4)) as served:
            context = tls_module.client_context(pki.make(ADMIN))
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=context)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"ok\n")
            took = await ended(reader, 5)
            writer.close()
            return took

    assert asyncio.run(run()) < 4


def test_who_comes_when_all_places_are_taken_is_turned_away_and_later_let_in(pki: Pki) -> None:
    async def run() -> tuple[str, str]:
        limits = Limits(connections=2, arrival=5)
        async with serving(pki.server(), limits) as served:
            mine = pki.make(ADMIN)
            clients = [HttpClient([served.url()], 5, mine) for _ in range(2)]
            for client in clients:
                await client.request("GET", "/healthz")
            full = await ask(served.url(), mine)
            for client in clients:
                await client.close()
            await asyncio.sleep(0.2)
            assert 'why="full"} 1.0' in await served.metrics()
            return full, await ask(served.url(), mine)

    full, later = asyncio.run(run())
    assert full.startswith("unavailable: ")
    assert later == "ok"


def test_an_answer_that_nobody_takes_is_cut_off(pki: Pki) -> None:
    async def run() -> str:
        async with serving(pki.server(), Limits(arrival=5, timeout=0.5)) as served:
            double = cast(Double, served.backend.directory)
            name = "n" * 60
            cluster = m.Cluster(name=name, leader=None, networks=0, pools=0, used=0)
            double.answers["clusters"] = [cluster] * 200_000
            context = tls_module.client_context(pki.make(ADMIN))
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", served.port, ssl=context, limit=1024
            )
            writer.write(b"GET /v1/clusters HTTP/1.1\r\nHost: a\r\n\r\n")
            async with asyncio.timeout(10):
                while 'why="slow"} 1.0' not in await served.metrics():
                    await asyncio.sleep(0.1)
            writer.transport.abort()
            del reader
            return "cut"

    assert asyncio.run(run()) == "cut"
