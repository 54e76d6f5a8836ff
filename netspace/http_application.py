"""What becomes of a request: let in by its header, checked, delivered, answered, counted.

Whatever goes wrong is answered with a JSON problem; an unexpected exception is logged under an id
that the caller is told.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, Final, TypeVar

import msgspec

from netspace import callers
from netspace.callers import Caller
from netspace.http_answers import Answer, answer_problem
from netspace.http_inputs import check_media, decode, parse_query
from netspace.http_requests import Head
from netspace.http_routes import Call, Found, Relayed, Route, Row, Table
from netspace.http_work import Limits
from netspace.problems import Problem

log = logging.getLogger(__name__)

S = TypeVar("S")

_CALLER: Final = callers.HEADER.lower()
_ENCODER: Final = msgspec.json.Encoder()

Observe = Callable[[str, str, int, float, str], None]
"""Told of every request: method, route template, status, seconds, the problem's code or ""."""


class Request:
    """A request that was let in: its header and, once it is there, its `body` as it came."""

    __slots__ = ("_app", "_began", "_caller", "_path", "_query", "_row", "_told", "body", "head")

    def __init__(self, app: _Application, row: Row, found: Found, head: Head, who: Caller) -> None:
        self._app = app
        self._began = perf_counter()
        self._caller = who
        self._row = row
        self._told = False
        self.head = head
        self.body = b""
        route = row.route
        route.who.check_role(who, head.what)
        self._path = row.typed(found.texts) if found.path is None else found.path
        self._query = parse_query(head.query, route.query)
        if row.decoder is not None:
            check_media(head)
        elif head.length != 0:
            raise Problem("bad-request", f"{route.method} {route.path} takes no body")

    def field(self, name: str) -> str | None:
        """A field of the header."""
        return self.head.fields.get(name.lower())

    async def answer(self, body: bytes) -> Answer:
        self.body = body
        row = self._row
        try:
            result = await self._carried_out(row, body)
            if row.status == 204:
                answer = Answer(204, row.start)
            else:
                known = row.plain or isinstance(result, Relayed)
                data = result if known else _ENCODER.encode(result)
                answer = Answer(row.status, row.start, data)
        except Problem as problem:
            answer = answer_problem(problem)
        except Exception as error:
            answer = answer_problem(unexpected(error, self.head.method, self.head.path))
        finally:
            self.leave()
        self._tell(answer)
        return answer

    async def _carried_out(self, row: Row, body: bytes) -> Any:
        route = row.route
        value = None if row.decoder is None else decode(body, row.decoder)
        route.who.check_scope(self._caller, self.head.what, self._path, self._query, value)
        callers.enter(self._caller)
        call = Call(self._path, self._query, value)
        return await self._app.deliver(route, self._app.service, call, self)

    def leave(self) -> None:
        self._app.inside -= 1

    @property
    def vain(self) -> bool:
        return self._row.route.method == "GET"

    def overdue(self, *, arrived: bool) -> Answer:
        answer = answer_problem(self._too_slow(arrived))
        self._tell(answer)
        return answer

    def _too_slow(self, arrived: bool) -> Problem:
        what, seconds = self.head.what, self._app.limits.timeout
        if not arrived:
            return Problem("too-slow", f"{what}: the body did not arrive within {seconds:g} s")
        why = f"{what}: not done within {seconds:g} s"
        if self._row.route.method == "GET":
            return Problem("unavailable", why, do="ask again", retry_after=1)
        return Problem("outcome-unknown", why, do="look whether it was done before you repeat it")

    def _tell(self, answer: Answer) -> None:
        """Counts the request, once."""
        if not self._told:
            self._told = True
            route = self._row.route
            seconds = perf_counter() - self._began
            self._app.observe(route.method, route.path, answer.status, seconds, answer.code)


Deliver = Callable[[Route[Any], Any, Call, Request], Awaitable[Any]]
"""How a request reaches what carries it out: by default the row's own `call`."""


async def call_here(route: Route[Any], service: Any, call: Call, request: Request) -> Any:
    return await route.call(service, call)


class _Application:
    """See `application`. `inside`: requests in work."""

    def __init__(
        self, table: Table, service: Any, limits: Limits, observe: Observe, deliver: Deliver
    ) -> None:
        self._table = table
        self.service = service
        self.limits = limits
        self.observe = observe
        self.deliver = deliver
        self.inside = 0

    def admit(self, head: Head, who: Callable[[], Caller]) -> Request | Answer:
        found = self._table.find(head.method, head.path)
        row = found.row
        if row is None:
            return self._nowhere(head, found.allowed)
        try:
            if self.inside >= self.limits.concurrent and not row.route.always:
                raise Problem(
                    "busy", f"{self.inside} requests are in work", do="ask again", retry_after=1
                )
            request = Request(self, row, found, head, _caller(head, who()))
        except Problem as problem:
            answer = answer_problem(problem)
            self.observe(row.route.method, row.route.path, answer.status, 0.0, answer.code)
            return answer
        self.inside += 1
        return request

    def refuse(self, problem: Problem) -> Answer:
        return self._counted(answer_problem(problem))

    def _nowhere(self, head: Head, allowed: str) -> Answer:
        if not allowed:
            return self.refuse(Problem("not-found", f"{head.what}: there is no such resource"))
        why = f"{head.what}: the resource does not take it"
        problem = Problem("method-not-allowed", why, do=f"use {allowed}")
        return self._counted(answer_problem(problem, Allow=allowed))

    def _counted(self, answer: Answer) -> Answer:
        self.observe("other", "none", answer.status, 0.0, answer.code)
        return answer


def application(
    routes: Sequence[Route[S]],
    service: S,
    parameters: Mapping[str, Any],
    limits: Limits,
    observe: Observe,
    deliver: Deliver = call_here,
) -> _Application:
    """The application of a table; `parameters` are the types of path parameters by name."""
    return _Application(Table(routes, parameters), service, limits, observe, deliver)


def _caller(head: Head, caller: Caller) -> Caller:
    """Who asks: the other end of the connection, or whom a server passes the request on for."""
    said = head.fields.get(_CALLER)
    if said is None:
        return caller
    if caller.role not in ("server", "local"):
        raise Problem(
            "forbidden",
            f"{caller} may not speak for somebody else: the header {callers.HEADER} is for"
            " servers alone",
            do="ask without it",
        )
    return Caller.decode(said)


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
