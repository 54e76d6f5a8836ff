"""A TCP proxy on loopback that loses answers and cuts connections when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self


class Proxy:
    """Hands bytes on between its own `port` and the target's, in `async with`."""

    def __init__(self, host: str, port: int) -> None:
        self.losing_answers = False
        """Whether what the target says is thrown away; what it is told still arrives."""
        self.losing_requests = False
        """Whether what the target is told is thrown away."""
        self.port = 0
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Reset all connections; new ones are taken."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            target_reader, target_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, target_writer}
        self._writers |= both
        try:
            await asyncio.gather(
                self._hand_on(reader, target_writer, answers=False),
                self._hand_on(target_reader, writer, answers=True),
            )
        finally:
            self._writers -= both

    async def _hand_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if not (self.losing_answers if answers else self.losing_requests):
                    writer.write(data)
                    await writer.drain()
        writer.close()
