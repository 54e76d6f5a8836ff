"""What is asked of the controller itself: whether it lives, whether it is ready, its metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from kube_controller.metrics import CONTENT_TYPE, Metrics
from netspace.callers import Who
from netspace.http_application import application
from netspace.http_routes import Call, Route
from netspace.http_work import Application, Limits
from netspace.problems import Problem

LIMITS: Final = Limits(concurrent=100, connections=200, timeout=10.0)
_ANYBODY: Final = Who(None)


class Healthy(msgspec.Struct):
    """`leading`: this process works; else another one does."""

    leading: bool


@dataclass(frozen=True, slots=True)
class Signs:
    """`why_not_ready` is empty where the controller can do its work as soon as it leads."""

    metrics: Metrics
    leading: Callable[[], bool]
    why_not_ready: Callable[[], str]


async def _healthy(signs: Signs, call: Call) -> Healthy:
    return Healthy(leading=signs.leading())


async def _ready(signs: Signs, call: Call) -> Healthy:
    why = signs.why_not_ready()
    if why:
        raise Problem("unavailable", why, do="look into the controller's log")
    return Healthy(leading=signs.leading())


async def _metrics(signs: Signs, call: Call) -> bytes:
    return signs.metrics.exposition()


ROUTES: Final[list[Route[Signs]]] = [
    Route("GET", "/healthz", "It lives", _healthy, answer=Healthy, who=_ANYBODY, always=True),
    Route("GET", "/readyz", "It can work", _ready, answer=Healthy, who=_ANYBODY, always=True),
    Route(
        "GET", "/metrics", "Metrics", _metrics,
        answer=bytes, media=CONTENT_TYPE, who=_ANYBODY, always=True,
    ),
]  # fmt: skip


def make_application(signs: Signs) -> Application:
    """What the controller's own port serves."""
    return application(ROUTES, signs, {}, LIMITS, lambda *told: None)
