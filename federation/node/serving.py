"""What the agent is asked about itself: over its Unix socket by root, and its metrics over HTTP."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

import netspace
from federation.node import knowing, verifying
from federation.node.agent import Agent
from federation.node.findings import told
from federation.node.metrics import CONTENT_TYPE, Metrics
from netspace.callers import Who
from netspace.http_application import application
from netspace.http_routes import Call, Route
from netspace.http_work import Application, Limits
from netspace.messages.federation_node import (
    Diagnosis,
    FederationAgentStatus,
    Verification,
    VerifyPath,
)

LIMITS: Final = Limits(concurrent=20, connections=50, timeout=30.0)
_ANYBODY: Final = Who(None)


class Healthy(msgspec.Struct):
    """`view`: whether it knows what it should be."""

    view: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What the routes answer from."""

    agent: Agent
    metrics: Metrics


def status(agent: Agent) -> FederationAgentStatus:
    """The agent as it is now."""
    known, health = agent.known(), agent.health()
    heard, view = agent.watching.heard, known.view
    return FederationAgentStatus(
        version=netspace.__version__,
        pid=os.getpid(),
        since=agent.since.isoformat(timespec="seconds"),
        cluster=agent.config.cluster,
        node=agent.config.node,
        addresses=list(known.facts.addresses),
        ranges=list(known.facts.ranges),
        gateway=knowing.gateway(known, agent.config.node),
        cni=known.facts.cni,
        capabilities=sorted(known.ability.can),
        server=agent.watching.why,
        word=agent.speaker.why,
        view=None if view is None else view.number,
        view_age=round(time.time() - heard, 3) if heard else None,
        federations=knowing.federations(known, health, agent.certificates.credentials),
        parts=[knowing.part_status(each, agent.desired) for each in agent.plane.keepers.values()],
        findings=told(agent.findings()),
        probes_answered=agent.tracking.responder.answered,
        memory_mib=round(_memory() / 2**20, 1),
    )


async def _status(asked: Asked, call: Call) -> FederationAgentStatus:
    return status(asked.agent)


async def _diagnosis(asked: Asked, call: Call) -> Diagnosis:
    return Diagnosis(findings=told(asked.agent.findings()))


async def _verification(asked: Asked, call: Call) -> Verification:
    wanted: VerifyPath = call.body
    return await verifying.verify(asked.agent.known(), wanted, asked.agent.part_faults())


async def _healthy(asked: Asked, call: Call) -> Healthy:
    return Healthy(view=asked.agent.watching.view is not None)


async def _metrics(asked: Asked, call: Call) -> bytes:
    return asked.metrics.exposition()


_SIGNS: Final[list[Route[Asked]]] = [
    Route("GET", "/healthz", "It lives", _healthy, answer=Healthy, who=_ANYBODY, always=True),
    Route(
        "GET", "/metrics", "Metrics", _metrics,
        answer=bytes, media=CONTENT_TYPE, who=_ANYBODY, always=True,
    ),
]  # fmt: skip

_QUESTIONS: Final[list[Route[Asked]]] = [
    Route("GET", "/v1/status", "The agent now", _status, answer=FederationAgentStatus),
    Route("GET", "/v1/diagnosis", "What is wrong", _diagnosis, answer=Diagnosis),
    Route(
        "POST", "/v1/verification", "Real traffic over paths", _verification,
        body=VerifyPath, answer=Verification, repeat=True,
    ),
]  # fmt: skip


def for_root(asked: Asked) -> Application:
    """What the agent's own socket serves."""
    return application([*_SIGNS, *_QUESTIONS], asked, {}, LIMITS, lambda *told: None)


def for_monitors(asked: Asked) -> Application:
    """What its address for metrics serves."""
    return application(_SIGNS, asked, {}, LIMITS, lambda *told: None)


def _memory() -> int:
    """Bytes of memory that are this process's now (proc(5), statm)."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
