"""An HTTP server's answers as the bytes that are sent: status, fields, body; problems too."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from netspace.problems import MEDIA_TYPE, Problem

SERVER: Final = "netspace"
"""The Server header: no versions for strangers."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
"""Said to whoever waits with the body until it is wanted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`start`: the first line and the fields that are known beforehand, from `start_of`. `code`: of
    the problem that it carries, for those who count; else empty."""

    status: int
    start: bytes
    body: bytes = b""
    code: str = ""

    def head(self, *, last: bool) -> bytes:
        """Everything up to the body; `last`: the connection ends with it."""
        # RFC 9110, section 8.6: 204 has no length.
        length = b"" if self.status == 204 else b"Content-Length: %d\r\n" % len(self.body)
        close = b"Connection: close\r\n" if last else b""
        return b"%bDate: %b\r\n%b%b\r\n" % (self.start, _date(int(time.time())), length, close)


def start_of(status: int, fields: dict[str, str]) -> bytes:
    """An answer's first line and its fields, all from our own hand, each with its CRLF."""
    said = {"Server": SERVER, **fields}
    lines = (f"{name}: {value}\r\n" for name, value in said.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{''.join(lines)}".encode("latin-1")


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode("ascii")


def answer_problem(problem: Problem, **fields: str) -> Answer:
    """The answer that carries the problem."""
    said = {"Content-Type": MEDIA_TYPE, **fields}
    if problem.retry_after is not None:
        said["Retry-After"] = str(max(1, math.ceil(problem.retry_after)))
    status = problem.kind.status
    return Answer(status, start_of(status, said), problem.encode(), problem.code)
