"""The HTTP API: one row for each method and path, and what it calls.

Handlers, checks of input and the OpenAPI document all come from this table.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

import netspace
from ipam_server import batching, metrics, openapi, roles
from ipam_server.directory import Directory
from ipam_server.service import ClusterService
from ipam_server.views import AddressFilter
from netspace import callers, names, upkeep
from netspace import messages as m
from netspace.batches import (
    AllocationAnswers,
    AllocationBatch,
    Batch,
    ReleaseAnswers,
    ReleaseBatch,
)
from netspace.http_application import Request, application
from netspace.http_client import HttpClient
from netspace.http_routes import Call, Relayed, Route
from netspace.http_work import Application, Limits
from netspace.kubernetes import Fencing, NamespaceDefault, NodeFencing, SetNamespace
from netspace.passing import PASSED_ON
from netspace.problems import Problem, invalid

MAX_PAGE: Final = 1000
"""Entries in a page of addresses."""

PARAMETERS: Final[dict[str, Any]] = {
    "cluster": m.Name,
    "fabric": m.Name,
    "network": m.Name,
    "pool": m.Name,
    "node": m.NodeName,
    "namespace": m.Namespace,
    "address": m.Address,
    "container": Annotated[str, Meta(pattern=names.CONTAINER)],
    "ifname": Annotated[str, Meta(pattern=names.IFNAME)],
}
"""The types of the parameters in paths."""


class AddressQuery(msgspec.Struct, kw_only=True):
    """Filters, and the page: at most `limit` entries behind `after`, the `next` of the last."""

    network: m.Name | UnsetType = UNSET
    pool: m.Name | UnsetType = UNSET
    namespace: m.Namespace | UnsetType = UNSET
    pod: Annotated[str, Meta(pattern=names.POD)] | UnsetType = UNSET
    node: m.NodeName | UnsetType = UNSET
    state: Literal["used", "reserved", "cooling", "retained", "free"] | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 500
    after: Annotated[str, Meta(max_length=300)] | UnsetType = UNSET


class PageQuery(msgspec.Struct, kw_only=True):
    """At most `limit` entries behind `after`, the `next` of the last page."""

    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 500
    after: Annotated[str, Meta(pattern=names.AUDITED)] | UnsetType = UNSET


class RunQuery(msgspec.Struct, kw_only=True):
    """What is under way and is waited for; without it, it begins."""

    run: Annotated[str, Meta(pattern=r"^[0-9a-f]{1,64}$")] | UnsetType = UNSET


class OwnerQuery(msgspec.Struct, kw_only=True):
    """On whose behalf a thing is deleted; people's without it."""

    owner: m.Owner | UnsetType = UNSET


class NetworkQuery(msgspec.Struct, kw_only=True):
    """Which network, where several have the address."""

    network: m.Name | UnsetType = UNSET


class Backend:
    """What the routes reach. The directory is opened once the sockets are the server's own."""

    def __init__(self) -> None:
        self.metrics = metrics.Metrics()
        self.directory: Directory | None = None

    def open(self) -> Directory:
        """The directory; `Problem` state-unavailable as long as there is none."""
        if self.directory is None:
            raise Problem("state-unavailable", "the server is starting", retry_after=1)
        return self.directory

    def cluster(self, call: Call) -> ClusterService:
        return self.open().cluster(call.path["cluster"])


def make_application(backend: Backend, limits: Limits) -> Application:
    """The server's application."""
    return application(ROUTES, backend, PARAMETERS, limits, backend.metrics.observe, _deliver)


async def _deliver(route: Route[Backend], backend: Backend, call: Call, request: Request) -> Any:
    """Carries a request out, if it is a batch only where all of its items find room."""
    if not isinstance(call.body, Batch):
        return await _carry_out(route, backend, call, request)
    with backend.open().room.entered(len(call.body.items)) as fits:
        if not fits:
            return batching.busy(call.body)
        return await _carry_out(route, backend, call, request)


async def _carry_out(route: Route[Backend], backend: Backend, call: Call, request: Request) -> Any:
    """Here, or where the cluster's leader is if only a leader can."""
    if not _leaders(route) or request.field(PASSED_ON) is not None:
        return await route.call(backend, call)
    directory = backend.open()

    async def there(client: HttpClient) -> Relayed:
        headers = (
            (PASSED_ON, directory.server),
            (callers.HEADER, callers.current().encode()),
        )
        answer = await client.request(
            route.method, request.head.target, request.body, repeat=route.repeat, headers=headers
        )
        return Relayed(answer)

    return await directory.peers.lead(
        backend.cluster(call), lambda: route.call(backend, call), there, repeat=route.repeat
    )


def _leaders(route: Route[Backend]) -> bool:
    """Whether only the cluster's leader can answer: it writes, or must not miss what was just
    written."""
    return "cluster" in route.parameters and (route.method != "GET" or route.call is _held)


def describe() -> dict[str, Any]:
    """The OpenAPI document."""
    return openapi.document(ROUTES, PARAMETERS, "Netspace IPAM server", netspace.__version__)


def why_not_ready(status: m.Status) -> str:
    """What is missing until every cluster can be served; empty if nothing. A leader of this
    server's own name that is not this process is its past: its lease has yet to end."""
    reasons = []
    for cluster in status.clusters:
        if cluster.leader is None:
            reasons.append(f"cluster {cluster.name} has no leader")
        elif cluster.leader == status.server and not cluster.leading:
            reasons.append(f"cluster {cluster.name} waits for this server's earlier term to end")
    if not status.ready:
        reasons += [member.error for member in status.store if member.error]
    if not status.ready and not reasons:
        reasons.append("the clusters have not been read yet")
    return "; ".join(reasons)


async def _own(backend: Backend, call: Call) -> m.ServerStatus:
    return backend.open().own_status()


async def _alive(backend: Backend, call: Call) -> bytes:
    return b"ok\n"


async def _ready(backend: Backend, call: Call) -> bytes:
    why = why_not_ready(await backend.open().status())
    if why:
        raise Problem("unavailable", f"the server is not ready: {why}", retry_after=1)
    return b"ok\n"


async def _metrics(backend: Backend, call: Call) -> bytes:
    return await backend.metrics.exposition(backend.directory)


async def _openapi(backend: Backend, call: Call) -> bytes:
    return _document()


@functools.cache
def _document() -> bytes:
    return msgspec.json.encode(describe())


def _items(rows: Callable[[Backend, Call], Awaitable[list[Any]]]) -> Callable[..., Awaitable[Any]]:
    async def call(backend: Backend, call: Call) -> m.Items[Any]:
        return m.Items(items=await rows(backend, call))

    return call


def _given(value: Any) -> Any:
    return None if value is UNSET else value


async def _addresses(backend: Backend, call: Call) -> m.AddressPage:
    query: AddressQuery = call.query
    wanted = AddressFilter(
        network=_given(query.network),
        pool=_given(query.pool),
        namespace=_given(query.namespace),
        pod=_given(query.pod),
        node=_given(query.node),
        state=_given(query.state),
    )
    return await backend.cluster(call).addresses(wanted, query.limit, _given(query.after))


async def _held(backend: Backend, call: Call) -> m.Allocation:
    container, ifname = call.path["container"], call.path["ifname"]
    if not names.is_ifname(ifname):
        raise invalid(f"ifname {ifname!r} in the path", "it is longer than 15 bytes")
    return await backend.cluster(call).held(m.AttachmentId(container=container, ifname=ifname))


_ANY = ("not-leader", "state-unavailable")
_READ = ("not-found", *_ANY)
_WRITE = ("not-found", "changed", "state-full", *_ANY)
_CARVE = ("overlap", "no-space", "in-use", "owned", *_WRITE)
_ALLOCATE = (
    "pool-unknown",
    "pool-forbidden",
    "pool-missing",
    "pool-exhausted",
    "pool-cooling",
    "address-taken",
    "address-cooling",
    "address-held",
    "address-unusable",
    "family-missing",
    "claim-released",
    *_WRITE,
)
_C = "/v1/clusters/{cluster}"

# fmt: off
_ROWS: Final[tuple[Route[Backend], ...]] = (
    Route("POST", f"{_C}/allocations",
          "Give an attachment a slot; asked again with the same claim, the same slot",
          lambda b, c: b.cluster(c).allocate(c.body),
          body=m.AllocateRequest, answer=m.Allocation, problems=_ALLOCATE, repeat=True),
    Route("POST", f"{_C}/releases",
          "Take an attachment's slot back; done already is success",
          lambda b, c: b.cluster(c).release(c.body),
          body=m.ReleaseRequest, answer=m.Released, problems=_WRITE, repeat=True),
    Route("POST", f"{_C}/allocation-batches",
          "Allocate for many attachments; each item is answered as it would be alone",
          lambda b, c: b.cluster(c).allocate_batch(c.body),
          body=AllocationBatch, answer=AllocationAnswers, problems=_READ, repeat=True),
    Route("POST", f"{_C}/release-batches",
          "Release for many attachments; each item is answered as it would be alone",
          lambda b, c: b.cluster(c).release_batch(c.body),
          body=ReleaseBatch, answer=ReleaseAnswers, problems=_READ, repeat=True),
    Route("GET", f"{_C}/attachments/{{container}}/{{ifname}}",
          "What an attachment holds",
          _held, answer=m.Allocation, problems=_READ),
    Route("GET", f"{_C}/networks",
          "All networks",
          _items(lambda b, c: b.cluster(c).networks()), answer=m.Items[m.Network], problems=_READ),
    Route("POST", f"{_C}/networks",
          "Declare a network",
          lambda b, c: b.cluster(c).create_network(c.body),
          body=m.NewNetwork, answer=m.Network, status=201, problems=("exists", *_CARVE)),
    Route("GET", f"{_C}/networks/{{network}}",
          "One network",
          lambda b, c: b.cluster(c).network(c.path["network"]), answer=m.Network, problems=_READ),
    Route("PATCH", f"{_C}/networks/{{network}}",
          "Change what may change of a network",
          lambda b, c: b.cluster(c).change_network(c.path["network"], c.body),
          body=m.ChangeNetwork, answer=m.Network, problems=_CARVE),
    Route("DELETE", f"{_C}/networks/{{network}}",
          "Delete a network without pools",
          lambda b, c: b.cluster(c).delete_network(c.path["network"], _given(c.query.owner)),
          query=OwnerQuery, problems=("in-use", "owned", *_WRITE)),
    Route("PUT", f"{_C}/networks/{{network}}/owner",
          "Hand a network over to people or to the cluster's Kubernetes",
          lambda b, c: b.cluster(c).hand_over_network(c.path["network"], c.body.owner),
          body=m.HandOver, answer=m.Network, problems=_WRITE, repeat=True),
    Route("GET", f"{_C}/pools",
          "All pools",
          _items(lambda b, c: b.cluster(c).pools()), answer=m.Items[m.Pool], problems=_READ),
    Route("POST", f"{_C}/pools",
          "Carve a pool",
          lambda b, c: b.cluster(c).create_pool(c.body),
          body=m.NewPool, answer=m.Pool, status=201, problems=("exists", *_CARVE)),
    Route("GET", f"{_C}/pools/{{pool}}",
          "One pool",
          lambda b, c: b.cluster(c).pool(c.path["pool"]), answer=m.Pool, problems=_READ),
    Route("PATCH", f"{_C}/pools/{{pool}}",
          "Change a pool's namespaces, cool-down, retention or bounds",
          lambda b, c: b.cluster(c).change_pool(c.path["pool"], c.body),
          body=m.ChangePool, answer=m.Pool, problems=("owned", *_WRITE)),
    Route("DELETE", f"{_C}/pools/{{pool}}",
          "Delete a pool that nobody uses",
          lambda b, c: b.cluster(c).delete_pool(c.path["pool"], _given(c.query.owner)),
          query=OwnerQuery, problems=("in-use", "owned", *_WRITE)),
    Route("PUT", f"{_C}/pools/{{pool}}/owner",
          "Hand a pool over to people or to the cluster's Kubernetes",
          lambda b, c: b.cluster(c).hand_over_pool(c.path["pool"], c.body.owner),
          body=m.HandOver, answer=m.Pool, problems=_WRITE, repeat=True),
    Route("POST", f"{_C}/pools/{{pool}}/grow",
          "Add addresses to a pool",
          lambda b, c: b.cluster(c).grow_pool(c.path["pool"], c.body),
          body=m.ResizePool, answer=m.Pool, problems=_CARVE),
    Route("POST", f"{_C}/pools/{{pool}}/shrink",
          "Take unused addresses from a pool",
          lambda b, c: b.cluster(c).shrink_pool(c.path["pool"], c.body),
          body=m.ResizePool, answer=m.Pool, problems=_CARVE),
    Route("GET", f"{_C}/addresses",
          "Addresses that are or were somebody's, page by page",
          _addresses, query=AddressQuery, answer=m.AddressPage, problems=_READ),
    Route("GET", f"{_C}/addresses/{{address}}",
          "One address, whatever its state",
          lambda b, c: b.cluster(c).address(c.path["address"], _given(c.query.network)),
          query=NetworkQuery, answer=m.AddressEntry, problems=_READ),
    Route("GET", f"{_C}/addresses/{{address}}/history",
          "Who holds an address and who held it before",
          lambda b, c: b.cluster(c).address_history(c.path["address"], _given(c.query.network)),
          query=NetworkQuery, answer=m.AddressHistory, problems=_READ),
    Route("POST", f"{_C}/reservations",
          "Take an address out of use for something that is no pod",
          lambda b, c: b.cluster(c).reserve(c.body),
          body=m.Reserve, answer=m.AddressEntry, status=201,
          problems=("address-taken", "address-unusable", *_WRITE)),
    Route("DELETE", f"{_C}/reservations/{{address}}",
          "End a reservation",
          lambda b, c: b.cluster(c).unreserve(c.path["address"], _given(c.query.network)),
          query=NetworkQuery, problems=_WRITE),
    Route("POST", f"{_C}/operator-releases",
          "Release an address on an admin's word that its holder is gone",
          lambda b, c: b.cluster(c).operator_release(c.body),
          body=m.OperatorRelease, answer=m.Released, problems=_WRITE),
    Route("GET", f"{_C}/nodes",
          "All nodes that reported or hold addresses",
          _items(lambda b, c: b.cluster(c).nodes()), answer=m.Items[m.Node], problems=_READ),
    Route("GET", f"{_C}/nodes/{{node}}",
          "One node",
          lambda b, c: b.cluster(c).node(c.path["node"]), answer=m.Node, problems=_READ),
    Route("PUT", f"{_C}/nodes/{{node}}",
          "What a node says of itself",
          lambda b, c: b.cluster(c).report_node(c.path["node"], c.body),
          body=m.NodeReport, answer=m.Node, problems=_WRITE, repeat=True),
    Route("DELETE", f"{_C}/nodes/{{node}}",
          "Forget a node that is gone for good, and free its vmacs",
          lambda b, c: b.cluster(c).forget_node(c.path["node"]), problems=("in-use", *_WRITE)),
    Route("PUT", f"{_C}/nodes/{{node}}/vmacs/{{network}}",
          "The slot of a node's own interface on a network; asked again, the same slot",
          lambda b, c: b.cluster(c).vmac(c.path["network"], c.path["node"]),
          answer=m.Vmac, problems=("no-space", *_WRITE), repeat=True),
    Route("DELETE", f"{_C}/nodes/{{node}}/vmacs/{{network}}",
          "Free that slot; done already is success",
          lambda b, c: b.cluster(c).free_vmac(c.path["network"], c.path["node"]),
          problems=_WRITE, repeat=True),
    Route("GET", f"{_C}/nodes/{{node}}/fencing",
          "What Kubernetes has said of a fenced node",
          lambda b, c: b.cluster(c).fencing(c.path["node"]), answer=NodeFencing, problems=_READ),
    Route("PUT", f"{_C}/nodes/{{node}}/fencing",
          "Kubernetes' word that a node is fenced, and which of its pods are gone",
          lambda b, c: b.cluster(c).fence(c.path["node"], c.body),
          body=Fencing, answer=NodeFencing, problems=_WRITE, repeat=True),
    Route("DELETE", f"{_C}/nodes/{{node}}/fencing",
          "The node is fenced no more; one that was not is success",
          lambda b, c: b.cluster(c).unfence(c.path["node"]), problems=_WRITE, repeat=True),
    Route("GET", f"{_C}/namespaces",
          "All namespaces that choose something by default",
          _items(lambda b, c: b.cluster(c).namespaces()),
          answer=m.Items[NamespaceDefault], problems=_READ),
    Route("PUT", f"{_C}/namespaces/{{namespace}}",
          "What a namespace's pods choose where they choose nothing",
          lambda b, c: b.cluster(c).set_namespace(c.path["namespace"], c.body),
          body=SetNamespace, answer=NamespaceDefault, problems=_WRITE, repeat=True),
    Route("DELETE", f"{_C}/namespaces/{{namespace}}",
          "The namespace chooses nothing; done already is success",
          lambda b, c: b.cluster(c).unset_namespace(c.path["namespace"]),
          problems=_WRITE, repeat=True),
    Route("GET", "/v1/clusters",
          "All clusters",
          _items(lambda b, c: b.open().clusters()), answer=m.Items[m.Cluster], problems=_ANY),
    Route("POST", "/v1/clusters",
          "Begin to look after a cluster",
          lambda b, c: b.open().create_cluster(c.body),
          body=m.NewCluster, answer=m.Cluster, status=201, problems=("exists", *_WRITE)),
    Route("GET", _C,
          "One cluster",
          lambda b, c: b.open().cluster_info(c.path["cluster"]), answer=m.Cluster, problems=_READ),
    Route("DELETE", _C,
          "Forget a cluster without networks",
          lambda b, c: b.open().delete_cluster(c.path["cluster"]), problems=("in-use", *_WRITE)),
    Route("GET", "/v1/fabrics",
          "All fabrics",
          _items(lambda b, c: b.open().fabrics()), answer=m.Items[m.Fabric], problems=_ANY),
    Route("POST", "/v1/fabrics",
          "Declare a fabric",
          lambda b, c: b.open().create_fabric(c.body),
          body=m.NewFabric, answer=m.Fabric, status=201, problems=("exists", *_WRITE)),
    Route("GET", "/v1/fabrics/{fabric}",
          "One fabric and the networks in it",
          lambda b, c: b.open().fabric(c.path["fabric"]), answer=m.Fabric, problems=_READ),
    Route("DELETE", "/v1/fabrics/{fabric}",
          "Delete a fabric without networks",
          lambda b, c: b.open().delete_fabric(c.path["fabric"]), problems=("in-use", *_WRITE)),
    Route("GET", f"{_C}/nodes/{{node}}/attachments",
          "What the cluster has of a node's attachments, and the revision to report by",
          lambda b, c: b.cluster(c).node_attachments(c.path["node"]),
          answer=upkeep.NodeAttachments, problems=_READ),
    Route("PUT", f"{_C}/nodes/{{node}}/attachments",
          "All live attachments of a node",
          lambda b, c: b.cluster(c).report_attachments(c.path["node"], c.body),
          body=upkeep.AttachmentsReport, answer=upkeep.NodeAttachments, problems=_WRITE,
          repeat=True),
    Route("GET", f"{_C}/reclaim",
          "The addresses whose pods were missed by their nodes, and what proof is lacking",
          lambda b, c: b.cluster(c).reclaimable(), answer=upkeep.Reclaimed, problems=_READ),
    Route("POST", f"{_C}/reclaim",
          "Free what is proved to be nobody's, now",
          lambda b, c: b.cluster(c).reclaim(), answer=upkeep.Reclaimed, problems=_WRITE,
          repeat=True),
    Route("GET", f"{_C}/inspection",
          "Everything in the stored state that is not as it must be; any server looks itself",
          lambda b, c: b.cluster(c).inspection(_given(c.query.run)),
          query=RunQuery, answer=upkeep.Inspection, problems=_READ),
    Route("POST", f"{_C}/inspection/repair",
          "Mend what an inspection finds and what can be mended safely",
          lambda b, c: b.cluster(c).repairing(_given(c.query.run)),
          query=RunQuery, answer=upkeep.Repair, problems=_WRITE, repeat=True),
    Route("GET", f"{_C}/audit",
          "What was changed in the cluster, by whom, oldest first",
          lambda b, c: b.cluster(c).audit(c.query.limit, _given(c.query.after)),
          query=PageQuery, answer=m.AuditPage, problems=_READ),
    Route("GET", "/v1/audit",
          "Clusters and fabrics made and deleted, by whom, oldest first",
          lambda b, c: b.open().audit(c.query.limit, _given(c.query.after)),
          query=PageQuery, answer=m.AuditPage, problems=_ANY),
    Route("GET", "/v1/server",
          "This server alone, by its own account",
          _own, answer=m.ServerStatus, problems=_ANY),
    Route("GET", "/v1/status",
          "The servers, their clusters and the state store",
          lambda b, c: b.open().status(), answer=m.Status, problems=_ANY),
    Route("GET", "/healthz",
          "Whether the process lives",
          _alive, answer=bytes, media="text/plain", always=True),
    Route("GET", "/readyz",
          "Whether the state store answers and every cluster has a leader",
          _ready, answer=bytes, media="text/plain", problems=_ANY, always=True),
    Route("GET", "/metrics",
          "Metrics in Prometheus' text format",
          _metrics, answer=bytes, media=metrics.CONTENT_TYPE, always=True),
    Route("GET", "/openapi.json",
          "This document",
          _openapi, answer=bytes, always=True),
)
# fmt: on

ROUTES: Final = tuple(replace(row, who=roles.who_may(row.method, row.path)) for row in _ROWS)
"""The table, with whom each row lets in."""
