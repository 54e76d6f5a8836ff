"""How the client asks: endpoints held open, targets quoted, answers decoded."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from netspace.http_client import HttpClient
from netspace.problems import Problem, invalid
from netspace.tls import Tls

A = TypeVar("A")


class Asking:
    """The servers behind `endpoints`; see the clients made of it."""

    def __init__(
        self, endpoints: Sequence[str], timeout: float = 10.0, tls: Tls | None = None
    ) -> None:
        self._http = HttpClient(endpoints, timeout, tls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.close()

    async def _ask(
        self,
        method: str,
        target: str,
        answer: type[A],
        body: msgspec.Struct | None = None,
        *,
        repeat: bool = False,
    ) -> A:
        data = b"" if body is None else msgspec.json.encode(body)
        got = await self._http.request(method, target, data, repeat=repeat)
        try:
            return msgspec.json.decode(got, type=answer)
        except msgspec.DecodeError as error:
            raise unexpected(f"{method} {target.partition('?')[0]}", error) from None


def unexpected(what: str, error: Exception) -> Problem:
    """The problem of an answer that is no answer to `what`."""
    return Problem(
        "internal",
        f"{what}: the answer is not as expected: {error}",
        do="check that it is the server meant, and not older than this program",
    )


def path(*parts: str) -> str:
    """The target below /v1. A part that a server could take for a step up or for nothing would
    name another thing: it never leaves."""
    for part in parts:
        if part in ("", ".", ".."):
            raise invalid("name", f"{part!r} cannot name anything")
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def query(**values: str | None) -> str:
    """What stands behind the path, from the values that are given."""
    given = {key: value for key, value in values.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""
