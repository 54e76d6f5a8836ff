"""Load of the bench's own: HTTP/1.1 over asyncio's transports, with a client certificate where one
is asked for, and each request timed by itself.

It writes requests that were made up beforehand and reads no more of an answer than its status and
where it ends: what it costs is what TLS costs.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from time import perf_counter

from bench.load_wrk import Load, LoadFailed

_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


class Asker(asyncio.Protocol):
    """One connection with one request under way."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._whole = 0
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @staticmethod
    async def connect(host: str, tls: ssl.SSLContext | None = None) -> Asker:
        """`host` is `ADDRESS:PORT`. Raises `OSError`."""
        address, _, port = host.rpartition(":")
        loop = asyncio.get_running_loop()
        _, asker = await loop.create_connection(
            Asker, address, int(port), ssl=tls, server_hostname=address if tls else None
        )
        return asker

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. Raises `LoadFailed` where the connection breaks off."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if not self._whole:
            end = self._buffer.find(_END)
            if end < 0:
                return
            head = self._buffer[:end].lower()
            at = head.find(_LENGTH)
            length = int(head[at + len(_LENGTH) :].partition(b"\r\n")[0]) if at >= 0 else 0
            self._whole = end + len(_END) + length
        if len(self._buffer) < self._whole or self._answer is None:
            return
        answer, self._answer = self._answer, None
        body = self._buffer[self._buffer.find(_END) + len(_END) : self._whole]
        status = int(self._buffer[9:12])
        self._buffer, self._whole = b"", 0
        if not answer.done():
            answer.set_result((status, body))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(LoadFailed(f"the connection broke off: {error or 'closed'}"))


async def load(
    host: str,
    make: Callable[[int], bytes],
    connections: int,
    seconds: float,
    tls: ssl.SSLContext | None = None,
) -> Load:
    """Asks over keep-alive connections for a time, each one after the other; `make` gives the n-th
    request's bytes. Raises `LoadFailed` when an answer is none of success."""
    askers = [await Asker.connect(host, tls) for _ in range(connections)]
    times: list[float] = []
    number = iter(range(1 << 62))
    started = perf_counter()
    until = started + seconds

    async def work(asker: Asker) -> None:
        while (begun := perf_counter()) < until:
            status, body = await asker.ask(make(next(number)))
            if status >= 300:
                raise LoadFailed(f"status {status}: {body[:300].decode(errors='replace')}")
            times.append(perf_counter() - begun)

    try:
        async with asyncio.TaskGroup() as group:
            for asker in askers:
                group.create_task(work(asker))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        for asker in askers:
            asker.close()
    took = perf_counter() - started
    times.sort()
    return Load(
        len(times),
        len(times) / took,
        times[len(times) // 2] * 1e3,
        times[len(times) * 99 // 100] * 1e3,
    )
