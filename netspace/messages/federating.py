"""What is asked of a cluster's federation server by people, controllers, nodes and other members,
and what it says of how its federations are.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from netspace import names
from netspace.messages.federation import (
    Capability,
    ClusterInfo,
    Cni,
    Endpoint,
    Federation,
    FoundFault,
    Kind,
    Layout,
    Member,
    Pair,
    PathWord,
    Pem,
    PortSpan,
    Settings,
    Version,
    Vni,
)
from netspace.messages.terms import Answer, Name, NodeName, Request, Subnet

FederationName = Annotated[str, Meta(pattern=names.FEDERATION)]
Ranges = Annotated[list[Subnet], Meta(max_length=4096)]
Exposed = Annotated[list[PortSpan], Meta(max_length=1024)]
Names = Annotated[list[Name], Meta(max_length=1024)]
Secret = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}" + names.END)]
TokenText = Annotated[str, Meta(min_length=10, max_length=8192)]
Lifetime = Annotated[float, Meta(ge=1, le=7 * 86_400)]
"""Seconds."""
TOKEN_LIFETIME: Final = 1800.0


class Local(Request):
    """What a cluster brings into a federation. `ranges` are federated as they stand; of a Netspace
    cluster also those of the named `pools`, and of all pools of the named `networks`, as they are
    at any time. `exposed`: what of them the others may reach; empty: all."""

    ranges: Ranges = []
    pools: Names = []
    networks: Names = []
    exposed: Exposed = []
    layout: Layout = "distributed"


class NewFederation(Request):
    """The cluster founds it, and its server keeps its members. `vni`: of its VXLAN meshes, by
    default made of the name."""

    name: FederationName
    local: Local = msgspec.field(default_factory=Local)
    vni: Vni | None = None
    settings: Settings = Settings()


class JoinFederation(Request):
    """The token is the founder's; it works once. `name`: the federation that it must be of; None:
    any."""

    token: TokenText
    name: FederationName | None = None
    local: Local = msgspec.field(default_factory=Local)


class ChangeFederation(Request):
    """What stands here replaces what there is; `pairs` and `settings` are the founder's alone."""

    ranges: Ranges | UnsetType = UNSET
    pools: Names | UnsetType = UNSET
    networks: Names | UnsetType = UNSET
    exposed: Exposed | UnsetType = UNSET
    layout: Layout | UnsetType = UNSET
    pairs: Annotated[list[Pair], Meta(max_length=32_640)] | UnsetType = UNSET
    settings: Settings | UnsetType = UNSET


class FederationDetails(Answer):
    """A federation as this cluster has it. `founded`: by this cluster."""

    name: str
    founded: bool
    local: Local
    federation: Federation


class NewToken(Request):
    """How long it works, unless it is used before."""

    lifetime: Lifetime = TOKEN_LIFETIME


class Token(Answer):
    """`token` is told this once; `expires` is in Unix seconds."""

    federation: str
    token: str
    expires: int


class CertificateRequest(Request):
    """A request for a certificate (PKCS 10, PEM); the key stays where it was made."""

    csr: Pem


class Certificate(Answer):
    """PEM: the certificate, the cluster's own authority that it comes from, and the federation's
    that signed this one. `expires` in Unix seconds; it is to be renewed from `renew` on."""

    certificate: str
    authority: str
    root: str
    expires: int
    renew: int


class Signing(Request):
    """One server asks another one, which has the key, for a signature. authority: of another
    member's authority; server: of a server of this cluster."""

    kind: Literal["authority", "server", "node"]
    csr: Pem
    cluster: Name
    node: NodeName


class Joining(Request):
    """A cluster asks the founder to become a member. `csr` is of its own authority, `member` what
    it brings, its `ca` left empty; `underlay`: its nodes' addresses."""

    secret: Secret
    csr: Pem
    member: Member
    underlay: Ranges = []


class Joined(Answer):
    """The federation with the new member in it."""

    federation: Federation


class Info(Answer):
    """What a member's server tells another: its cluster's information, None where that is the one
    that was asked after; and, if it keeps the members, the federation, None where it is known.
    `time`: its clock as it answers, Unix seconds; 0 where it does not tell."""

    info: ClusterInfo | None = None
    federation: Federation | None = None
    time: float = 0.0


class Witness(Request):
    """What another member has seen of this cluster: newer than what this one knows itself, where
    its state was restored."""

    version: Version | None = None
    number: Annotated[int, Meta(ge=0, le=2**53 - 1)] = 0


class Departure(Request):
    """A member leaves."""

    member: Name


class Authority(Answer):
    """What is told to anybody: a token says which root is the right one. `authority`: the
    founder's own, which the root signed."""

    federation: str
    founder: str
    root: str
    authority: str


class NodeStatus(Answer):
    """A node by its own words. `heard`: seconds since the last one, None where the leader has heard
    none yet. `gateway`: whether it is one of its cluster in any federation, by the layout there.
    `findings`: all that it finds wrong; `faults`: of these the faults, in words."""

    node: str
    heard: float | None
    down: int | None
    gateway: bool
    cni: str | None
    addresses: list[str]
    capabilities: list[Capability]
    paths: list[PathWord]
    faults: list[str]
    findings: list[FoundFault] = []


class PeerStatus(Answer):
    """Another member. `contact`: when its server last answered, Unix seconds, `age` the seconds
    since; `reached`: whether its last answer is the latest there could be; `why` not. `clock`: by
    how many seconds its server's was ahead of ours when it last answered. `fault`: why what it
    tells is not applied. `nodes`, of them `down` by its own word; `gateways` by its layout,
    `available` in this cluster's judgement. `tunnels`: of this cluster's nodes to it."""

    cluster: str
    kind: Kind
    reached: bool
    contact: int | None
    age: float | None
    why: str
    fault: str
    version: Version | None
    cni: str
    ranges: list[str]
    nodes: int
    down: int
    gateways: list[str]
    available: list[str]
    tunnels: dict[Literal["up", "connecting", "down"], int]
    clock: float | None = None


class FederationStatus(Answer):
    """One federation. `faults`: of this cluster in it."""

    name: str
    founder: str
    number: int
    version: Version | None
    ranges: list[str]
    peers: list[PeerStatus]
    faults: list[str]
    certificate: int | None = None


class FederationServer(Answer):
    """A server of the cluster that is registered. `keys`: the federations whose keys it has;
    `uncertified`: those that it could not get a certificate of, or show the one it has."""

    name: str
    endpoint: str
    keys: list[str]
    uncertified: list[str] = []


class FederationsStatus(Answer):
    """All of a cluster's federations, by its leader. `why` it is not ready."""

    version: str
    cluster: str
    server: str
    leader: str | None
    ready: bool
    why: str
    servers: list[FederationServer]
    federations: list[FederationStatus]
    nodes: list[NodeStatus]
    certificates: dict[str, int] = {}


class ServedCluster(Answer):
    """The cluster that a federation server is of."""

    name: str
    cni: Cni
    endpoints: list[Endpoint]
