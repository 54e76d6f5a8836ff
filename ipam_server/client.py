"""The server's client: one coroutine for each row of the API, messages in and out.

What is sent again when its answer was lost is decided here. Allocations and releases are: the
server knows them by attachment and claim, a repeat finds what the first did and changes nothing,
and a claim that was released meanwhile stays dead. A node's report says what is, not what changes.
An admin's changes are not: a pool must not grow twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from netspace.asking import Asking, path, query, unexpected
from netspace.batches import (
    AllocationAnswers,
    AllocationBatch,
    ReleaseAnswers,
    ReleaseBatch,
    opened,
)
from netspace.kubernetes import Fencing, NamespaceDefault, NodeFencing, SetNamespace
from netspace.messages import (
    AddressEntry,
    AddressHistory,
    AddressPage,
    AllocateRequest,
    Allocation,
    AttachmentId,
    AuditPage,
    ChangeNetwork,
    ChangePool,
    Cluster,
    Fabric,
    HandOver,
    Items,
    Network,
    NewCluster,
    NewFabric,
    NewNetwork,
    NewPool,
    Node,
    NodeReport,
    OperatorRelease,
    Owner,
    Pool,
    Released,
    ReleaseRequest,
    Reserve,
    ResizePool,
    Selection,
    Status,
    Vmac,
)
from netspace.problems import Problem
from netspace.upkeep import AttachmentsReport, Inspection, NodeAttachments, Reclaimed, Repair

A = TypeVar("A")


class Client(Asking):
    """Asks the servers behind `endpoints` (`unix:///run/netspace/server.sock`,
    `https://10.0.0.5:8470` with `tls`, `http://127.0.0.1:8470`), each request within `timeout`
    seconds.

    Every coroutine raises `Problem`: the server's own, `unavailable` where none answers and nothing
    was changed, `outcome-unknown` where a change may have been made.
    """

    # Nodes ask these for pods.

    async def allocate(self, cluster: str, request: AllocateRequest) -> Allocation:
        target = path("clusters", cluster, "allocations")
        return await self._ask("POST", target, Allocation, request, repeat=True)

    async def release(self, cluster: str, request: ReleaseRequest) -> Released:
        target = path("clusters", cluster, "releases")
        return await self._ask("POST", target, Released, request, repeat=True)

    async def allocate_batch(
        self, cluster: str, requests: Sequence[AllocateRequest]
    ) -> list[Allocation | Problem]:
        """What each is answered, in their order; at most `batches.MAX_ITEMS`. A `Problem` that is
        raised is of all of them. An item's `Problem` is of the last time it was sent: where an
        answer was lost on the way, an earlier time may have done it. Whatever may pass by itself is
        asked again as it was: nothing is given twice."""
        target, body = (
            path("clusters", cluster, "allocation-batches"),
            AllocationBatch(items=[*requests]),
        )
        answer = await self._ask("POST", target, AllocationAnswers, body, repeat=True)
        return _opened(target, answer.items, Allocation, len(requests))

    async def release_batch(
        self, cluster: str, requests: Sequence[ReleaseRequest]
    ) -> list[Released | Problem]:
        """As `allocate_batch`."""
        target, body = path("clusters", cluster, "release-batches"), ReleaseBatch(items=[*requests])
        answer = await self._ask("POST", target, ReleaseAnswers, body, repeat=True)
        return _opened(target, answer.items, Released, len(requests))

    async def held(self, cluster: str, attachment: AttachmentId) -> Allocation:
        """What the attachment holds; `not-found` if nothing."""
        target = path("clusters", cluster, "attachments", attachment.container, attachment.ifname)
        return await self._ask("GET", target, Allocation)

    async def report_node(self, cluster: str, node: str, report: NodeReport) -> Node:
        target = path("clusters", cluster, "nodes", node)
        return await self._ask("PUT", target, Node, report, repeat=True)

    async def ready(self) -> None:
        """Returns where a server can serve now; raises why none can."""
        await self._http.request("GET", "/readyz")

    async def audit(
        self, cluster: str | None, *, limit: int = 500, after: str | None = None
    ) -> AuditPage:
        """One page of a cluster's changes, or of those of clusters and fabrics themselves."""
        place = ("audit",) if cluster is None else ("clusters", cluster, "audit")
        target = path(*place) + query(limit=str(limit), after=after)
        return await self._ask("GET", target, AuditPage)

    async def node_attachments(self, cluster: str, node: str) -> NodeAttachments:
        """What the cluster has of the node's attachments."""
        target = path("clusters", cluster, "nodes", node, "attachments")
        return await self._ask("GET", target, NodeAttachments)

    async def report_attachments(
        self, cluster: str, node: str, report: AttachmentsReport
    ) -> NodeAttachments:
        target = path("clusters", cluster, "nodes", node, "attachments")
        return await self._ask("PUT", target, NodeAttachments, report, repeat=True)

    async def reclaimable(self, cluster: str) -> Reclaimed:
        """What may be reclaimed, and what its proof lacks; nothing is freed."""
        return await self._ask("GET", path("clusters", cluster, "reclaim"), Reclaimed)

    async def reclaim(self, cluster: str) -> Reclaimed:
        """Frees what is proved to be nobody's."""
        target = path("clusters", cluster, "reclaim")
        return await self._ask("POST", target, Reclaimed, repeat=True)

    async def inspect(
        self, cluster: str, told: Callable[[int], None] = lambda _: None
    ) -> Inspection:
        """What is wrong with the cluster's stored state; `told`: how many keys were read so far."""
        run: str | None = None
        while True:
            target = path("clusters", cluster, "inspection") + query(run=run)
            found = await self._ask("GET", target, Inspection)
            run = found.run
            told(found.keys)
            if run is None:
                return found

    async def repair(self, cluster: str, told: Callable[[int], None] = lambda _: None) -> Repair:
        """The same, after what could be mended safely was mended."""
        run: str | None = None
        while True:
            target = path("clusters", cluster, "inspection", "repair") + query(run=run)
            repair = await self._ask("POST", target, Repair, repeat=True)
            run = repair.left.run
            told(repair.left.keys)
            if run is None:
                return repair

    # The server, fabrics, clusters, nodes.

    async def status(self) -> Status:
        return await self._ask("GET", path("status"), Status)

    async def fabrics(self) -> list[Fabric]:
        return (await self._ask("GET", path("fabrics"), Items[Fabric])).items

    async def fabric(self, name: str) -> Fabric:
        return await self._ask("GET", path("fabrics", name), Fabric)

    async def create_fabric(self, new: NewFabric) -> Fabric:
        return await self._ask("POST", path("fabrics"), Fabric, new)

    async def delete_fabric(self, name: str) -> None:
        await self._http.request("DELETE", path("fabrics", name))

    async def clusters(self) -> list[Cluster]:
        return (await self._ask("GET", path("clusters"), Items[Cluster])).items

    async def cluster(self, name: str) -> Cluster:
        return await self._ask("GET", path("clusters", name), Cluster)

    async def create_cluster(self, new: NewCluster) -> Cluster:
        return await self._ask("POST", path("clusters"), Cluster, new)

    async def delete_cluster(self, name: str) -> None:
        await self._http.request("DELETE", path("clusters", name))

    async def nodes(self, cluster: str) -> list[Node]:
        return (await self._ask("GET", path("clusters", cluster, "nodes"), Items[Node])).items

    async def node(self, cluster: str, name: str) -> Node:
        return await self._ask("GET", path("clusters", cluster, "nodes", name), Node)

    async def forget_node(self, cluster: str, name: str) -> None:
        await self._http.request("DELETE", path("clusters", cluster, "nodes", name))

    async def vmac(self, cluster: str, node: str, network: str) -> Vmac:
        """The slot of the node's own interface on the network, given if it has none."""
        target = path("clusters", cluster, "nodes", node, "vmacs", network)
        return await self._ask("PUT", target, Vmac, repeat=True)

    async def free_vmac(self, cluster: str, node: str, network: str) -> None:
        target = path("clusters", cluster, "nodes", node, "vmacs", network)
        await self._http.request("DELETE", target, repeat=True)

    # Networks and pools.

    async def networks(self, cluster: str) -> list[Network]:
        target = path("clusters", cluster, "networks")
        return (await self._ask("GET", target, Items[Network])).items

    async def network(self, cluster: str, name: str) -> Network:
        return await self._ask("GET", path("clusters", cluster, "networks", name), Network)

    async def create_network(self, cluster: str, new: NewNetwork) -> Network:
        return await self._ask("POST", path("clusters", cluster, "networks"), Network, new)

    async def change_network(self, cluster: str, name: str, change: ChangeNetwork) -> Network:
        target = path("clusters", cluster, "networks", name)
        return await self._ask("PATCH", target, Network, change)

    async def delete_network(self, cluster: str, name: str, owner: Owner | None = None) -> None:
        """`owner`: on whose behalf, as in the messages; None for people."""
        target = path("clusters", cluster, "networks", name) + query(owner=owner)
        await self._http.request("DELETE", target)

    async def hand_over_network(self, cluster: str, name: str, owner: Owner | None) -> Network:
        """From now on the network is this owner's. For admins."""
        target = path("clusters", cluster, "networks", name, "owner")
        return await self._ask("PUT", target, Network, HandOver(owner=owner), repeat=True)

    async def pools(self, cluster: str) -> list[Pool]:
        return (await self._ask("GET", path("clusters", cluster, "pools"), Items[Pool])).items

    async def pool(self, cluster: str, name: str) -> Pool:
        return await self._ask("GET", path("clusters", cluster, "pools", name), Pool)

    async def create_pool(self, cluster: str, new: NewPool) -> Pool:
        return await self._ask("POST", path("clusters", cluster, "pools"), Pool, new)

    async def change_pool(self, cluster: str, name: str, change: ChangePool) -> Pool:
        target = path("clusters", cluster, "pools", name)
        return await self._ask("PATCH", target, Pool, change)

    async def grow_pool(self, cluster: str, name: str, resize: ResizePool) -> Pool:
        target = path("clusters", cluster, "pools", name, "grow")
        return await self._ask("POST", target, Pool, resize)

    async def shrink_pool(self, cluster: str, name: str, resize: ResizePool) -> Pool:
        target = path("clusters", cluster, "pools", name, "shrink")
        return await self._ask("POST", target, Pool, resize)

    async def delete_pool(self, cluster: str, name: str, owner: Owner | None = None) -> None:
        """As `delete_network`."""
        target = path("clusters", cluster, "pools", name) + query(owner=owner)
        await self._http.request("DELETE", target)

    async def hand_over_pool(self, cluster: str, name: str, owner: Owner | None) -> Pool:
        """As `hand_over_network`."""
        target = path("clusters", cluster, "pools", name, "owner")
        return await self._ask("PUT", target, Pool, HandOver(owner=owner), repeat=True)

    # What a cluster's controller says of namespaces and of fenced nodes.

    async def namespaces(self, cluster: str) -> list[NamespaceDefault]:
        """All namespaces that choose something by default."""
        target = path("clusters", cluster, "namespaces")
        return (await self._ask("GET", target, Items[NamespaceDefault])).items

    async def set_namespace(
        self, cluster: str, namespace: str, selection: Selection
    ) -> NamespaceDefault:
        """What the namespace's pods choose where they choose nothing; `invalid` for an address, or
        for nothing at all."""
        target = path("clusters", cluster, "namespaces", namespace)
        asked = SetNamespace(selection=selection)
        return await self._ask("PUT", target, NamespaceDefault, asked, repeat=True)

    async def unset_namespace(self, cluster: str, namespace: str) -> None:
        """The namespace chooses nothing; nothing to unset is success."""
        target = path("clusters", cluster, "namespaces", namespace)
        await self._http.request("DELETE", target, repeat=True)

    async def fencing(self, cluster: str, node: str) -> NodeFencing:
        """What Kubernetes' word on a node is now; `not-found` if there is none."""
        target = path("clusters", cluster, "nodes", node, "fencing")
        return await self._ask("GET", target, NodeFencing)

    async def fence(self, cluster: str, node: str, fencing: Fencing) -> NodeFencing:
        """Kubernetes' word that a node is fenced and which of its pods are gone. Said again after
        the grace period it frees their addresses."""
        target = path("clusters", cluster, "nodes", node, "fencing")
        return await self._ask("PUT", target, NodeFencing, fencing, repeat=True)

    async def unfence(self, cluster: str, node: str) -> None:
        """The node is fenced no more; one that was not is success."""
        target = path("clusters", cluster, "nodes", node, "fencing")
        await self._http.request("DELETE", target, repeat=True)

    # Addresses.

    async def addresses(
        self,
        cluster: str,
        *,
        network: str | None = None,
        pool: str | None = None,
        namespace: str | None = None,
        pod: str | None = None,
        node: str | None = None,
        state: str | None = None,
        limit: int = 500,
        after: str | None = None,
    ) -> AddressPage:
        """One page; `after` is the `next` of the page before."""
        target = path("clusters", cluster, "addresses") + query(
            network=network,
            pool=pool,
            namespace=namespace,
            pod=pod,
            node=node,
            state=state,
            limit=str(limit),
            after=after,
        )
        return await self._ask("GET", target, AddressPage)

    async def address(self, cluster: str, address: str, network: str | None = None) -> AddressEntry:
        target = path("clusters", cluster, "addresses", address) + query(network=network)
        return await self._ask("GET", target, AddressEntry)

    async def address_history(
        self, cluster: str, address: str, network: str | None = None
    ) -> AddressHistory:
        """Who holds the address and who held it before."""
        target = path("clusters", cluster, "addresses", address, "history")
        return await self._ask("GET", target + query(network=network), AddressHistory)

    async def reserve(self, cluster: str, request: Reserve) -> AddressEntry:
        target = path("clusters", cluster, "reservations")
        return await self._ask("POST", target, AddressEntry, request)

    async def unreserve(self, cluster: str, address: str, network: str | None = None) -> None:
        target = path("clusters", cluster, "reservations", address) + query(network=network)
        await self._http.request("DELETE", target)

    async def operator_release(self, cluster: str, request: OperatorRelease) -> Released:
        target = path("clusters", cluster, "operator-releases")
        return await self._ask("POST", target, Released, request)


def _opened(target: str, items: list[msgspec.Raw], kind: type[A], asked: int) -> list[A | Problem]:
    try:
        found = opened(items, kind)
        if len(found) != asked:
            raise msgspec.DecodeError(f"it has {len(found)} items for {asked}")
    except msgspec.DecodeError as error:
        raise unexpected(f"POST {target}", error) from None
    return found
