"""Fabrics, clusters, networks and pools.

`owner` in a request says on whose behalf it is made: None for people. What is another's is not
changed: `owned`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from netspace import names
from netspace.messages.terms import (
    MOST,
    Address,
    Answer,
    Name,
    Namespaces,
    Natural,
    Owner,
    PoolKind,
    Request,
    Revision,
    Seconds,
    Services,
    Spans,
    Subnet,
)
from netspace.slots import Mapping


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
    owner: Owner | None = None


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
    owner: Owner | None = None


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
    owner: Owner | None = None


class HandOver(Request):
    """Who owns a network or a pool from now on; None: people."""

    owner: Owner | None


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
    owner: Owner | None = None


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
    owner: Owner | None = None


class ResizePool(Request):
    """Grow or shrink by `size` indices or by the `ranges` named; one of the two. `revision` as with
    networks."""

    revision: Revision | UnsetType = UNSET
    ranges: Spans = []
    size: Natural | None = None
    owner: Owner | None = None


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
    owner: Owner | None = None
