"""Passing requests on to the server that leads: one hop and no further. While nobody leads, or the
leader is just giving up, it is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from netspace import http_client
from netspace.http_client import HttpClient
from netspace.problems import Problem

T = TypeVar("T")

LOOK: Final = 0.2
"""Seconds between two looks for a leader when nothing was heard."""

PASSED_ON: Final = "Netspace-Passed-On"
"""The header of a request that another server has passed on: it goes no further."""

ELSEWHERE: Final = frozenset({"not-leader", "unavailable"})
"""Problems after which the leader is looked for again: the request was surely not carried out."""


class Led(Protocol):
    """What one of several servers leads."""

    @property
    def leading(self) -> bool:
        """Whether this server does."""

    def elsewhere(self) -> str | None:
        """Where the server is that leads, as far as is known here; None: nobody, or this one."""

    async def moved(self, seconds: float) -> None:
        """Waits until something has changed here, at most so long."""


async def lead(
    service: Led,
    here: Callable[[], Awaitable[T]],
    there: Callable[[HttpClient], Awaitable[T]],
    *,
    to: Callable[[str], HttpClient],
    patience: float,
    repeat: bool,
) -> T:
    """Carries a request out here if this server leads, else where one does; `to` is the client for
    an endpoint, `patience` how many seconds a leader is waited for. `repeat`: it does the same
    however often it comes, so a lost answer may be asked for again. A refusal after a lost answer
    is none of the whole: whether the request was carried out is not known."""
    deadline = time.monotonic() + patience
    unknown = False
    while True:
        endpoint = None if service.leading else service.elsewhere()
        try:
            if endpoint is None:
                return await here()
            return await there(to(endpoint))
        except Problem as problem:
            lost = problem.code == "outcome-unknown"
            left = deadline - time.monotonic()
            if left <= 0 or not (problem.code in ELSEWHERE or (repeat and lost)):
                if unknown and problem.code in http_client.ELSEWHERE:
                    raise outcome_unknown() from problem
                raise
            unknown = unknown or lost
        await service.moved(min(LOOK, left))


def not_leader() -> Problem:
    return Problem(
        "not-leader", "this server does not lead the cluster now", do="try again", retry_after=1
    )


def outcome_unknown() -> Problem:
    return Problem(
        "outcome-unknown",
        "the state store did not answer in time whether the change was made",
        do="ask again: the same request gets the same answer",
        retry_after=1,
    )
