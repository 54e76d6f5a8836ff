"""A table of routes made into handlers: what is decoded, called and encoded, from one row each.

A row's types are msgspec's: they check paths, queries and bodies here and describe the same in
OpenAPI. Bad input never gets past this file, and each refusal says what and why.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cache, lru_cache
from io import BytesIO
from typing import Any, Final, Generic, TypeVar
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web
from aiohttp.payload import BytesIOPayload

from netspace import callers
from netspace.callers import ADMINS, Caller, Who
from netspace.http_connections import Connection
from netspace.http_server import SERVER, Handler, Limits, Observe, shell
from netspace.names import in_words
from netspace.problems import Problem, invalid

JSON: Final = "application/json"
LARGE: Final = 2**18
"""Bytes of an answer that is written in parts."""
_JSON_TYPES: Final = frozenset({JSON, f"{JSON}; charset=utf-8", f"{JSON};charset=utf-8"})
_ENCODER: Final = msgspec.json.Encoder()

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Call:
    """One request: the path's parameters, the query and the body, all of the types of the row."""

    path: Mapping[str, Any]
    query: Any
    body: Any


@dataclass(frozen=True, slots=True)
class Route(Generic[S]):
    """One row. `answer` None: 204 without a body. `media` other than JSON: `call` returns bytes,
    and `answer` is their type all the same. `problems`: codes beyond `common_problems`.
    `always`: answered even if there are too many requests. `repeat`: it does the same however often
    it comes. `who`: whom it lets in."""

    method: str
    path: str
    summary: str
    call: Callable[[S, Call], Awaitable[Any]]
    _: KW_ONLY
    body: Any = None
    answer: Any = None
    query: type[msgspec.Struct] | None = None
    status: int = 200
    media: str = JSON
    problems: tuple[str, ...] = ()
    always: bool = False
    repeat: bool = False
    who: Who = ADMINS

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the path's parameters."""
        return _parameters(self.path)

    @property
    def success(self) -> int:
        return 204 if self.answer is None else self.status


@cache
def _parameters(path: str) -> tuple[str, ...]:
    return tuple(part[1:-1] for part in path.split("/") if part.startswith("{"))


class Relayed(bytes):
    """An answer's body as another server wrote it."""


Deliver = Callable[[Route[Any], Any, Call, web.Request], Awaitable[Any]]
"""How a request reaches what carries it out: by default the row's own `call`."""


async def call_here(route: Route[Any], service: Any, call: Call, request: web.Request) -> Any:
    return await route.call(service, call)


def common_problems(route: Route[S]) -> tuple[str, ...]:
    """The problems that any request of the route may end with."""
    codes = ["bad-request", "invalid", "internal", "busy", "forbidden"]
    if route.body is not None:
        codes.append("too-large")
    codes.append("unavailable" if route.method == "GET" else "outcome-unknown")
    return tuple(codes)


def application(
    routes: Sequence[Route[S]],
    service: S,
    parameters: Mapping[str, Any],
    limits: Limits,
    observe: Observe,
    deliver: Deliver = call_here,
) -> web.Application:
    """The application of a table; `parameters` are the types of path parameters by name."""
    app = web.Application(middlewares=[shell(observe)], client_max_size=limits.body)
    gate = _Gate(limits.concurrent)
    for route in routes:
        handler = _handler(route, service, parameters, limits, gate, deliver)
        app.router.add_route(route.method, route.path, handler)
    return app


class _Gate:
    """Counts the requests in work."""

    __slots__ = ("inside", "most")

    def __init__(self, most: int) -> None:
        self.inside = 0
        self.most = most


def _handler(
    route: Route[S],
    service: S,
    parameters: Mapping[str, Any],
    limits: Limits,
    gate: _Gate,
    deliver: Deliver,
) -> Handler:
    types = tuple((name, parameters[name]) for name in route.parameters)
    decoder = None if route.body is None else msgspec.json.Decoder(route.body)
    headers = {"Content-Type": route.media, "Server": SERVER}
    status = route.success
    raw = route.answer is bytes

    async def work(request: web.Request) -> web.StreamResponse:
        caller = caller_of(request)
        what = f"{request.method} {request.path[:300]}"
        route.who.check_role(caller, what)
        path = {name: _parameter(name, request.match_info[name], kind) for name, kind in types}
        query = _query(request.rel_url.raw_query_string, route.query)
        body = None
        if decoder is not None:
            body = decode(await _body(request, limits), decoder)
        elif request.can_read_body:
            raise Problem("bad-request", f"{route.method} {route.path} takes no body")
        route.who.check_scope(caller, what, path, query, body)
        callers.enter(caller)
        answer = await deliver(route, service, Call(path, query, body), request)
        if status == 204:
            return web.Response(status=204, headers={"Server": SERVER})
        data = answer if raw or isinstance(answer, Relayed) else _ENCODER.encode(answer)
        # What is written at once is out of sight: whether it is taken shows only between parts.
        body = data if len(data) <= LARGE else BytesIOPayload(BytesIO(data))
        return web.Response(status=status, body=body, headers=headers)

    async def handle(request: web.Request) -> web.StreamResponse:
        if gate.inside >= gate.most and not route.always:
            raise Problem(
                "busy", f"{gate.most} requests are in work", do="ask again", retry_after=1
            )
        gate.inside += 1
        try:
            async with asyncio.timeout(limits.timeout):
                return await work(request)
        except TimeoutError:
            raise _too_slow(route, request, limits.timeout) from None
        finally:
            gate.inside -= 1

    return handle


def caller_of(request: web.Request) -> Caller:
    """Who asks: the other end of the connection, or whom a server passes the request on for."""
    connection = request.protocol
    assert isinstance(connection, Connection)
    caller = connection.present()
    said = request.headers.getall(callers.HEADER, ())
    if not said:
        return caller
    if caller.role not in ("server", "local"):
        raise Problem(
            "forbidden",
            f"{caller} may not speak for somebody else: the header {callers.HEADER} is for"
            " servers alone",
            do="ask without it",
        )
    if len(said) > 1:
        raise Problem("bad-request", f"the header {callers.HEADER} stands {len(said)} times")
    return Caller.decode(said[0])


def _too_slow(route: Route[S], request: web.Request, seconds: float) -> Problem:
    what = f"{route.method} {request.path[:300]}"
    if not request.content.is_eof():
        return Problem("bad-request", f"{what}: the body did not arrive within {seconds:g} s")
    why = f"{what}: not done within {seconds:g} s"
    if route.method == "GET":
        return Problem("unavailable", why, do="ask again", retry_after=1)
    return Problem("outcome-unknown", why, do="look whether it was done before you repeat it")


@lru_cache(maxsize=4096)
def _parameter(name: str, text: str, kind: Any) -> Any:
    try:
        return msgspec.convert(text, kind)
    except msgspec.ValidationError as error:
        raise invalid(f"{name} {text[:80]!r} in the path", in_words(str(error))) from None


def _query(text: str, kind: type[msgspec.Struct] | None) -> Any:
    if not text:
        return None if kind is None else kind()
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError as error:
        raise Problem("bad-request", f"the query cannot be read: {error}") from None
    known = () if kind is None else kind.__struct_fields__
    values: dict[str, str] = {}
    for key, value in pairs:
        if key not in known:
            has = f"use {', '.join(known)}" if known else "ask without a query"
            raise invalid(f"query parameter {key[:80]!r}", "there is no such parameter", do=has)
        if key in values:
            raise invalid(f"query parameter {key!r}", "it stands twice")
        values[key] = value
    assert kind is not None
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid("query", in_words(str(error))) from None


async def _body(request: web.Request, limits: Limits) -> bytes:
    if request.headers.get("Content-Type", "").lower() not in _JSON_TYPES:
        kind = request.headers.get("Content-Type", "none")[:80]
        raise Problem("bad-request", f"the content type is {kind}", do=f"send {JSON} (in UTF-8)")
    if "Content-Encoding" in request.headers:
        raise Problem("bad-request", "the body is compressed", do="send it as it is")
    length = request.content_length
    if length is not None and length > limits.body:
        raise Problem("too-large", f"the body has {length} bytes, more than {limits.body}")
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise Problem("too-large", f"the body has more than {limits.body} bytes") from None


def decode(body: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """The value in a body; `Problem` for what is no JSON, has a key twice, or is no such value."""
    try:
        value = decoder.decode(body)
        # What our own client sends is what the value would be written as: no key stands twice.
        if _ENCODER.encode(value) != body:
            _UNIQUE.decode(body.decode())
    except msgspec.ValidationError as error:
        raise invalid("body", in_words(str(error))) from None
    except UnicodeDecodeError:
        raise Problem("bad-request", "the body is not UTF-8") from None
    except ValueError as error:
        why = error if body else "it is empty"
        raise Problem("bad-request", f"the body is not JSON: {why}") from None
    return value


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Problem("bad-request", f"the body has the key {twice[:80]!r} twice in one object")


_UNIQUE: Final = json.JSONDecoder(object_pairs_hook=_once)
"""msgspec takes the last of two equal keys; whoever read the first would see another request."""
