"""A table of routes: what each row takes and answers, and which row a request means.

A row's types are msgspec's: they check paths, queries and bodies and describe the same in OpenAPI.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any, Generic, TypeVar
from urllib.parse import unquote

import msgspec

from netspace.callers import ADMINS, Who
from netspace.http_answers import start_of
from netspace.http_inputs import JSON, parameter
from netspace.problems import Problem

KNOWN, SHORT = 1024, 256
"""Paths of which is remembered what they mean, and the characters of one at most."""

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


def common_problems(route: Route[S]) -> tuple[str, ...]:
    """The problems that any request of the route may end with."""
    codes = ["bad-request", "too-slow", "invalid", "internal", "busy", "forbidden"]
    if route.body is not None:
        codes.append("too-large")
    codes.append("unavailable" if route.method == "GET" else "outcome-unknown")
    return tuple(codes)


class Row:
    """A route with all that is the same for each of its requests: how a body is decoded, how an
    answer starts. `plain`: answers are bytes already."""

    __slots__ = ("decoder", "plain", "route", "start", "status", "types")

    def __init__(self, route: Route[Any], parameters: Mapping[str, Any]) -> None:
        self.route = route
        self.types = tuple((name, parameters[name]) for name in route.parameters)
        self.decoder = None if route.body is None else msgspec.json.Decoder(route.body)
        self.plain = route.answer is bytes
        self.status = route.success
        fields = {} if self.status == 204 else {"Content-Type": route.media}
        self.start = start_of(self.status, fields)

    def typed(self, texts: Sequence[str]) -> Mapping[str, Any]:
        """The path's parameters by name; `Problem` invalid."""
        given = zip(self.types, texts, strict=True)
        return MappingProxyType({name: parameter(name, text, kind) for (name, kind), text in given})


@dataclass(frozen=True, slots=True)
class Found:
    """What a method and a path mean. `row` None: `allowed` methods there are, empty if there is no
    such resource. `path`: the parameters, None where they are not of their types."""

    row: Row | None
    allowed: str = ""
    texts: tuple[str, ...] = ()
    path: Mapping[str, Any] | None = None


class Table:
    """All rows, and `find(method, path)`; `parameters` are the types of path parameters by name."""

    def __init__(self, routes: Sequence[Route[Any]], parameters: Mapping[str, Any]) -> None:
        self._resources: dict[tuple[str | None, ...], dict[str, Row]] = {}
        for route in routes:
            parts = route.path.split("/")
            form = tuple(None if part.startswith("{") else part for part in parts)
            self._resources.setdefault(form, {})[route.method] = Row(route, parameters)
        # What is spelled out comes before what is a parameter.
        self._forms = sorted(self._resources, key=lambda form: [part is None for part in form])
        self._known = lru_cache(maxsize=KNOWN)(self._look_up)

    def find(self, method: str, path: str) -> Found:
        return (self._known if len(path) <= SHORT else self._look_up)(method, path)

    def _look_up(self, method: str, path: str) -> Found:
        parts = path.split("/")
        form = next((form for form in self._forms if _fits(form, parts)), None)
        if form is None:
            return Found(None)
        rows = self._resources[form]
        row = rows.get(method)
        if row is None:
            return Found(None, ", ".join(sorted(rows)))
        given = zip(form, parts, strict=True)
        texts = tuple(unquote(part) for wanted, part in given if wanted is None)
        try:
            return Found(row, texts=texts, path=row.typed(texts))
        except Problem:
            return Found(row, texts=texts)


def _fits(form: tuple[str | None, ...], parts: list[str]) -> bool:
    return len(form) == len(parts) and all(
        bool(part) if wanted is None else wanted == part
        for wanted, part in zip(form, parts, strict=True)
    )
