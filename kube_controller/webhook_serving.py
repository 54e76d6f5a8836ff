"""The validating webhook: Kubernetes' API asks it about objects with annotations of ours.

It asks the address server what pools there are, and remembers the answer for a moment. Whoever
asks need not say who it is: what is answered is no secret to who may apply the object. Source:
admission.k8s.io/v1, AdmissionReview,
https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import msgspec

from ipam_server.client import Client
from kube_controller.config import ControllerConfig
from kube_controller.webhook import Asked, Known, Verdict, judged, verdict
from netspace.callers import Who
from netspace.endpoints import Endpoint
from netspace.http_application import application
from netspace.http_routes import Call, Route
from netspace.http_server import HttpServer
from netspace.http_work import Application, Limits
from netspace.problems import Problem, invalid
from netspace.tls import Renewed, open_context

log = logging.getLogger(__name__)

LIMITS: Final = Limits(body=2**23, concurrent=100, connections=200, timeout=10.0)
"""An object has 1.5 MiB at most, and comes with what it was before."""
FRESH: Final = 2.0
"""Seconds for which the server's pools are believed."""
_ANYBODY: Final = Who(None)


class GroupKind(msgspec.Struct):
    kind: str


class AdmissionRequest(msgspec.Struct, rename="camel"):
    """What of it matters here. The name of a new object may be missing."""

    uid: str
    kind: GroupKind
    name: str = ""
    namespace: str = ""
    object: dict[str, Any] | None = None
    old_object: dict[str, Any] | None = None


class AdmissionReview(msgspec.Struct, rename="camel"):
    request: AdmissionRequest
    api_version: str = "admission.k8s.io/v1"


class Status(msgspec.Struct):
    """Of `Invalid` kubectl shows no message, but details that a webhook does not have."""

    message: str
    code: int = 403
    reason: str = "Forbidden"


class AdmissionResponse(msgspec.Struct, omit_defaults=True):
    uid: str
    allowed: bool
    status: Status | None = None
    warnings: list[str] = []


class Reviewed(msgspec.Struct, rename="camel"):
    response: AdmissionResponse
    api_version: str = "admission.k8s.io/v1"
    kind: str = "AdmissionReview"


class Alive(msgspec.Struct):
    """It answers."""

    cluster: str


class AskedQuery(msgspec.Struct):
    """How long the API waits, which is as it may be."""

    timeout: str = ""


class Webhook:
    """Judges by what the server has."""

    def __init__(
        self, cluster: str, client: Client, clock: Callable[[], float] = monotonic
    ) -> None:
        self.cluster = cluster
        self._client, self._clock = client, clock
        self._known: Known | None = None
        self._until = 0.0

    async def review(self, review: AdmissionReview) -> AdmissionResponse:
        request = review.request
        found = request.object or {}
        metadata = found.get("metadata")
        name = request.name or (metadata.get("name", "") if isinstance(metadata, dict) else "")
        asked = Asked(request.kind.kind, str(name), request.namespace, found, request.old_object)
        said = await self._said(asked) if judged(asked) else Verdict()
        if said.faults:
            log.info(
                "refused",
                extra={"kind": asked.kind, "namespace": asked.namespace, "faults": said.faults},
            )
        return AdmissionResponse(
            uid=request.uid,
            allowed=not said.faults,
            status=Status("; ".join(said.faults)) if said.faults else None,
            warnings=said.warnings,
        )

    async def _said(self, asked: Asked) -> Verdict:
        if self._known is not None and self._clock() < self._until:
            said = verdict(asked, self._known)
            if not said.faults:
                return said
        # A pool that was made a moment ago is not to be missed.
        return verdict(asked, await self._looked())

    async def _looked(self) -> Known | Problem:
        try:
            networks = await self._client.networks(self.cluster)
            pools = await self._client.pools(self.cluster)
        except Problem as problem:
            log.warning("the server did not answer", extra={"why": str(problem)})
            return problem
        self._known = Known(
            {network.name: network for network in networks}, {pool.name: pool for pool in pools}
        )
        self._until = self._clock() + FRESH
        return self._known


async def _validate(webhook: Webhook, call: Call) -> Reviewed:
    return Reviewed(await webhook.review(call.body))


async def _healthy(webhook: Webhook, call: Call) -> Alive:
    return Alive(webhook.cluster)


ROUTES: Final[list[Route[Webhook]]] = [
    Route(
        "POST", "/validate", "Whether annotations can be taken", _validate,
        body=AdmissionReview, answer=Reviewed, query=AskedQuery, who=_ANYBODY,
    ),
    Route("GET", "/healthz", "It lives", _healthy, answer=Alive, who=_ANYBODY, always=True),
]  # fmt: skip


def make_application(webhook: Webhook) -> Application:
    """What the webhook's port serves."""
    return application(ROUTES, webhook, {}, LIMITS, lambda *told: None)


async def run(config: ControllerConfig, stop: asyncio.Event) -> None:
    """Until `stop` is set. `Problem` where it cannot listen, or its section is missing."""
    section, server = config.webhook, config.server
    if section is None:
        raise invalid("webhook", "the configuration has no such section", do="add it")
    if server is None:
        raise invalid("server", "it is null, and the webhook asks what pools there are")
    tls = Renewed(section.tls, open_context)
    # The API waits for a few seconds only.
    timeout = min(server.timeout, 2.0)
    async with Client(server.endpoints, timeout, server.tls) as client:
        http = HttpServer(make_application(Webhook(config.cluster, client)), LIMITS, tls)
        try:
            await http.listen(Endpoint.parse(section.listen))
            log.info("listening", extra={"cluster": config.cluster, "listen": section.listen})
            await stop.wait()
        finally:
            await http.stop()
    log.info("stopped")
