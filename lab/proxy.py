"""A TCP proxy that delays, holds, loses, cuts and refuses when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Self

LOOPBACK = "127.0.0.1"


class Proxy:
    """Hands bytes on between its own `port` and the target's, in `async with`.

    `name_of` names who connects, by the address and port it connects from, so that connections of
    one can be cut and refused apart from the others'. `listen` is its own address. `inside` is
    entered while it makes a socket: in another network namespace the socket belongs there.
    """

    def __init__(
        self,
        host: str,
        port: int,
        name_of: Callable[[str, int], str] | None = None,
        *,
        listen: str = LOOPBACK,
        inside: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self.losing_answers = False
        """Whether what the target says is thrown away; what it is told still arrives."""
        self.losing_requests = False
        """Whether what the target is told is thrown away."""
        self.delay = 0.0
        """Seconds that all that comes is kept before it is handed on."""
        self.refused: set[str] = set()
        """Whose connections are reset as soon as they are made; "" is everybody without a name."""
        self.port = 0
        self._target = (host, port)
        self._listen = listen
        self._inside = inside
        self._name_of = name_of or (lambda _host, _port: "")
        self._server: asyncio.Server | None = None
        self._writers: dict[asyncio.StreamWriter, str] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def __aenter__(self) -> Self:
        with self._inside():
            listening = socket.create_server((self._listen, 0))
        try:
            self._server = await asyncio.start_server(self._accept, sock=listening)
        except BaseException:
            listening.close()
            raise
        self.port = listening.getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        self.flow()
        while self._serving:
            self.cut()
            await asyncio.wait(set(self._serving), timeout=0.1)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://{self._listen}:{self.port}"

    @property
    def connected(self) -> tuple[str, ...]:
        """Who has connections."""
        return tuple(self._writers.values())

    def cut(self, name: str | None = None) -> None:
        """Reset all connections, or those of one; new ones are taken."""
        for writer, who in self._writers.items():
            if name in (None, who):
                writer.transport.abort()

    def hold(self) -> None:
        """Keep what comes until `flow`: it arrives, however late, even from who gave up since."""
        self._flowing.clear()

    def flow(self) -> None:
        """Hand on what was held."""
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        who = self._name_of(*writer.get_extra_info("peername")[:2])
        try:
            if who in self.refused:
                raise ConnectionRefusedError
            target_reader, target_writer = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        both = (writer, target_writer)
        self._writers |= dict.fromkeys(both, who)
        try:
            await asyncio.gather(
                self._hand_on(reader, target_writer, answers=False),
                self._hand_on(target_reader, writer, answers=True),
            )
        finally:
            for each in both:
                del self._writers[each]

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        with self._inside():
            connecting = socket.socket()
        try:
            connecting.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connecting, self._target)
            return await asyncio.open_connection(sock=connecting)
        except BaseException:
            connecting.close()
            raise

    async def _hand_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._flowing.wait()
                if not (self.losing_answers if answers else self.losing_requests):
                    writer.write(data)
                    await writer.drain()
        writer.close()
