"""What federation servers tell one another, their nodes and people.

A federation joins clusters. Each member's server tells the others a `ClusterInfo` of its own
cluster; what a node needs of all of them is one `View`. Addresses and subnets are strings in their
usual notation.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from netspace import names
from netspace.messages.terms import Address, Name, NodeName, Seconds, Subnet

Kind = Literal["heterogeneous", "homogeneous"]
"""IPsec through gateways, or a VXLAN mesh of all nodes; per pair of clusters."""
Layout = Literal["distributed", "centralised"]
"""Every node is a gateway, or only those that say they are."""
Capability = Literal["ipsec", "vxlan", "ipv6"]
"""What a node found that it can do."""
Transport = Literal["tcp", "udp", "sctp"]
Cni = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}" + names.END)]
Pem = Annotated[str, Meta(max_length=65_536)]
Endpoint = Annotated[str, Meta(max_length=300)]
Port = Annotated[int, Meta(ge=1, le=65_535)]
Vni = Annotated[int, Meta(ge=1, le=2**24 - 1)]


class _Value(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """Clusters are of different versions: what one does not know of another's it passes over."""


class PortSpan(_Value, kw_only=True, frozen=True):
    """Ports `first` to `last` of one transport, both included."""

    transport: Transport = "tcp"
    first: Port
    last: Port


class FederatedNode(_Value, kw_only=True, frozen=True):
    """A node as the others need it. `addresses`: of the underlay, the first of each family is the
    tunnels' end. `ranges`: the pod ranges that lie on it as a whole; empty where pods are not
    grouped by node. `pods`: the pods' addresses on it, given only where they are not. `gateway`:
    whether it is one where not every node is, in centralised layout. `down`: since when its own
    server has not heard of it (Unix seconds), None while it has."""

    name: NodeName
    addresses: Annotated[list[Address], Meta(max_length=16)]
    ranges: Annotated[list[Subnet], Meta(max_length=256)] = []
    pods: Annotated[list[Address], Meta(max_length=100_000)] = []
    gateway: bool = False
    capabilities: Annotated[list[Capability], Meta(max_length=8)] = []
    down: int | None = None


class Version(_Value, kw_only=True, frozen=True, order=True):
    """Which of two informations of a cluster is newer: `epoch` counts the lives of the state that
    it comes from (a restored one begins a later one), `number` the changes within."""

    epoch: Annotated[int, Meta(ge=0, le=2**53 - 1)]
    number: Annotated[int, Meta(ge=0, le=2**53 - 1)]


class ClusterInfo(_Value, kw_only=True, frozen=True):
    """What a cluster tells the others. `ranges`: the pods' ranges that are federated, never more.
    `services`: its Service CIDRs, told so that an overlap is found. `grouped`: whether each pod
    lies in a range of its node. `exposed`: what others may reach; empty: all. `endpoints`: where
    its federation servers listen for others."""

    cluster: Name
    version: Version
    cni: Cni
    layout: Layout = "distributed"
    grouped: bool = True
    ranges: Annotated[list[Subnet], Meta(max_length=4096)] = []
    services: Annotated[list[Subnet], Meta(max_length=64)] = []
    exposed: Annotated[list[PortSpan], Meta(max_length=1024)] = []
    endpoints: Annotated[list[Endpoint], Meta(max_length=64)] = []
    nodes: Annotated[list[FederatedNode], Meta(max_length=20_000)] = []


class Member(_Value, kw_only=True, frozen=True):
    """A cluster of a federation. `ca`: the certificate of its own authority, which the federation's
    root signed; its nodes' and servers' certificates come from it."""

    cluster: Name
    cni: Cni
    endpoints: Annotated[list[Endpoint], Meta(max_length=64)]
    ca: Pem
    ranges: Annotated[list[Subnet], Meta(max_length=4096)] = []
    services: Annotated[list[Subnet], Meta(max_length=64)] = []


class Pair(_Value, kw_only=True, frozen=True):
    """The kind of one pair of members, where it does not follow from their CNIs."""

    one: Name
    other: Name
    kind: Kind


class Settings(_Value, kw_only=True, frozen=True):
    """Of a federation as a whole. `gateways`: of a remote cluster that a node holds tunnels to, at
    most. `probe`: seconds between two probes of a path; `losses`: so many in a row take a gateway
    out. `rekey`: seconds a key of ESP is used. `port`: UDP port of VXLAN. `mark`: the bits of the
    packet mark that are ours, at least four next to each other."""

    gateways: Annotated[int, Meta(ge=1, le=14)] = 4
    probe: Annotated[float, Meta(ge=0.05, le=60)] = 0.2
    losses: Annotated[int, Meta(ge=1, le=100)] = 3
    rekey: Annotated[int, Meta(ge=10, le=86_400)] = 3600
    port: Port = 4789
    probe_port: Port = 4791
    mark: Annotated[int, Meta(ge=1, le=2**32 - 1)] = 0x00F00000


class Federation(_Value, kw_only=True, frozen=True):
    """`root`: the certificate of its authority. `founder`: whose server has the authority's key and
    keeps the members; `number` counts its changes. `vni`: of its VXLAN meshes."""

    name: Name
    number: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    founder: Name
    root: Pem
    vni: Vni
    members: Annotated[list[Member], Meta(max_length=256)]
    pairs: Annotated[list[Pair], Meta(max_length=32_640)] = []
    settings: Settings = Settings()

    def kind(self, one: str, other: str) -> Kind:
        """How two members reach one another: as a pair says, else by whether they have one CNI."""
        for pair in self.pairs:
            if {pair.one, pair.other} == {one, other}:
                return pair.kind
        cnis = {member.cni for member in self.members if member.cluster in (one, other)}
        return "homogeneous" if len(cnis) == 1 else "heterogeneous"


class PathWord(_Value, kw_only=True, frozen=True):
    """A path from this node to one of another cluster's, as it measures it. `loss`: share of the
    last probes that were not answered; `rtt`: seconds, median of those that were; `mtu`: of what
    goes through, bytes; `state`: of the tunnel; `why` it is not up."""

    federation: Name
    cluster: Name
    node: NodeName
    state: Literal["up", "connecting", "down"]
    loss: Annotated[float, Meta(ge=0, le=1)] = 0.0
    rtt: Seconds | None = None
    mtu: Annotated[int, Meta(ge=0, le=65_535)] | None = None
    why: Annotated[str, Meta(max_length=500)] = ""


class FoundFault(_Value, kw_only=True, frozen=True):
    """What is wrong, with what, and what to do. `cause` is from a fixed list. A `fault` keeps pods
    from reaching others, or soon will; a `warning` does not."""

    verdict: Literal["warning", "fault"]
    cause: Annotated[str, Meta(max_length=63)]
    subject: Annotated[str, Meta(max_length=500)]
    found: Annotated[str, Meta(max_length=1000)]
    do: Annotated[str, Meta(max_length=1000)]

    def __str__(self) -> str:
        return f"{self.subject}: {self.found}"


class NodeWord(_Value, kw_only=True, frozen=True):
    """What a node's agent says of its node to its own cluster's server, again and again."""

    node: FederatedNode
    cni: Cni | None = None
    paths: Annotated[list[PathWord], Meta(max_length=4096)] = []
    findings: Annotated[list[FoundFault], Meta(max_length=100)] = []


class Peer(_Value, kw_only=True, frozen=True):
    """Another member as a node needs it. `info` None: nothing is known of it yet. `available`: its
    gateways in the leader's judgement. `contact`: when its server last answered (Unix seconds).
    `fault`: why what it tells is not applied, an overlap for example; what was known stands."""

    cluster: Name
    kind: Kind
    ca: str
    info: ClusterInfo | None = None
    available: list[NodeName] = []
    contact: int | None = None
    fault: str = ""


class FederationView(_Value, kw_only=True, frozen=True):
    """One federation as a node of the cluster `own` needs it."""

    federation: Federation
    own: ClusterInfo
    peers: list[Peer]


class View(_Value, kw_only=True, frozen=True):
    """All federations of a cluster. `number` is the state's that it was made of: asked for `after`
    it, the server answers once there is another, or after its patience with the same."""

    cluster: Name
    number: int
    federations: list[FederationView]
