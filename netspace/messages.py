"""What goes over the wire between servers, nodes, controllers and people, as JSON.

Requests refuse fields they do not know; answers may grow. Sizes and slot indices may pass 2^53, so
they are decimal strings. Addresses are strings in their usual notation (RFC 5952 for IPv6).
Durations are seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from netspace import names
from netspace.slots import Family, Mapping, parse_address

Name = Annotated[str, Meta(pattern=names.NAME)]
NodeName = Annotated[str, Meta(pattern=names.NODE)]
Namespace = Annotated[str, Meta(pattern=names.NAMESPACE)]
Natural = Annotated[str, Meta(pattern=names.NATURAL)]
"""A size or a slot index, 0 to 2^128, as a decimal string."""
_EITHER: Final = {"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}
Address = Annotated[str, Meta(min_length=2, max_length=45, extra_json_schema=_EITHER)]
Span = Annotated[str, Meta(min_length=2, max_length=91)]
"""An address, `first-last`, or a subnet."""
Spans = Annotated[list[Span], Meta(max_length=10_000)]
Subnet = Annotated[str, Meta(min_length=4, max_length=49)]
Note = Annotated[str, Meta(max_length=200)]
Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
LinkName = Annotated[str, Meta(max_length=15)]
"""A link as a node's kernel names it."""
NamespaceOrAny = Annotated[str, Meta(pattern=names.either(names.NAMESPACE, r"\*"))]
Namespaces = Annotated[list[NamespaceOrAny], Meta(max_length=10_000)]
Revision = Annotated[int, Meta(ge=1, le=2**63 - 1)]
"""A revision of etcd's, which is also a generation."""
PoolKind = Literal["application", "netspace", "default"]
Services = Literal["open", "isolated"]
"""Whether flows that a Service translated pass between a network and those of other VLANs."""
MOST = 2**53 - 1
"""The largest number that every JSON reader keeps."""
T = TypeVar("T")


class Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What somebody asks."""


class Answer(msgspec.Struct, kw_only=True):
    """What the server says."""


# Fabrics and clusters


class NewFabric(Request):
    name: Name


class FabricMember(Answer):
    """A network that lies in the fabric."""

    cluster: str
    network: str
    vlan: int | None
    ipv4: str | None
    ipv6: str | None
    ranges: list[str]


class Fabric(Answer):
    name: str
    members: list[FabricMember]


class NewCluster(Request):
    name: Name


class Cluster(Answer):
    name: str
    leader: str | None
    networks: int
    pools: int
    used: int


# Networks


class NewNetwork(Request):
    """`parent` is the link below the VLAN, `vlan` None for untagged. `range` cuts the network to a
    part of its subnets, where another cluster has the rest. `mtu` 0 inherits the parent's.
    `services` isolated: pods reach no backend on another VLAN by a Service, nor the reverse."""

    name: Name
    fabric: Name = "default"
    parent: Annotated[str, Meta(pattern=names.LINK)] = "bond0"
    vlan: Annotated[int, Meta(ge=1, le=4094)] | None = None
    ipv4: Subnet | None = None
    ipv6: Subnet | None = None
    gateway4: Address | None = None
    gateway6: Address | None = None
    mapping: Mapping = "offset"
    mtu: Annotated[int, Meta(ge=0, le=65535)] = 0
    range: Spans = []
    exclude: Spans = []
    services: Services = "open"


class ChangeNetwork(Request):
    """Fields that are absent stay as they are. Subnets, range and mapping never change. With
    `revision` the change is refused where the network was changed since that revision."""

    revision: Revision | UnsetType = UNSET
    parent: Annotated[str, Meta(pattern=names.LINK)] | UnsetType = UNSET
    vlan: Annotated[int, Meta(ge=1, le=4094)] | UnsetType | None = UNSET
    gateway4: Address | UnsetType | None = UNSET
    gateway6: Address | UnsetType | None = UNSET
    mtu: Annotated[int, Meta(ge=0, le=65535)] | UnsetType = UNSET
    exclude: Spans | UnsetType = UNSET
    services: Services | UnsetType = UNSET


class Network(Answer):
    """`uid` tells a network from an earlier one of the same name. `total`: the indices pools can be
    carved from (usable, in range, not excluded, no gateway); `carved` of them lie in pools, `used`
    are held, `reserved` of these by reservations."""

    name: str
    revision: int
    uid: str
    fabric: str
    parent: str
    vlan: int | None
    ipv4: str | None
    ipv6: str | None
    gateway4: str | None
    gateway6: str | None
    mapping: Mapping
    mtu: int
    range: list[str]
    exclude: list[str]
    total: Natural
    carved: Natural
    used: int
    reserved: int
    services: Services = "open"


# Pools


class Elastic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bounds of a pool that grows and shrinks by itself, nested pools counted, and by how many
    addresses at once: as soon as fewer than `low` are free, and where more are left over than that
    for `quiet` seconds."""

    minimum: Annotated[int, Meta(ge=1, le=MOST)]
    maximum: Annotated[int, Meta(ge=1, le=MOST)]
    step: Annotated[int, Meta(ge=1, le=65_536)] = 8
    low: Annotated[int, Meta(ge=0, le=65_536)] = 0
    quiet: Seconds = 300


class NewPool(Request):
    """Either `ranges` or `size`, or neither for an `elastic` pool of its minimum. `parent` names
    the netspace pool that an application pool is carved from; without it the space comes from the
    total pool. `cooldown`: how long a released address rests before another pod gets it.
    `retention`: how long a named pod's is kept for that name. `namespaces`: who may name it, `*`
    for all; a default pool needs none. `probe`: nodes ask the link for
    another owner of an address before a pod gets it."""

    name: Name
    kind: PoolKind
    network: Name
    parent: Name | None = None
    ranges: Spans = []
    size: Natural | None = None
    namespaces: Namespaces = []
    cooldown: Seconds = 30
    retention: Seconds = 0
    elastic: Elastic | None = None
    probe: bool = False


class ChangePool(Request):
    """Fields that are absent stay as they are; `revision` as with networks. `replicas`: an
    application pool has so many addresses and a `surplus` from then on; None: the size it has."""

    revision: Revision | UnsetType = UNSET
    namespaces: Namespaces | UnsetType = UNSET
    cooldown: Seconds | UnsetType = UNSET
    retention: Seconds | UnsetType = UNSET
    elastic: Elastic | UnsetType | None = UNSET
    probe: bool | UnsetType = UNSET
    replicas: Annotated[int, Meta(ge=0, le=65_536)] | UnsetType | None = UNSET
    surplus: Annotated[int, Meta(ge=0, le=65_536)] | UnsetType = UNSET


class ResizePool(Request):
    """Grow or shrink by `size` indices or by the `ranges` named; one of the two. `revision` as with
    networks."""

    revision: Revision | UnsetType = UNSET
    ranges: Spans = []
    size: Natural | None = None


class Pool(Answer):
    """`size` counts the pool's own indices, nested pools subtracted; `used`, `cooling`, `retained`
    and `free` make it up, `never` of the free ones have never been given."""

    name: str
    revision: int
    kind: PoolKind
    network: str
    parent: str | None
    ranges: list[str]
    namespaces: list[str]
    cooldown: float
    retention: float
    elastic: Elastic | None
    replicas: int | None
    surplus: int
    size: Natural
    used: int
    cooling: int
    retained: int
    free: Natural
    never: Natural
    probe: bool = False


# Allocations


class AttachmentId(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One interface of one sandbox (the cluster stands in the path)."""

    container: Annotated[str, Meta(pattern=names.CONTAINER)]
    ifname: Annotated[str, Meta(pattern=names.IFNAME)]

    def __post_init__(self) -> None:
        if len(self.ifname.encode()) > 15:
            raise ValueError("the interface's name is longer than 15 bytes")

    def __str__(self) -> str:
        return f"{self.container}/{self.ifname}"


class Pod(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who the sandbox is for. Runtimes other than Kubernetes' leave parts empty."""

    namespace: Annotated[str, Meta(pattern=names.either(names.NAMESPACE, ""))] = ""
    name: Annotated[str, Meta(pattern=names.either(names.POD, ""))] = ""
    uid: Annotated[str, Meta(pattern=names.either(names.UID, ""))] = ""


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What chooses pool and address, from one source: the pod's annotations or the conflist.

    `ip`: one address of the wanted slot, or both of them."""

    netspace: Name | None = None
    application: Name | None = None
    ip: Annotated[tuple[Address, ...], Meta(max_length=2)] = ()
    families: Annotated[tuple[Family, ...], Meta(max_length=2)] = ()

    def __post_init__(self) -> None:
        if self.netspace is not None and self.application is not None:
            raise ValueError("netspace and application both name a pool: name one of them")
        if len(set(self.families)) != len(self.families):
            raise ValueError(f"families has {self.families[0]} twice")
        for address in self.ip:
            parse_address(address)


class AllocateRequest(Request):
    """`claim` is a random id the node stored before asking; the same attachment asking again with
    the same claim gets the same answer and changes nothing. `removed` names the containers of this
    pod whose interface this node has seen to be gone."""

    attachment: AttachmentId
    claim: Annotated[str, Meta(pattern=names.CLAIM)]
    node: NodeName
    pod: Pod = Pod()
    selection: Selection = Selection()
    default: Selection = Selection()
    removed: Annotated[
        list[Annotated[str, Meta(pattern=names.CONTAINER)]], Meta(max_length=100)
    ] = []


class NetworkView(Answer):
    """What a node needs of a network: to configure the interface and to check the mapping."""

    name: str
    uid: str
    parent: str
    vlan: int | None
    ipv4: str | None
    ipv6: str | None
    gateway4: str | None
    gateway6: str | None
    mapping: Mapping
    mtu: int


class Allocation(Answer):
    """A slot held by an attachment. `ipv4` and `ipv6` are without prefix length and None for a
    family that the pod did not ask for. `how`: repeated, fixed, returned, taken-over,
    last-released, never, longest-released. `probe`: the pool wants the link asked first."""

    cluster: str
    pool: str
    slot: Natural
    generation: int
    ipv4: str | None
    ipv6: str | None
    network: NetworkView
    how: str
    probe: bool = False


class ReleaseRequest(Request):
    """What is held under the claim is released. Under another claim, of a node that has lost its
    record, what has the `generation` is; None: the node never learned it. `conflict`: somebody else
    on the link has the address; the pod that was to get it does not get it again for its name."""

    attachment: AttachmentId
    node: NodeName
    claim: Annotated[str, Meta(pattern=names.CLAIM)]
    generation: Revision | None = None
    conflict: bool = False


class Released(Answer):
    """`released` False: nothing was held under this claim or generation, `why` says what was."""

    released: bool
    why: str


# Addresses


class AddressEntry(Answer):
    """A slot that is or was somebody's. `retained`: kept for the pod that had it; `free`: released
    and ready; `never`: given to nobody."""

    network: str
    slot: Natural
    ipv4: str | None
    ipv6: str | None
    state: Literal["used", "reserved", "cooling", "retained", "free", "never"]
    pool: str | None
    generation: int | None = None
    node: str | None = None
    namespace: str | None = None
    pod: str | None = None
    uid: str | None = None
    container: str | None = None
    ifname: str | None = None
    note: str | None = None
    cooldown_left: float | None = None
    retention_left: float | None = None


class Tenancy(Answer):
    """Who held a slot, from `since` to `until` by the servers' wall clocks; None where nobody wrote
    it down, or for who holds it still. A reservation has a `note` and no container."""

    since: str | None
    until: str | None
    namespace: str | None = None
    pod: str | None = None
    uid: str | None = None
    ifname: str | None = None
    node: str | None = None
    container: str | None = None
    note: str | None = None


class AddressHistory(Answer):
    """Who holds a slot and who held it before, the latest first."""

    network: str
    slot: Natural
    ipv4: str | None
    ipv6: str | None
    items: list[Tenancy]


class AddressPage(Answer):
    """`next` is given to the next call as `after`; None on the last page."""

    items: list[AddressEntry]
    next: str | None


class Vmac(Answer):
    """The slot of a node's own interface on a network; addresses without prefix length, None for a
    family that the network has not."""

    network: str
    node: str
    slot: Natural
    generation: int
    ipv4: str | None
    ipv6: str | None


class Reserve(Request):
    """Takes an address out of use for something that is no pod."""

    network: Name
    address: Address
    note: Note = ""


class OperatorRelease(Request):
    """An admin's word that the holder is gone. The generation is the one the admin saw."""

    network: Name
    address: Address
    generation: Revision


# Nodes and the server itself


class LinkReport(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A logical card of a node: a bond, a VLAN on it. Addresses with prefix length."""

    name: LinkName
    kind: Annotated[str, Meta(max_length=32)]
    mac: Annotated[str, Meta(max_length=64)]
    mtu: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    up: bool
    parent: LinkName | None = None
    vlan: Annotated[int, Meta(ge=0, le=4095)] | None = None
    slaves: Annotated[list[LinkName], Meta(max_length=1024)] = []
    addresses: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=10_000)] = []


class NodeReport(Request):
    """What a node says of itself when it is prepared."""

    version: Annotated[str, Meta(max_length=60)]
    links: Annotated[list[LinkReport], Meta(max_length=4096)] = []
    networks: Annotated[list[NewNetwork], Meta(max_length=4096)] = []


class Node(Answer):
    """`reported` False: known only because it holds addresses. `networks`: the address space of its
    logical cards as its configuration has it, to be adopted."""

    name: str
    version: str | None
    reported: bool
    links: list[LinkReport]
    used: int
    networks: list[NewNetwork] = []


class StoreMember(Answer):
    endpoint: str
    version: str | None
    size: int | None
    leader: bool
    error: str | None


class ClusterStatus(Answer):
    """`revision`: what this server's memory has reached. `waiting`: changes queued."""

    name: str
    leading: bool
    leader: str | None
    revision: int
    networks: int
    pools: int
    used: int
    released: int
    waiting: int


class ServerStatus(Answer):
    """A server by its own account. `error`: why it could not be asked."""

    name: str
    endpoint: str
    version: str
    clusters: list[ClusterStatus]
    error: str | None = None


class Status(Answer):
    """`server` is the one that answered. A server's lag in a cluster is how far its revision there
    is behind the leader's."""

    version: str
    server: str
    ready: bool
    clusters: list[ClusterStatus]
    servers: list[ServerStatus]
    store: list[StoreMember]


class Audited(Answer):
    """A change that somebody asked for. Order is by `revision`; `time` is what a clock on the wall
    said, for people. `before` and `after` are None for what was not there; of what was changed they
    have the parts that differ."""

    revision: int
    time: str
    who: str
    action: str
    kind: str
    name: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class AuditPage(Answer):
    """Oldest first. `next` as with addresses."""

    items: list[Audited]
    next: str | None


class Items(Answer, Generic[T]):
    """A list, wrapped so that it can grow."""

    items: list[T]
