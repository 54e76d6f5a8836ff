"""What an HTTP server's connections and its application know of each other; their limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from netspace.callers import Caller
from netspace.http_answers import Answer
from netspace.http_requests import Head
from netspace.problems import Problem


@dataclass(frozen=True, slots=True)
class Limits:
    """`body` and `header` (one line, or one field) in bytes, `concurrent` requests in work,
    `timeout` in seconds for a request from its header to its answer, and for taking the answer.
    `connections` at once; `arrival` in seconds for a handshake, and for a request's header; `idle`
    in seconds between two requests."""

    body: int = 2**20
    header: int = 8190
    concurrent: int = 20_000
    timeout: float = 30.0
    connections: int = 20_000
    arrival: float = 10.0
    idle: float = 300.0


class Work(Protocol):
    """A request that was let in. Whoever has it calls `leave` once, or awaits `answer`."""

    async def answer(self, body: bytes) -> Answer:
        """Carries it out. Raises nothing but `CancelledError`."""

    def leave(self) -> None:
        """It will not be carried out."""

    def overdue(self, *, arrived: bool) -> Answer:
        """What to answer since it is not done in time, or its body has not arrived."""

    @property
    def vain(self) -> bool:
        """Whether it need not go on when nobody waits for its answer."""


class Application(Protocol):
    """What connections bring their requests to."""

    def admit(self, head: Head, who: Callable[[], Caller]) -> Work | Answer:
        """Lets a request in by its header, or says why not."""

    def refuse(self, problem: Problem) -> Answer:
        """The answer to what is no request."""
