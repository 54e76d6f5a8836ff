"""The client of Kubernetes' API: single requests over connections that are kept, and watches.

The API's own errors and its absence are one exception, `ApiError`. Whatever the credentials are
made of may change at any time: files are looked at before each request. Source: API concepts,
https://kubernetes.io/docs/reference/using-api/api-concepts/.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from time import monotonic
from typing import Final, Literal, TypeVar

import h11
import msgspec

import netspace
from netspace.http_client import Connection
from netspace.kube_access import Access
from netspace.problems import Problem
from netspace.tls import explained

IDLE: Final = 8
"""Connections kept open between requests."""
MAX_LINE: Final = 16 * 2**20
"""Bytes of one object in a watch; etcd takes 1.5 MiB."""
MERGE: Final = "application/merge-patch+json"
"""RFC 7386."""

T = TypeVar("T")
Method = Literal["GET", "POST", "PUT", "PATCH"]
_Stamps = tuple[tuple[int, int, int] | None, ...]


class ApiError(Exception):
    """A request that was not answered with success. `status`: HTTP's, 0 where nobody answered or
    nobody could be asked; `why` in words, with the API's own where it has said any."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


class _Status(msgspec.Struct):
    """The part of a `Status` (meta/v1) that is for people, and its code."""

    message: str = ""
    code: int = 0


class Event(msgspec.Struct):
    """One line of a watch: ADDED, MODIFIED, DELETED or BOOKMARK, and the object as it came."""

    type: str
    object: msgspec.Raw


class KubeApi:
    """Asks the API that `load` says how to reach; it is asked again when one of the files that it
    named has changed. `timeout`: seconds for a request. Close it after use."""

    def __init__(self, load: Callable[[], Access], timeout: float) -> None:
        self._load, self._timeout = load, timeout
        self._access: Access | None = None
        self._context: ssl.SSLContext | None = None
        self._stamps: _Stamps = ()
        self._idle: deque[Connection] = deque()

    async def get(self, path: str, kind: type[T]) -> T:
        """The object at the path, quoted. Raises `ApiError`, as all here do."""
        return _decoded(path, await self._request("GET", path), kind)

    async def create(self, path: str, body: object, kind: type[T]) -> T:
        return _decoded(path, await self._request("POST", path, msgspec.json.encode(body)), kind)

    async def replace(self, path: str, body: object, kind: type[T]) -> T:
        """Puts the body in the place of the object; 409 where it names another resourceVersion than
        the object's."""
        return _decoded(path, await self._request("PUT", path, msgspec.json.encode(body)), kind)

    async def patch(self, path: str, change: object) -> None:
        """Merges the change into the object at the path."""
        await self._request("PATCH", path, msgspec.json.encode(change), MERGE)

    def where(self) -> str:
        """The API's address; `ApiError` where the credentials cannot be used."""
        return self._current().endpoint.url

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().closed()

    async def watch(self, path: str, silence: float) -> AsyncGenerator[Event, None]:
        """What happens at the path, whose query says that it is a watch, until the API ends it.
        `ApiError` where it cannot be had or breaks off, also where nothing comes for `silence`
        seconds, and with the status that the API itself reports in the stream (410: what is asked
        for is not kept any more)."""
        api = self._current()
        request = self._head(api, "GET", path)
        began = monotonic()
        connection: Connection | None = None
        try:
            async with asyncio.timeout(self._timeout):
                connection = await Connection.open(api.endpoint, self._context)
                connection.keep_alive()
                status = await connection.begin(request)
            rest = b""
            while True:
                async with asyncio.timeout(silence if status < 300 else self._timeout):
                    piece = await connection.more()
                if status >= 300 and not piece:
                    raise ApiError(status, f"{api.endpoint.url} says {status}: {_message(rest)}")
                if not piece:
                    return
                *lines, rest = (rest + piece).split(b"\n") if status < 300 else [rest + piece]
                if len(rest) > MAX_LINE:
                    raise ApiError(0, f"a line of {path} is longer than {MAX_LINE} bytes")
                for line in lines:
                    if line:
                        yield _event(path, line)
        except (OSError, h11.RemoteProtocolError) as error:
            why = _why(error, monotonic() - began)
            raise ApiError(0, f"{api.endpoint.url} does not go on: {why}") from None
        finally:
            if connection is not None:
                connection.close()

    async def _request(
        self, method: Method, path: str, body: bytes = b"", media: str = "application/json"
    ) -> bytes:
        api = self._current()
        request = self._head(api, method, path, body, media)
        began = monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                status, answer = await self._asked(api, request, body)
        except (OSError, h11.RemoteProtocolError) as error:
            why = _why(error, monotonic() - began)
            raise ApiError(0, f"{api.endpoint.url} does not answer: {why}") from None
        if status >= 300:
            raise ApiError(status, f"{api.endpoint.url} says {status}: {_message(answer)}")
        return answer

    def _head(
        self,
        api: Access,
        method: Method,
        path: str,
        body: bytes = b"",
        media: str = "application/json",
    ) -> h11.Request:
        try:
            token = api.bearer()
        except Problem as problem:
            raise ApiError(0, str(problem)) from None
        headers = [
            ("Host", api.endpoint.authority),
            ("Accept", "application/json"),
            ("User-Agent", f"netspace/{netspace.__version__}"),
        ]
        if token:
            headers.append(("Authorization", f"Bearer {token}"))
        if body:
            headers += [("Content-Type", media), ("Content-Length", str(len(body)))]
        return h11.Request(method=method, target=api.prefix + path, headers=headers)

    async def _asked(self, api: Access, request: h11.Request, body: bytes) -> tuple[int, bytes]:
        """An idle connection may be closed by the other side just now: then a new one is asked.
        What is asked here does no harm if it comes twice."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.idle():
                connection.close()
                continue
            try:
                return await self._over(connection, request, body)
            except (ConnectionError, h11.RemoteProtocolError):
                break
        return await self._over(await Connection.open(api.endpoint, self._context), request, body)

    async def _over(
        self, connection: Connection, request: h11.Request, body: bytes
    ) -> tuple[int, bytes]:
        kept = False
        try:
            answer = await connection.ask(request, body)
            kept = connection.reusable() and len(self._idle) < IDLE
        finally:
            if not kept:
                connection.close()
        if kept:
            self._idle.append(connection)
        return answer

    def _current(self) -> Access:
        """The credentials as their files are now."""
        known = self._access
        if known is not None and _stamps(known.files) == self._stamps:
            return known
        try:
            found = self._load()
            context = found.context()
        except Problem as problem:
            raise ApiError(0, str(problem)) from None
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        self._access, self._context, self._stamps = found, context, _stamps(found.files)
        return found


def _stamps(files: tuple[Path, ...]) -> _Stamps:
    found: list[tuple[int, int, int] | None] = []
    for path in files:
        try:
            seen = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((seen.st_mtime_ns, seen.st_size, seen.st_ino))
    return tuple(found)


def _event(path: str, line: bytes) -> Event:
    try:
        event = msgspec.json.decode(line, type=Event)
        if event.type != "ERROR":
            return event
        status = msgspec.json.decode(event.object, type=_Status)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(0, f"a line of {path} cannot be read: {error}") from None
    raise ApiError(status.code, f"the watch of {path} ends with {status.code}: {status.message}")


def _decoded(path: str, answer: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(0, f"the answer to {path} cannot be read: {error}") from None


def _message(answer: bytes) -> str:
    try:
        said = msgspec.json.decode(answer, type=_Status).message
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = ""
    return said[:300] or repr(answer[:100].decode(errors="replace"))


def _why(error: Exception, seconds: float) -> str:
    if isinstance(error, TimeoutError) and not error.errno:
        return f"nothing within {seconds:.1f} s"
    if isinstance(error, ssl.SSLError):
        return explained(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
