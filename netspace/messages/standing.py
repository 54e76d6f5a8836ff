"""Nodes as they report themselves, servers and their state store, and what was changed by whom."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from netspace.messages.planning import NewNetwork
from netspace.messages.terms import Answer, Fence, LinkName, Request


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
    """`reported` False: known only because it holds addresses or is fenced. `networks`: the address
    space of its logical cards as its configuration has it, to be adopted. `fenced`: why Kubernetes
    says that it runs nothing any more."""

    name: str
    version: str | None
    reported: bool
    links: list[LinkReport]
    used: int
    networks: list[NewNetwork] = []
    fenced: Fence | None = None


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
