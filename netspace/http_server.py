"""An HTTP server's sockets: listening on them, stopping, and the files of Unix sockets.

What is answered comes from `http_routes`; `http_door` and `http_connections` have the connections.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import stat
from pathlib import Path
from typing import Final

from netspace.endpoints import Endpoint
from netspace.http_door import Cut, Door
from netspace.http_work import Application
from netspace.http_work import Limits as Limits
from netspace.problems import Problem
from netspace.tls import Contexts

BACKLOG: Final = 1024


class HttpServer:
    """An application on its sockets.

    `await listen(endpoint)` for each, then `await stop()`: no new connections, what is under way is
    finished (within the request timeout), the socket files are removed. `tls` is for endpoints that
    begin with https; `cut` is told of connections that are turned away or cut off.
    """

    def __init__(
        self,
        app: Application,
        limits: Limits,
        tls: Contexts | None = None,
        cut: Cut = lambda why: None,
    ) -> None:
        self._app = app
        self._limits = limits
        self._tls = tls
        self._cut = cut
        self._door: Door | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._sockets: list[socket.socket] = []
        self._files: list[tuple[Path, int]] = []

    async def listen(self, endpoint: Endpoint, mode: int = 0o600) -> None:
        """Raises `Problem` invalid, with the reason, where it cannot; `mode` is a socket file's."""
        if self._door is None:
            self._door = Door(self._app, self._limits, self._cut)
            self._tasks.append(asyncio.create_task(self._door.sweep(), name="sweep"))
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
            accepting = self._door.accept(sock, tls)
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


def many_files() -> None:
    """As many open files, and so connections, as the system lets this process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
