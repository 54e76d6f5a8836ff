"""The first door: what nodes, controllers, people and the cluster's other servers may ask.

One row for each method and path, with whom it lets in. What only the leader can do is passed on to
it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from federation.server import operations
from federation.server.metrics import CONTENT_TYPE, Metrics
from federation.server.place import record_of
from federation.server.service import Service
from federation.server.status import status_of
from netspace import callers
from netspace import messages as m
from netspace.callers import Role, Who
from netspace.http_application import Request, application
from netspace.http_client import HttpClient
from netspace.http_routes import Call, Relayed, Route
from netspace.http_work import Application, Limits
from netspace.messages.federating import (
    Certificate,
    CertificateRequest,
    ChangeFederation,
    Departure,
    FederationDetails,
    FederationName,
    FederationsStatus,
    Joined,
    JoinFederation,
    Joining,
    NewFederation,
    NewToken,
    ServedCluster,
    Signing,
    Token,
    Witness,
)
from netspace.messages.federation import NodeWord
from netspace.messages.federation_trials import Id, NewTrial, NodeTrial, Orders, TrialReport
from netspace.passing import PASSED_ON
from netspace.problems import Problem, invalid

MOST_PATIENT: Final = 25.0
"""Seconds that somebody may let itself be kept waiting."""

PARAMETERS: Final[dict[str, Any]] = {
    "cluster": m.Name,
    "federation": FederationName,
    "node": m.NodeName,
    "member": m.Name,
    "trial": Id,
}
"""The types of the parameters in paths."""


class ViewQuery(msgspec.Struct, kw_only=True):
    """`after` which number there must be another one, and how many seconds to `wait` for it."""

    after: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    wait: Annotated[float, Meta(ge=0, le=MOST_PATIENT)] = 20.0


class ForceQuery(msgspec.Struct, kw_only=True):
    """Whether to go on in spite of others."""

    force: bool = False


class TrialQuery(msgspec.Struct, kw_only=True):
    """The member that a server asks for; empty: for its own people."""

    asker: m.Name | Literal[""] = ""


class Backend:
    """What the routes reach. The service begins once the sockets are the server's own."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self._service: Service | None = None

    @property
    def service(self) -> Service:
        """`Problem` state-unavailable as long as there is none."""
        if self._service is None:
            raise Problem("state-unavailable", "the server is starting", retry_after=1)
        return self._service

    @service.setter
    def service(self, service: Service) -> None:
        self._service = service


def make_application(backend: Backend, limits: Limits) -> Application:
    """What is asked at the first door."""
    return application(ROUTES, backend, PARAMETERS, limits, backend.metrics.observe, _deliver)


async def _deliver(route: Route[Backend], backend: Backend, call: Call, request: Request) -> Any:
    """Carries a request out, here or where the leader is if only the leader can."""
    cluster = call.path.get("cluster")
    if cluster is not None:
        own = backend.service.place.cluster
        if cluster != own:
            why = f"this is a server of cluster {own}, not of {cluster}"
            raise Problem("not-found", why, do=f"ask for {own}")
    if route.path in LOCAL_PATHS or (route.method == "GET" and route.path not in LEADERS):
        return await route.call(backend, call)
    if request.field(PASSED_ON) is not None:
        return await route.call(backend, call)
    service = backend.service

    async def there(client: HttpClient) -> Relayed:
        return await passed_on(service, client, route.method, request, repeat=route.repeat)

    return await service.led(lambda: route.call(backend, call), there, repeat=route.repeat)


async def passed_on(
    service: Service, client: HttpClient, method: str, request: Request, *, repeat: bool
) -> Relayed:
    """What another server answers to the same request."""
    headers = ((PASSED_ON, service.me.name), (callers.HEADER, callers.current().encode()))
    answer = await client.request(
        method, request.head.target, request.body, repeat=repeat, headers=headers
    )
    return Relayed(answer)


async def _view(b: Backend, c: Call) -> bytes:
    service = b.service
    found = await service.views.view(c.query.after, c.query.wait)
    if found is not None:
        return found
    if service.leading:
        return service.views.latest()
    # Another server has told more than this one knows: it is behind, or the state was set back.
    endpoint = service.elsewhere()
    if endpoint is None:
        raise Problem("unavailable", "no server leads the cluster", retry_after=1)
    target = f"/v1/clusters/{service.place.cluster}/federation-view?after=0&wait=0"
    return await service.place.client(endpoint).request("GET", target)


async def _packed_view(b: Backend, c: Call) -> bytes:
    return b.service.views.packed(await _view(b, c))


async def _word(b: Backend, c: Call) -> Orders:
    if c.body.node.name != c.path["node"]:
        raise invalid("node.name", f"{c.body.node.name} is not {c.path['node']}")
    return b.service.duty.say(c.body)


async def _tried(b: Backend, c: Call) -> None:
    node = c.path["node"]
    if c.body.node != node:
        raise invalid("node", f"{c.body.node} is not {node}")
    b.service.duty.trials.tell(node, c.path["trial"], c.body, time.monotonic())


async def _begin_trial(b: Backend, c: Call) -> TrialReport:
    return b.service.duty.trials.begin(c.path["federation"], c.body, time.monotonic())


async def _trial(b: Backend, c: Call) -> TrialReport:
    trials, asker = b.service.duty.trials, c.query.asker
    return trials.report(c.path["federation"], c.path["trial"], asker, time.monotonic())


async def _forget(b: Backend, c: Call) -> None:
    b.service.duty.forget(c.path["node"])


async def _certificate(b: Backend, c: Call) -> Certificate:
    place = b.service.place
    asked = Signing(kind="node", csr=c.body.csr, cluster=place.cluster, node=c.path["node"])
    return await b.service.identity.sign(c.path["federation"], asked)


async def _signature(b: Backend, c: Call) -> Certificate:
    place, name = b.service.place, c.path["federation"]
    signed = b.service.identity.sign_here(place.state, name, c.body)
    if signed is None:
        raise Problem("unavailable", f"this server has not the key of federation {name}")
    return signed


async def _cluster(b: Backend, c: Call) -> ServedCluster:
    config = b.service.place.config
    return ServedCluster(
        name=config.cluster, cni=config.cni, endpoints=config.federation.reached_at
    )


async def _federations(b: Backend, c: Call) -> m.Items[FederationDetails]:
    place = b.service.place
    records = [record for _, record in sorted(place.state.federations.items())]
    return m.Items(items=[operations.details(place, record) for record in records])


async def _federation(b: Backend, c: Call) -> FederationDetails:
    place = b.service.place
    return operations.details(place, record_of(place.state, c.path["federation"]))


async def _departure(b: Backend, c: Call) -> None:
    await operations.remove_member(b.service, c.path["federation"], c.body.member)


async def _witness(b: Backend, c: Call) -> None:
    await b.service.duty.restored(c.path["federation"], c.body.version, c.body.number)


async def _status(b: Backend, c: Call) -> FederationsStatus:
    return status_of(b.service)


async def _alive(b: Backend, c: Call) -> bytes:
    return b"ok\n"


async def _ready(b: Backend, c: Call) -> bytes:
    why = b.service.why_not_ready()
    if why:
        raise Problem("unavailable", why, retry_after=1)
    return b"ok\n"


async def _metrics(b: Backend, c: Call) -> bytes:
    return await b.metrics.exposition(b.service)


def _who(*roles: Role) -> Who:
    return Who(frozenset({"admin", *roles}))


_ANYBODY: Final = Who(None)
_CLUSTER: Final = _who("controller", "node", "server", "monitor")
_CONTROLLERS: Final = _who("controller")
_OWN_NODE: Final = Who(frozenset({"admin", "controller", "node"}), node="path")
_SERVERS: Final = Who(frozenset({"server"}))
_MONITORS: Final = _who("monitor", "server")
_STATUS: Final = _who("controller", "monitor", "server")
_TRYING: Final = _who("controller", "server")

_C: Final = "/v1/clusters/{cluster}"
_F: Final = f"{_C}/federations/{{federation}}"
_N: Final = f"{_C}/nodes/{{node}}/word"
_READ: Final = ("not-found", "state-unavailable")
_WRITE: Final = (
    "not-found", "exists", "in-use", "overlap", "owned", "no-space", "changed", "not-leader",
    "state-unavailable", "state-full", "outcome-unknown", "unavailable",
)  # fmt: skip

Handler = Callable[[Backend, Call], Awaitable[Any]]

# fmt: off
_ROWS: Final[tuple[Route[Backend], ...]] = (
    Route("GET", f"{_C}/federation-view",
          "All federations of the cluster, once they are others than those of a number",
          _view, answer=bytes, query=ViewQuery, problems=_READ, who=_CLUSTER),
    Route("GET", f"{_C}/federation-view/packed", "The same, compressed (RFC 1950)",
          _packed_view, answer=bytes, query=ViewQuery, media="application/zlib", problems=_READ,
          who=_CLUSTER),
    Route("PUT", _N, "What a node says of itself",
          _word, body=NodeWord, answer=Orders, problems=_WRITE, repeat=True, who=_OWN_NODE),
    Route("PUT", f"{_C}/nodes/{{node}}/trials/{{trial}}", "What a node found in a trial",
          _tried, body=NodeTrial, problems=_WRITE, repeat=True, who=_OWN_NODE),
    Route("DELETE", _N, "The node is part of no federation until it speaks again",
          _forget, problems=_WRITE, repeat=True, who=_OWN_NODE),
    Route("POST", f"{_F}/nodes/{{node}}/certificate", "A certificate for a node's own key",
          _certificate, body=CertificateRequest, answer=Certificate, problems=_WRITE,
          repeat=True, who=_OWN_NODE),
    Route("GET", "/v1/cluster", "The cluster that the server is of",
          _cluster, answer=ServedCluster, problems=_READ, who=_CLUSTER),
    Route("GET", f"{_C}/federations", "The federations that the cluster is in",
          _federations, answer=m.Items[FederationDetails], problems=_READ, who=_STATUS),
    Route("POST", f"{_C}/federations", "Found a federation",
          lambda b, c: operations.found(b.service, c.body),
          body=NewFederation, answer=FederationDetails, status=201, problems=_WRITE,
          who=_CONTROLLERS),
    Route("POST", f"{_C}/federation-joins", "Join a federation by a token",
          lambda b, c: operations.join(b.service, c.body),
          body=JoinFederation, answer=FederationDetails, status=201, problems=_WRITE,
          who=_CONTROLLERS),
    Route("GET", _F, "One federation",
          _federation, answer=FederationDetails, problems=_READ, who=_STATUS),
    Route("PATCH", _F, "Change what the cluster brings in; at the founder also pairs and settings",
          lambda b, c: operations.change(b.service, c.path["federation"], c.body),
          body=ChangeFederation, answer=FederationDetails, problems=_WRITE, repeat=True,
          who=_CONTROLLERS),
    Route("DELETE", _F, "End a federation that the cluster has founded",
          lambda b, c: operations.delete(b.service, c.path["federation"], force=c.query.force),
          query=ForceQuery, problems=_WRITE, who=_CONTROLLERS),
    Route("POST", f"{_F}/tokens", "A token by which one cluster can join",
          lambda b, c: operations.token(b.service, c.path["federation"], c.body.lifetime),
          body=NewToken, answer=Token, status=201, problems=_WRITE, who=_CONTROLLERS),
    Route("DELETE", f"{_F}/members/{{member}}", "Put another member out",
          lambda b, c: operations.remove_member(
              b.service, c.path["federation"], c.path["member"]),
          answer=FederationDetails, problems=_WRITE, repeat=True, who=_CONTROLLERS),
    Route("DELETE", f"{_F}/membership", "Leave a federation",
          lambda b, c: operations.leave(b.service, c.path["federation"], force=c.query.force),
          query=ForceQuery, problems=_WRITE, who=_CONTROLLERS),
    Route("GET", f"{_C}/federation-status", "How the federations are, by the leader",
          _status, answer=FederationsStatus, problems=_READ, who=_STATUS),
    Route("POST", f"{_F}/trials", "Have nodes send real traffic to another member, and back",
          _begin_trial, body=NewTrial, answer=TrialReport, status=201, problems=_WRITE,
          who=_TRYING),
    Route("GET", f"{_F}/trials/{{trial}}", "A trial as it is now",
          _trial, answer=TrialReport, query=TrialQuery, problems=_READ, who=_TRYING),
    Route("POST", f"{_F}/signatures", "A signature by a server that has the key",
          _signature, body=Signing, answer=Certificate, problems=_WRITE, repeat=True,
          who=_SERVERS),
    Route("POST", f"{_F}/joinings", "Another cluster wants to become a member",
          lambda b, c: operations.joining(b.service, c.path["federation"], c.body),
          body=Joining, answer=Joined, problems=_WRITE, repeat=True, who=_SERVERS),
    Route("POST", f"{_F}/departures", "Another cluster leaves",
          _departure, body=Departure, problems=_WRITE, repeat=True, who=_SERVERS),
    Route("POST", f"{_F}/witnesses", "What another member has seen of this cluster",
          _witness, body=Witness, problems=_WRITE, repeat=True, who=_SERVERS),
    Route("GET", "/healthz", "Whether the process lives",
          _alive, answer=bytes, media="text/plain", always=True, who=_ANYBODY),
    Route("GET", "/readyz", "Whether the state was read and a server leads",
          _ready, answer=bytes, media="text/plain", problems=_READ, always=True,
          who=replace(_CLUSTER)),
    Route("GET", "/metrics", "Metrics in Prometheus' text format",
          _metrics, answer=bytes, media=CONTENT_TYPE, always=True, who=_MONITORS),
)
# fmt: on

ROUTES: Final = _ROWS
LEADERS: Final = frozenset({f"{_C}/federation-status", f"{_F}/trials/{{trial}}"})
"""What is read, and only the leader knows."""
LOCAL_PATHS: Final = frozenset({f"{_F}/signatures", f"{_F}/nodes/{{node}}/certificate"})
"""What any server carries out itself though it is no reading."""
