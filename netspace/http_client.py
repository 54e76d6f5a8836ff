"""The HTTP client of everything that asks a server: deadlines, failover, and what is known after.

HTTP/1.1 (RFC 9112) by h11 over asyncio's streams. A node's executable loads this for every pod, so
nothing heavier is imported; and the one thing a caller must be told, whether a request may have
been carried out, is known here exactly: it may have been as soon as its first byte was written.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Final

import h11

from netspace.endpoints import Endpoint
from netspace.problems import Problem, invalid
from netspace.tls import Contexts, Renewed, Tls, client_context, explained, refused

MAX_ANSWER: Final = 64 * 2**20
"""Bytes of an answer's body; more is refused, whoever sends it."""

IDLE_CONNECTIONS: Final = 16
"""Connections kept open to one endpoint between requests."""

ELSEWHERE: Final = frozenset({"not-leader", "busy", "unavailable", "state-unavailable"})
"""Problems of the server asked, not of the request: nothing was done, another may answer."""


class Connection:
    """One connection, one request after the other. `sent`: a byte of the request was written."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.CLIENT)
        self.sent = False

    @staticmethod
    async def open(
        endpoint: Endpoint, tls: ssl.SSLContext | None = None, name: str = ""
    ) -> Connection:
        """`OSError` where nobody listens, or who listens is not whom the endpoint, or `name` in its
        place, names."""
        if endpoint.path:
            streams = await asyncio.open_unix_connection(endpoint.path)
        else:
            if tls is not None and endpoint.tls:
                streams = await _open_tls(endpoint, tls, name or endpoint.host)
            else:
                streams = await asyncio.open_connection(endpoint.host, endpoint.port)
            tcp = streams[1].get_extra_info("socket")
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Connection(*streams)

    async def ask(self, request: h11.Request, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. `OSError` or `h11.ProtocolError` where it breaks off."""
        status, answer, size = await self.begin(request, body), [], 0
        while piece := await self.more():
            size += len(piece)
            if size > MAX_ANSWER:
                raise ConnectionAbortedError(f"the answer is larger than {MAX_ANSWER} bytes")
            answer.append(piece)
        return status, b"".join(answer)

    async def begin(self, request: h11.Request, body: bytes = b"") -> int:
        """Status of the answer, whose body comes with `more`; errors as `ask`."""
        http = self._http
        self.sent = False
        data = http.send(request) or b""
        if body:
            data += http.send(h11.Data(body)) or b""
        data += http.send(h11.EndOfMessage()) or b""
        self.sent = True
        self._writer.write(data)
        while not isinstance(event := await self._next(), h11.Response):
            pass
        return event.status_code

    async def more(self) -> bytes:
        """The next piece of the answer's body, empty at its end; errors as `ask`."""
        while not isinstance(event := await self._next(), h11.EndOfMessage):
            if isinstance(event, h11.Data) and event.data:
                return bytes(event.data)
        return b""

    async def _next(self) -> h11.Event:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(65536))
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionResetError("the server closed the connection without an answer")
            else:
                assert isinstance(event, h11.Event)
                return event

    def keep_alive(self) -> None:
        """For answers that may have nothing to say for a long time: the kernel asks whether there
        is still somebody, and gives the connection up after half a minute without a word."""
        tcp = self._writer.get_extra_info("socket")
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)

    def reusable(self) -> bool:
        """Makes the connection ready for the next request, if it can take one."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        return self.idle()

    def idle(self) -> bool:
        """Whether it waits for a request and the other side has not hung up."""
        return self._http.our_state is h11.IDLE and not self._reader.at_eof()

    def close(self) -> None:
        self._writer.close()

    async def closed(self) -> None:
        """Closes and waits for it."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def _open_tls(
    endpoint: Endpoint, tls: ssl.SSLContext, name: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which both sides have shown their certificates, and the server's is for
    the name. A server that is not taken is told why."""
    sock = await _connected(endpoint)
    with sock.dup() as spare:
        try:
            return await asyncio.open_connection(
                sock=sock, ssl=tls, server_hostname=name, ssl_shutdown_timeout=1
            )
        except ssl.SSLError as error:
            # asyncio closes its own descriptor without having sent the alert.
            with contextlib.suppress(OSError):
                spare.send(vars(error).get("alert", b""))
            raise


async def _connected(endpoint: Endpoint) -> socket.socket:
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for family, kind, protocol, _, address in await loop.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise failure or ConnectionError(f"{endpoint.host} has no address")


class _Lost(Exception):
    """No answer from an endpoint. `sent`: it may have got the request."""

    def __init__(self, why: str, sent: bool) -> None:
        super().__init__(why)
        self.why = why
        self.sent = sent


class HttpClient:
    """Asks any one of several servers that know the same; begins with the one that answered last.

    `timeout` is the deadline of a whole request in seconds, failover included. `tls` is for
    endpoints that begin with https; its files may change at any time. `name`: what the servers'
    certificates are for, where that is not the endpoint's host. Close it, or use it with
    `async with`.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        timeout: float = 10.0,
        tls: Tls | Contexts | None = None,
        name: str = "",
    ) -> None:
        if not endpoints:
            raise invalid("endpoints", "there are none", do="name a server")
        self._endpoints = [Endpoint.parse(url) for url in endpoints]
        self._timeout = timeout
        secured = [endpoint.url for endpoint in self._endpoints if endpoint.tls]
        if secured and tls is None:
            raise invalid(
                f"endpoint {secured[0]}",
                "it needs the authority's certificate, a certificate of ours and its key",
                do="name the files: ca, cert and key",
            )
        self._tls: Contexts | None
        if isinstance(tls, Tls):
            self._tls = Renewed(tls, client_context) if secured else None
        else:
            self._tls = tls
        self._name = name
        self._first = 0
        self._idle: dict[Endpoint, deque[Connection]] = {
            endpoint: deque(maxlen=IDLE_CONNECTIONS) for endpoint in self._endpoints
        }

    async def close(self) -> None:
        for connections in self._idle.values():
            while connections:
                await connections.pop().closed()

    async def request(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        repeat: bool = False,
        headers: Sequence[tuple[str, str]] = (),
    ) -> bytes:
        """The body of a 2xx answer; `target` is path and query, quoted; all else is a `Problem`.
        `headers` go along with those that every request has.

        A request goes to the next endpoint when it surely was not carried out: the connection
        failed, or the answer is one of `ELSEWHERE`. One whose answer was lost is sent again only
        with `repeat` (or if it is a GET), for requests that do the same however often they come;
        otherwise it ends with the problem `outcome-unknown`. `unavailable`: nobody answered, and
        nothing was changed.
        """
        repeat = repeat or method == "GET"
        deadline = monotonic() + self._timeout
        failures: list[str] = []
        refusal: Problem | None = None
        unknown = False
        order = self._order()
        for number, index in enumerate([*order, order[0]] if repeat else order):
            left = deadline - monotonic()
            second_round = number == len(order)
            if left <= 0 or (second_round and not unknown):
                break
            endpoint = self._endpoints[index]
            try:
                status, answer = await self._attempt(
                    endpoint,
                    _request(method, target, endpoint, body, headers),
                    body,
                    left=left,
                    # Where others can still be asked, a hung one must not use up all the time.
                    share=left / max(1, len(order) - number),
                    repeat=repeat,
                    fresh=second_round,
                )
            except _Lost as lost:
                failures.append(f"{endpoint.url}: {lost.why}")
                unknown = unknown or (lost.sent and method != "GET")
                if lost.sent and not repeat:
                    break
                continue
            if status >= 300:
                refusal = Problem.decode(status, answer)
                lost_there = refusal.code == "outcome-unknown" and repeat
                if lost_there or refusal.code in ELSEWHERE:
                    failures.append(f"{endpoint.url}: {refusal.detail}")
                    unknown = unknown or lost_there
                    continue
            self._first = index
            if status >= 300:
                assert refusal is not None
                raise refusal
            return answer
        raise _failed(f"{method} {target.partition('?')[0]}", failures, refusal, unknown)

    async def _attempt(
        self,
        endpoint: Endpoint,
        request: h11.Request,
        body: bytes,
        *,
        left: float,
        share: float,
        repeat: bool,
        fresh: bool,
    ) -> tuple[int, bytes]:
        """Status and body from one endpoint, or `_Lost`. What must not be sent twice gets a new
        connection, since a server may close an idle one just when a request is written to it, and
        all the time there is."""
        started = monotonic()
        connection: Connection | None = None
        try:
            async with asyncio.timeout(share):
                connection = await self._connect(endpoint, fresh=fresh or not repeat)
            spent = monotonic() - started
            async with asyncio.timeout((share if repeat else left) - spent):
                answer = await connection.ask(request, body)
            self._keep(endpoint, connection)
            connection = None
            return answer
        except (OSError, UnicodeError, h11.RemoteProtocolError) as error:
            sent = connection is not None and connection.sent and not refused(error)
            raise _Lost(_why(error, monotonic() - started), sent) from None
        finally:
            if connection is not None:
                connection.close()

    def _order(self) -> list[int]:
        count = len(self._endpoints)
        return [(self._first + step) % count for step in range(count)]

    async def _connect(self, endpoint: Endpoint, *, fresh: bool) -> Connection:
        idle = self._idle[endpoint]
        while idle and not fresh:
            connection = idle.pop()
            if connection.idle():
                return connection
            connection.close()
        context = self._tls.context if self._tls else None
        return await Connection.open(endpoint, context, self._name)

    def _keep(self, endpoint: Endpoint, connection: Connection) -> None:
        idle = self._idle[endpoint]
        if connection.reusable() and len(idle) < IDLE_CONNECTIONS:
            idle.append(connection)
        else:
            connection.close()


def _failed(what: str, failures: list[str], refusal: Problem | None, unknown: bool) -> Problem:
    why = "; ".join(failures)
    if unknown:
        return Problem(
            "outcome-unknown",
            f"{what} was sent, but it is not known whether it was done ({why})",
            do="look whether it was done before you repeat it",
        )
    if refusal is not None:
        return refusal
    return Problem(
        "unavailable",
        f"no server answered {what} ({why})",
        do="check that the server runs and that the endpoint is right",
    )


def _request(
    method: str,
    target: str,
    endpoint: Endpoint,
    body: bytes,
    more: Sequence[tuple[str, str]],
) -> h11.Request:
    headers = [("Host", endpoint.authority), ("Accept", "application/json"), *more]
    if body:
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    elif method not in ("GET", "DELETE"):
        headers += [("Content-Length", "0")]
    return h11.Request(method=method, target=target, headers=headers)


def _why(error: Exception, seconds: float) -> str:
    if isinstance(error, TimeoutError) and not error.errno:
        return f"no answer within {seconds:.1f} s"
    if isinstance(error, ssl.SSLError):
        return explained(error)
    if isinstance(error, OSError) and error.strerror:
        # asyncio has words of its own, which do not say why; resolvers' numbers are negative.
        return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
    return str(error) or type(error).__name__
