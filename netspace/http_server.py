"""What every HTTP server of ours does around its requests: listening, limits, problems, stopping.

The routes come from `http_routes`. Whatever goes wrong, down to bytes that are no HTTP, is answered
with a JSON problem; an unexpected exception is logged under an id that the caller is told.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import secrets
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from netspace.endpoints import Endpoint
from netspace.http_connections import Connection, Cut, Door
from netspace.http_connections import Limits as Limits
from netspace.problems import MEDIA_TYPE, Problem
from netspace.tls import Renewed

log = logging.getLogger(__name__)

SERVER: Final = "netspace"
"""The Server header: no versions for strangers."""

BACKLOG: Final = 1024
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Observe = Callable[[str, str, int, float], None]
"""Told of every request: method, route template, status, seconds."""


def answer_problem(problem: Problem, **headers: str) -> web.Response:
    """The answer that carries the problem."""
    fields = {"Content-Type": MEDIA_TYPE, "Server": SERVER, **headers}
    if problem.retry_after is not None:
        fields["Retry-After"] = str(max(1, math.ceil(problem.retry_after)))
    return web.Response(status=problem.kind.status, body=problem.encode(), headers=fields)


def shell(observe: Observe) -> Any:
    """The middleware around every request: exceptions become problems, and all are counted."""

    @web.middleware
    async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = perf_counter()
        response: web.StreamResponse
        connection = request.protocol
        if isinstance(connection, Connection):
            connection.begun()
        try:
            response = await handler(request)
        except Problem as problem:
            response = answer_problem(problem)
        except web.HTTPException as error:
            response = _answer_http(request, error)
        except Exception as error:
            response = answer_problem(unexpected(error, request.method, request.path))
        resource = request.match_info.route.resource
        if resource is None:
            observe("other", "none", response.status, perf_counter() - started)
        else:
            observe(request.method, resource.canonical, response.status, perf_counter() - started)
        return response

    return around


def unexpected(error: BaseException, method: str, path: str) -> Problem:
    """Logs what nobody foresaw, and the problem that names the log line."""
    ident = secrets.token_hex(6)
    log.error(
        "a request failed unexpectedly",
        exc_info=error,
        extra={"id": ident, "method": method, "path": path[:300]},
    )
    return Problem(
        "internal",
        f"the server failed at {method} {path[:300]}",
        do=f"look for id {ident} in the server's log",
    )


def _answer_http(request: web.Request, error: web.HTTPException) -> web.Response:
    where = f"{request.method} {request.path[:300]}"
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        problem = Problem(
            "method-not-allowed", f"{where}: the resource does not take it", do=f"use {allowed}"
        )
        return answer_problem(problem, Allow=allowed)
    if isinstance(error, web.HTTPNotFound):
        return answer_problem(Problem("not-found", f"{where}: there is no such resource"))
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return answer_problem(Problem("too-large", f"{where}: the body is too large"))
    return answer_problem(Problem("bad-request", f"{where}: {error.reason}"))


class _Protocol(Connection):
    """What is said to bytes that aiohttp's parser refuses, before any request exists."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun already")
        if status >= 500 and exc is not None:
            response = answer_problem(unexpected(exc, request.method, request.path))
        else:
            text = getattr(exc, "message", None) if isinstance(exc, HttpProcessingError) else None
            line = " ".join((text or message or "it is not HTTP/1.1").split())
            response = answer_problem(Problem("bad-request", f"the request is not HTTP: {line}"))
        response.force_close()
        return response


class HttpServer:
    """An aiohttp application on its sockets.

    `await listen(endpoint)` for each, then `await stop()`: no new connections, what is under way is
    finished (within the request timeout), the socket files are removed. `tls` is for endpoints that
    begin with https; `cut` is told of connections that are turned away or cut off.
    """

    def __init__(
        self,
        app: web.Application,
        limits: Limits,
        tls: Renewed | None = None,
        cut: Cut = lambda why: None,
    ) -> None:
        self._limits = limits
        self._tls = tls
        self._cut = cut
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=limits.timeout)
        self._door: Door | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._sockets: list[socket.socket] = []
        self._files: list[tuple[Path, int]] = []

    async def listen(self, endpoint: Endpoint, mode: int = 0o600) -> None:
        """Raises `Problem` invalid, with the reason, where it cannot; `mode` is a socket file's."""
        if self._door is None:
            await self._runner.setup()
            self._door = Door(self._limits, self._cut)
            self._tasks.append(asyncio.create_task(self._door.sweep(), name="sweep"))
        door, manager = self._door, self._runner.server
        assert manager is not None
        tls = self._tls if endpoint.tls else None
        try:
            if endpoint.tls and tls is None:
                raise OSError("there are no certificates for it")
            if endpoint.path:
                path = Path(endpoint.path)
                sockets = [bind_unix(path, mode)]
                self._files.append((path, path.lstat().st_ino))
            else:
                sockets = await _bind_tcp(endpoint)
        except OSError as error:
            raise Problem(
                "invalid",
                f"cannot listen on {endpoint.url}: {error.strerror or error}",
                do="free the address or configure another one",
            ) from None
        self._sockets += sockets
        for sock in sockets:
            sock.listen(BACKLOG)
            accepting = door.accept(sock, lambda: _Protocol(door, manager), tls)
            self._tasks.append(asyncio.create_task(accepting, name=f"accept {endpoint.url}"))

    async def stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()
        if self._door is not None:
            await self._door.refuse()
        await self._runner.cleanup()
        if self._door is not None:
            await self._door.empty()
        files, self._files = self._files, []
        for path, inode in files:
            try:
                if path.lstat().st_ino == inode:
                    path.unlink()
            except FileNotFoundError:
                pass


async def _bind_tcp(endpoint: Endpoint) -> list[socket.socket]:
    """Bound sockets for every address that the host has."""
    found = await asyncio.get_running_loop().getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    made: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
            made.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return made


def bind_unix(path: Path, mode: int) -> socket.socket:
    """A bound Unix socket whose file has the mode before anyone can connect: nobody can until it
    listens. A file that an ended server left is removed, one that somebody listens on never is:
    `OSError` EADDRINUSE."""
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        sock.bind(os.fspath(path))
        path.chmod(mode)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "the file exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except TimeoutError:
            pass
    raise OSError(errno.EADDRINUSE, "another server listens there")
