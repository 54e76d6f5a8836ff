"""What a node's federation agent says of itself: asked over its socket, by root."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from netspace.messages.federation import Capability, FoundFault, Kind
from netspace.messages.terms import Answer, Name, NodeName, Request


class PathStatus(msgspec.Struct, kw_only=True):
    """A path to a node of another cluster. `kind`: by ESP or VXLAN. `usable`: flows take it;
    `buckets`: how many of the 64 it has. `loss`, `rtt` and `mtu` as in `PathWord`."""

    node: str
    kind: Literal["esp", "vxlan"]
    state: Literal["up", "connecting", "down"]
    usable: bool
    loss: float
    rtt: float | None
    mtu: int | None
    buckets: int = 0
    local: str = ""
    remote: str = ""
    why: str = ""


class PeerHealth(msgspec.Struct, kw_only=True):
    """Another member. `contact`: when its server last answered ours, Unix seconds."""

    cluster: str
    kind: Kind
    contact: int | None
    fault: str
    ranges: list[str]
    paths: list[PathStatus]


class FederationHealth(msgspec.Struct, kw_only=True):
    """One federation on this node. `certificate_until`: Unix seconds, None where there is none."""

    name: str
    certificate_until: int | None
    peers: list[PeerHealth]


class PartStatus(msgspec.Struct, kw_only=True):
    """One part of the data plane. `changes`: how many were made since the agent began; `error` of
    the last time, empty where all was done; `pending`: whether it is not yet as the plan wants it;
    `last`: what was changed last."""

    name: str
    rounds: int
    changes: int
    error: str
    last: list[str]
    pending: bool = False


class FederationAgentStatus(Answer):
    """`gateway`: whether the node is one of its cluster in any federation, by the layout there.
    `server`: why the cluster's server does not answer, empty where it does; `word`: why it does not
    take what the node says. `view`: number of the view that counts, None where there is none;
    `view_age`: seconds since it was last confirmed, None where it comes from the disk."""

    version: str
    pid: int
    since: str
    cluster: str
    node: str
    addresses: list[str]
    ranges: list[str]
    gateway: bool
    cni: str
    capabilities: list[Capability]
    server: str
    word: str
    view: int | None
    view_age: float | None
    federations: list[FederationHealth]
    parts: list[PartStatus]
    findings: list[FoundFault]
    probes_answered: int
    memory_mib: float


class Diagnosis(Answer):
    """Faults first."""

    findings: list[FoundFault]


class VerifyPath(Request):
    """Which paths: all of a federation's peer, or the one to a node."""

    federation: Name
    cluster: Name
    node: NodeName | None = None


class Hop(msgspec.Struct, kw_only=True):
    """One step of a path. `do`: what to do where it fails."""

    name: Literal["node", "underlay", "tunnel", "gateway", "mtu"]
    ok: bool
    found: Annotated[str, Meta(max_length=2000)]
    do: Annotated[str, Meta(max_length=2000)] = ""


class VerifiedPath(msgspec.Struct, kw_only=True):
    """The hops up to the first that fails; `fails` names it, empty where all is well."""

    node: NodeName
    hops: Annotated[list[Hop], Meta(max_length=16)]
    fails: Annotated[str, Meta(max_length=63)] = ""


class Verification(Answer):
    paths: list[VerifiedPath]
