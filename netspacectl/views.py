"""What people see of each message: the columns of a list, the lines of one thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec

from netspace.messages import (
    AddressEntry,
    AddressHistory,
    Audited,
    Cluster,
    ClusterStatus,
    Fabric,
    FabricMember,
    LinkReport,
    Network,
    Node,
    Pool,
    Status,
    StoreMember,
    Tenancy,
)
from netspacectl.text import aligned, cell, duration

T = TypeVar("T")


@dataclass(frozen=True)
class Column(Generic[T]):
    """`right`: numbers, so that their digits stand below each other. `wraps`: may take several
    lines on a narrow terminal."""

    title: str
    value: Callable[[T], object]
    right: bool = False
    wraps: bool = False

    def text(self, item: T) -> str:
        return cell(self.value(item))


@dataclass(frozen=True)
class Place:
    """A server in a cluster. `lag`: revisions behind the leader; None where nobody leads."""

    server: str
    endpoint: str
    cluster: str | None = None
    role: str | None = None
    lag: int | None = None
    error: str | None = None


def pod_of(entry: AddressEntry | Tenancy) -> str | None:
    """Kubernetes' way to write a pod; other runtimes' sandboxes may have no namespace."""
    if not entry.pod:
        return entry.container
    return f"{entry.namespace}/{entry.pod}" if entry.namespace else entry.pod


def _state(entry: AddressEntry) -> str:
    left = entry.cooldown_left or entry.retention_left
    if left is not None:
        return f"{entry.state} {duration(round(left, 1))}"
    return entry.state


def _network_of(member: FabricMember) -> str:
    return f"{member.cluster}/{member.network}"


FABRICS: Final[Sequence[Column[Fabric]]] = (
    Column("FABRIC", lambda fabric: fabric.name),
    Column("NETWORKS", lambda fabric: [_network_of(m) for m in fabric.members], wraps=True),
)
MEMBERS: Final[Sequence[Column[FabricMember]]] = (
    Column("NETWORK", _network_of),
    Column("VLAN", lambda member: member.vlan, right=True),
    Column("IPV4", lambda member: member.ipv4),
    Column("IPV6", lambda member: member.ipv6),
    Column("RANGES", lambda member: member.ranges, wraps=True),
)
CLUSTERS: Final[Sequence[Column[Cluster]]] = (
    Column("CLUSTER", lambda cluster: cluster.name),
    Column("LEADER", lambda cluster: cluster.leader),
    Column("NETWORKS", lambda cluster: cluster.networks, right=True),
    Column("POOLS", lambda cluster: cluster.pools, right=True),
    Column("USED", lambda cluster: cluster.used, right=True),
)
NETWORKS: Final[Sequence[Column[Network]]] = (
    Column("NETWORK", lambda network: network.name),
    Column("PARENT", lambda network: network.parent),
    Column("VLAN", lambda network: network.vlan, right=True),
    Column("IPV4", lambda network: network.ipv4),
    Column("IPV6", lambda network: network.ipv6),
    Column("TOTAL", lambda network: network.total, right=True),
    Column("CARVED", lambda network: network.carved, right=True),
    Column("USED", lambda network: network.used, right=True),
    Column("OWNER", lambda network: network.owner),
)
POOLS: Final[Sequence[Column[Pool]]] = (
    Column("POOL", lambda pool: pool.name),
    Column("KIND", lambda pool: pool.kind),
    Column("NETWORK", lambda pool: pool.network),
    Column("PARENT", lambda pool: pool.parent),
    Column("SIZE", lambda pool: pool.size, right=True),
    Column("USED", lambda pool: pool.used, right=True),
    Column("COOLING", lambda pool: pool.cooling, right=True),
    Column("RETAINED", lambda pool: pool.retained, right=True),
    Column("FREE", lambda pool: pool.free, right=True),
    Column("OWNER", lambda pool: pool.owner),
    Column("NAMESPACES", lambda pool: pool.namespaces, wraps=True),
)
ADDRESSES: Final[Sequence[Column[AddressEntry]]] = (
    Column("NETWORK", lambda entry: entry.network),
    Column("IPV4", lambda entry: entry.ipv4),
    Column("IPV6", lambda entry: entry.ipv6),
    Column("STATE", _state),
    Column("POOL", lambda entry: entry.pool),
    Column("POD", pod_of),
    Column("NODE", lambda entry: entry.node),
    Column("NOTE", lambda entry: entry.note, wraps=True),
)
TENANCIES: Final[Sequence[Column[Tenancy]]] = (
    Column("SINCE", lambda past: past.since),
    Column("UNTIL", lambda past: past.until),
    Column("POD", lambda past: pod_of(past)),
    Column("UID", lambda past: past.uid),
    Column("NODE", lambda past: past.node),
    Column("NOTE", lambda past: past.note, wraps=True),
)
NODES: Final[Sequence[Column[Node]]] = (
    Column("NODE", lambda node: node.name),
    Column("VERSION", lambda node: node.version),
    Column("REPORTED", lambda node: node.reported),
    Column("LINKS", lambda node: [link.name for link in node.links], wraps=True),
    Column("USED", lambda node: node.used, right=True),
    Column("FENCED", lambda node: node.fenced),
)
LINKS: Final[Sequence[Column[LinkReport]]] = (
    Column("LINK", lambda link: link.name),
    Column("KIND", lambda link: link.kind),
    Column("UP", lambda link: link.up),
    Column("MTU", lambda link: link.mtu, right=True),
    Column("MAC", lambda link: link.mac),
    Column("PARENT", lambda link: link.parent),
    Column("VLAN", lambda link: link.vlan, right=True),
    Column("SLAVES", lambda link: link.slaves, wraps=True),
    Column("ADDRESSES", lambda link: link.addresses, wraps=True),
)
CHANGES: Final[Sequence[Column[Audited]]] = (
    Column("REVISION", lambda change: change.revision, right=True),
    Column("TIME", lambda change: change.time),
    Column("WHO", lambda change: change.who, wraps=True),
    Column("ACTION", lambda change: change.action),
    Column("KIND", lambda change: change.kind),
    Column("NAME", lambda change: change.name),
    Column("BEFORE", lambda change: values(change.before), wraps=True),
    Column("AFTER", lambda change: values(change.after), wraps=True),
)
CLUSTER_STATUS: Final[Sequence[Column[ClusterStatus]]] = (
    Column("CLUSTER", lambda cluster: cluster.name),
    Column("LEADER", lambda cluster: cluster.leader),
    Column("REVISION", lambda cluster: cluster.revision, right=True),
    Column("NETWORKS", lambda cluster: cluster.networks, right=True),
    Column("POOLS", lambda cluster: cluster.pools, right=True),
    Column("USED", lambda cluster: cluster.used, right=True),
    Column("RELEASED", lambda cluster: cluster.released, right=True),
    Column("WAITING", lambda cluster: cluster.waiting, right=True),
)
PLACES: Final[Sequence[Column[Place]]] = (
    Column("SERVER", lambda place: place.server),
    Column("ENDPOINT", lambda place: place.endpoint),
    Column("CLUSTER", lambda place: place.cluster),
    Column("ROLE", lambda place: place.role),
    Column("LAG", lambda place: place.lag, right=True),
    Column("ERROR", lambda place: place.error, wraps=True),
)
STORE: Final[Sequence[Column[StoreMember]]] = (
    Column("ETCD", lambda member: member.endpoint),
    Column("VERSION", lambda member: member.version),
    Column("SIZE", lambda member: None if member.size is None else size(member.size)),
    Column("LEADER", lambda member: member.leader),
    Column("ERROR", lambda member: member.error, wraps=True),
)
_PARTS: Final[dict[type, Sequence[tuple[str, Sequence[Column[Any]]]]]] = {
    AddressHistory: (("items", TENANCIES),),
    Fabric: (("members", MEMBERS),),
    Node: (("links", LINKS),),
    Status: (("clusters", CLUSTER_STATUS), ("servers", PLACES), ("store", STORE)),
}
_DURATIONS: Final = {"cooldown", "cooldown_left", "retention", "retention_left"}


def places(status: Status) -> list[Place]:
    """What each server is in each cluster, and by how many revisions it is behind the leader."""
    ahead = {
        cluster.name: cluster.revision
        for server in status.servers
        for cluster in server.clusters
        if cluster.leading
    }
    found = []
    for server in status.servers:
        if not server.clusters:
            found.append(Place(server.name, server.endpoint, error=server.error))
        for cluster in server.clusters:
            lag = max(0, ahead[cluster.name] - cluster.revision) if cluster.name in ahead else None
            role = "leads" if cluster.leading else "follows"
            found.append(Place(server.name, server.endpoint, cluster.name, role, lag))
    return found


def values(found: dict[str, Any] | None) -> list[str]:
    """The parts of a thing in a row."""
    return [f"{key}={cell(value)}" for key, value in (found or {}).items()]


def size(bytes_: int) -> str:
    """A number of bytes as KiB or MiB."""
    return f"{bytes_ / 2**20:.1f} MiB" if bytes_ >= 2**20 else f"{bytes_ / 2**10:.0f} KiB"


def details(answer: msgspec.Struct) -> Iterator[str]:
    """The lines that show one message: its fields below each other, then a table of each list of
    things in it."""
    parts = dict(_PARTS.get(type(answer), ()))
    fields = [name for name in answer.__struct_fields__ if name not in parts]
    yield from aligned([(name.replace("_", " "), _field(answer, name)) for name in fields])
    for name, columns in parts.items():
        items = getattr(answer, name)
        if isinstance(answer, Status) and name == "servers":
            items = places(answer)
        if items:
            from netspacectl.tables import Table

            yield ""
            yield from Table(columns).lines(items)


def _field(answer: msgspec.Struct, name: str) -> str:
    value = getattr(answer, name)
    return duration(value) if name in _DURATIONS and value is not None else cell(value)
