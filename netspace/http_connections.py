"""The connections of an HTTP server: taken in, known by their certificates, bounded, cut off.

A connection may take a limited time for its handshake, for the header of a request and for taking
an answer; the time for a request itself is `http_routes`' to watch. Whoever comes when all places
are taken is turned away at once, so that a client goes on to another server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from netspace import callers
from netspace.callers import LOCAL, Caller
from netspace.problems import Problem
from netspace.tls import Renewed, explained

log = logging.getLogger(__name__)

SWEEP: Final = 0.5
"""Seconds between two looks for connections that are late."""

PAUSE: Final = 0.5
"""Seconds until connections are accepted again after the system would not."""

FAREWELL: Final = 0.5
"""Seconds that the other side may take to end TLS when the server stops."""

QUIET: Final = 5.0
"""Seconds between two words in the log about connections turned away."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`body` and `header` (one line, or one field) in bytes, `concurrent` requests in work,
    `timeout` in seconds for a request from its first line to its answer, and for taking the answer.
    `connections` at once; `arrival` in seconds for a handshake, and for a request's header; `idle`
    in seconds between two requests."""

    body: int = 2**20
    header: int = 8190
    concurrent: int = 20_000
    timeout: float = 30.0
    connections: int = 20_000
    arrival: float = 10.0
    idle: float = 300.0


_CREDENTIALS: Final = struct.Struct("3i")
"""unix(7), SO_PEERCRED: process, user, group."""

Cut = Callable[[str], None]
"""Told why a connection was cut off or turned away: `full`, `handshake`, `slow`."""


class Connection(web.RequestHandler):
    """One connection. `caller`: who is at its other end, valid `until` a POSIX time.
    `deadline`: the loop's time by which the other side must have done its part; None while it is
    the server's turn, or nobody's."""

    __slots__ = ("_answered", "_door", "_working", "caller", "deadline", "until")

    def __init__(self, door: Door, manager: web.Server) -> None:
        limits = door.limits
        super().__init__(
            manager,
            loop=door.loop,
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=limits.idle,
            max_line_size=limits.header,
            max_field_size=limits.header,
            auto_decompress=False,
        )
        self._door = door
        self._working = False
        self._answered = False
        self.caller = LOCAL
        self.until = float("inf")
        self.deadline: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        certificate = transport.get_extra_info("peercert")
        if certificate is not None:
            self.caller = callers.certified(certificate)
            self.until = ssl.cert_time_to_seconds(certificate["notAfter"])
        else:
            self.caller = _on_this_machine(transport.get_extra_info("socket"))
        self._wait(self._door.limits.arrival)
        self._door.entered(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._door.left(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._working and (self.deadline is None or (self._answered and not self._unsent)):
            self._answered = False
            self._wait(self._door.limits.arrival)
        super().data_received(data)

    def begun(self) -> None:
        """A request's header has arrived, and it is worked on."""
        self._working = True
        self._answered = False
        self.deadline = None

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        self._wait(self._door.limits.timeout)
        self._answered = True
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._working = False
            if not self._unsent:
                self.deadline = None

    @property
    def _unsent(self) -> bool:
        """Whether the other side has yet to take something."""
        return self.transport is not None and self.transport.get_write_buffer_size() > 0

    def late(self, now: float) -> bool:
        """Whether the other side has let its time go by."""
        if self.deadline is None or now < self.deadline:
            return False
        if self._answered and not self._unsent:
            self.deadline = None
            return False
        return True

    def _wait(self, seconds: float) -> None:
        self.deadline = self._door.loop.time() + seconds

    def present(self) -> Caller:
        """The caller, unless the certificate has expired since the connection was made."""
        if time.time() > self.until:
            raise Problem(
                "forbidden", f"the certificate of {self.caller} has expired", do="renew it"
            )
        return self.caller


def _on_this_machine(sock: Any) -> Caller:
    """Which user it is on a Unix socket; an address of loopback does not tell."""
    if sock is None or sock.family != socket.AF_UNIX:
        return LOCAL
    with contextlib.suppress(OSError):
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, user, _ = _CREDENTIALS.unpack(found)
        return Caller("local", name=f"uid {user}")
    return LOCAL


class Door:
    """Where connections come in. `accept` on each socket and `sweep` run until cancelled."""

    def __init__(self, limits: Limits, cut: Cut) -> None:
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self._cut = cut
        self._inside: set[Connection] = set()
        self._shaking: set[asyncio.Task[None]] = set()
        self._spoken = float("-inf")

    def entered(self, connection: Connection) -> None:
        self._inside.add(connection)

    def left(self, connection: Connection) -> None:
        self._inside.discard(connection)

    @property
    def full(self) -> bool:
        return len(self._inside) + len(self._shaking) >= self.limits.connections

    async def accept(
        self, listener: socket.socket, make: Callable[[], Connection], tls: Renewed | None
    ) -> None:
        """Takes in whoever connects to a listening socket; `make` gives their `Connection`."""
        while True:
            try:
                accepted, _ = await self.loop.sock_accept(listener)
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
                await self.loop.connect_accepted_socket(make, accepted)
                continue
            task = asyncio.create_task(self._shake_hands(accepted, make, tls.context))
            self._shaking.add(task)
            task.add_done_callback(self._shaking.discard)

    async def sweep(self) -> None:
        """Cuts off whoever is late."""
        while True:
            await asyncio.sleep(min(SWEEP, self.limits.arrival / 2))
            now = self.loop.time()
            for connection in [each for each in self._inside if each.late(now)]:
                self._cut("slow")
                log.info("a connection was cut off", extra={"caller": str(connection.caller)})
                if connection.transport is not None:
                    connection.transport.abort()

    async def refuse(self) -> None:
        """Ends handshakes under way."""
        for task in self._shaking:
            task.cancel()
        await asyncio.gather(*self._shaking, return_exceptions=True)

    async def empty(self) -> None:
        """Returns when all connections, closed by now, are gone; who does not say goodbye is not
        waited for long."""
        deadline = self.loop.time() + FAREWELL
        while self._inside and self.loop.time() < deadline:
            await asyncio.sleep(0.01)
        for connection in self._inside:
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0.01)

    async def _shake_hands(
        self, accepted: socket.socket, make: Callable[[], Connection], context: ssl.SSLContext
    ) -> None:
        # asyncio closes its own descriptor when the handshake fails, and with it goes whatever
        # would tell the client why.
        with accepted.dup() as spare:
            try:
                await self.loop.connect_accepted_socket(
                    make,
                    accepted,
                    ssl=context,
                    ssl_handshake_timeout=self.limits.arrival,
                    ssl_shutdown_timeout=self.limits.arrival,
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
                await self.loop.sock_sendall(spare, alert)
                spare.shutdown(socket.SHUT_WR)
                while await self.loop.sock_recv(spare, 65536):
                    pass

    def _turn_away(self, accepted: socket.socket) -> None:
        accepted.close()
        self._cut("full")
        now = self.loop.time()
        if now - self._spoken > QUIET:
            self._spoken = now
            log.warning("%d connections are open: others are turned away", self.limits.connections)


def _address(sock: socket.socket) -> str:
    with contextlib.suppress(OSError):
        return str(sock.getpeername()[0])
    return "somebody who has gone"
