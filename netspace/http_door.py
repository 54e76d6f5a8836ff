"""Where the connections of an HTTP server come in: shaken hands with, counted, swept, seen out.

Whoever comes when all places are taken is turned away at once, so that a client goes on to another
server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from netspace.http_connections import Connection, House
from netspace.http_work import Application, Limits
from netspace.tls import Contexts, explained

log = logging.getLogger(__name__)

SWEEP: Final = 0.5
"""Seconds between two looks for what has had its time."""

LOOK: Final = 0.01
"""Seconds between two looks at whether all have gone."""

PAUSE: Final = 0.5
"""Seconds until connections are accepted again after the system would not."""

FAREWELL: Final = 0.5
"""Seconds that the other side may take to end TLS when the server stops."""

QUIET: Final = 5.0
"""Seconds between two words in the log about connections turned away."""

Cut = Callable[[str], None]
"""Told why a connection was cut off or turned away: `full`, `handshake`, `slow`."""


class Door:
    """Where connections come in. `accept` on each socket and `sweep` run until cancelled."""

    def __init__(self, app: Application, limits: Limits, cut: Cut) -> None:
        self._loop = asyncio.get_running_loop()
        self._house = House(app, limits, self._loop)
        self._cut = cut
        self._shaking: set[asyncio.Task[None]] = set()
        self._spoken = float("-inf")

    @property
    def full(self) -> bool:
        return len(self._house.inside) + len(self._shaking) >= self._house.limits.connections

    def _make(self) -> Connection:
        return Connection(self._house)

    async def accept(self, listener: socket.socket, tls: Contexts | None) -> None:
        """Takes in whoever connects to a listening socket."""
        while True:
            try:
                accepted, _ = await self._loop.sock_accept(listener)
            except OSError as error:
                # Out of file descriptors, or the other side has gone already.
                log.error("no connection can be accepted", extra={"why": str(error)})
                await asyncio.sleep(PAUSE)
                continue
            if self.full:
                self._turn_away(accepted)
                continue
            accepted.setblocking(False)
            if tls is None:
                await self._loop.connect_accepted_socket(self._make, accepted)
                continue
            task = asyncio.create_task(self._shake_hands(accepted, tls.context))
            self._shaking.add(task)
            task.add_done_callback(self._shaking.discard)

    async def sweep(self) -> None:
        """Ends what has had its time."""
        limits = self._house.limits
        pause = min(SWEEP, limits.arrival / 2, limits.timeout / 2, limits.idle / 2)
        while True:
            await asyncio.sleep(pause)
            now = self._loop.time()
            for connection in tuple(self._house.inside):
                if connection.look(now):
                    self._cut("slow")
                    log.info("a connection was cut off", extra={"caller": str(connection.caller)})

    async def empty(self) -> None:
        """Lets requests that have begun come to their end, and closes all connections; handshakes
        under way are broken off. Whoever says no goodbye is not waited for long."""
        for task in self._shaking:
            task.cancel()
        await asyncio.gather(*self._shaking, return_exceptions=True)
        inside, left = self._house.inside, self._house.left
        for connection in tuple(inside):
            connection.stop()
        deadline = self._loop.time() + self._house.limits.timeout
        while (left or any(each.busy for each in inside)) and self._loop.time() < deadline:
            await asyncio.sleep(LOOK)
        deadline = self._loop.time() + FAREWELL
        while inside and self._loop.time() < deadline:
            await asyncio.sleep(LOOK)
        for connection in tuple(inside):
            connection.abort()
        # What they waited for is left behind when they are gone.
        await asyncio.sleep(LOOK)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _shake_hands(self, accepted: socket.socket, context: ssl.SSLContext) -> None:
        # asyncio closes its own descriptor when the handshake fails, and with it goes whatever
        # would tell the client why.
        with accepted.dup() as spare:
            try:
                await self._loop.connect_accepted_socket(
                    self._make,
                    accepted,
                    ssl=context,
                    ssl_handshake_timeout=self._house.limits.arrival,
                    ssl_shutdown_timeout=self._house.limits.arrival,
                )
            except (OSError, ssl.SSLError) as error:
                self._cut("handshake")
                peer = _address(spare)
                log.warning("no TLS with %s: %s", peer, explained(error), extra={"peer": peer})
                await self._say_why(spare, vars(error).get("alert", b""))

    async def _say_why(self, spare: socket.socket, alert: bytes) -> None:
        """Sends the alert. What came meanwhile is read, since closing on it would reset the
        connection before the alert is seen."""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(1):
                spare.setblocking(False)
                await self._loop.sock_sendall(spare, alert)
                spare.shutdown(socket.SHUT_WR)
                while await self._loop.sock_recv(spare, 65536):
                    pass

    def _turn_away(self, accepted: socket.socket) -> None:
        accepted.close()
        self._cut("full")
        now = self._loop.time()
        if now - self._spoken > QUIET:
            self._spoken = now
            log.warning(
                "%d connections are open: others are turned away", self._house.limits.connections
            )


def _address(sock: socket.socket) -> str:
    with contextlib.suppress(OSError):
        return str(sock.getpeername()[0])
    return "somebody who has gone"
