"""What a node should be for its federations: the values that plans make and drivers carry out.

Nothing here does anything. A plan (`federation/plan`) is a pure function to a `DesiredNode`; the
drivers (`federation/node`) bring the node to it, and take away what is theirs and not in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Final, Literal

from netspace import handover

Network = IPv4Network | IPv6Network

BUCKETS: Final = 64
"""Into so many the flows are hashed; each belongs to one gateway."""

ROUTE_PROTOCOL: Final = handover.ROUTE_PROTOCOL
"""`proto` of our routes, by which they are told from others'."""


@dataclass(frozen=True, slots=True, order=True)
class Path:
    """From this node to a node of another cluster."""

    federation: str
    cluster: str
    node: str


@dataclass(frozen=True, slots=True)
class Tunnel:
    """An ESP tunnel that this node brings up, to a gateway of another cluster. `ordinal`: 1 to 14,
    of the gateway among this node's for that cluster; the packet mark is `ordinal` in the mark's
    bits. `reqid`: of all states of that federation's pair. `usable`: whether flows may take it; a
    tunnel that is not is kept up, probed, and carries nothing."""

    path: Path
    local: str
    remote: str
    ordinal: int
    reqid: int
    usable: bool


@dataclass(frozen=True, slots=True)
class Accept:
    """That nodes of another cluster may bring tunnels up to this one. `ca`: the PEM certificate
    which theirs must come from; `reqid` as in `Tunnel`; `local`: this node's end."""

    federation: str
    cluster: str
    ca: str
    local: str
    reqid: int


Action = Literal["block", "bypass", "out", "in", "fwd"]


@dataclass(frozen=True, slots=True, order=True)
class Policy:
    """An XFRM policy. block: outgoing, drops; bypass: outgoing, lets through in clear; out: into
    the ESP tunnel `local` → `remote` for packets with `mark`; in, fwd: only what came by an ESP
    tunnel to `local` with `reqid` (0: any), from anywhere, or if `optional` also what came in
    clear. `protocol`, `port` (of the destination): 0 for all. Of two that a packet matches goes
    first: what names a port; bypass and optional; out, in and fwd; block."""

    action: Action
    source: Network
    destination: Network
    protocol: int = 0
    port: int = 0
    mark: int = 0
    mask: int = 0
    local: str = ""
    remote: str = ""
    reqid: int = 0
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Flows:
    """Which tunnel each flow from `local` ranges to `remote` ranges takes: by its bucket the
    ordinal, 0 where none is usable (the block policy drops it)."""

    federation: str
    cluster: str
    local: tuple[Network, ...]
    remote: tuple[Network, ...]
    buckets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Exposure:
    """What another cluster's pods may reach of this one's: transport, first, last. Empty: all.
    `theirs`: the same the other way, so that answers are known. `remote`: that cluster's ranges."""

    federation: str
    cluster: str
    ours: tuple[tuple[str, int, int], ...] = ()
    theirs: tuple[tuple[str, int, int], ...] = ()
    remote: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Neighbour:
    """A remote node on a VXLAN device: `mac` of its device there, `underlay` its address. `ranges`:
    what lies behind it, single addresses too. `mtu`: bytes that were measured to go there, where
    that is less than the device's; else 0."""

    mac: str
    underlay: str
    ranges: tuple[Network, ...]
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Vxlan:
    """One federation's device on this node. `mtu` in bytes; `local` the underlay's address."""

    federation: str
    link: str
    vni: int
    port: int
    local: str
    mac: str
    mtu: int
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True, slots=True, order=True)
class RangeRoute:
    """The node's own route to a federated range of a heterogeneous peer, by the link and gateway
    that its underlay address `towards` is reached by. `mtu`: 0 where not known."""

    destination: Network
    towards: str
    mtu: int = 0


@dataclass(frozen=True, slots=True, order=True)
class PodRoute:
    """A range that pods on macvlan reach through their node's vmac. `mtu`, `advmss`: bytes, 0 where
    not known."""

    destination: Network
    mtu: int = 0
    advmss: int = 0


@dataclass(frozen=True, slots=True)
class DesiredNode:
    """All of it. `mark`: the mask of our bits in packet marks. `local`: this cluster's federated
    ranges, which gateways reach through the vmac of their VLAN where there is one; `remote`: those
    of all its peers. `peers`: the underlay addresses that federated nodes speak from, `ports`: the
    UDP ports that they speak to. `mss`: by remote range the largest TCP segment, bytes.
    `unplanned`: federation and cluster of those who tell what cannot be planned, and why."""

    mark: int = 0
    tunnels: tuple[Tunnel, ...] = ()
    accepts: tuple[Accept, ...] = ()
    policies: tuple[Policy, ...] = ()
    flows: tuple[Flows, ...] = ()
    exposures: tuple[Exposure, ...] = ()
    vxlans: tuple[Vxlan, ...] = ()
    routes: tuple[RangeRoute, ...] = ()
    pod_routes: tuple[PodRoute, ...] = ()
    local: tuple[Network, ...] = ()
    remote: tuple[Network, ...] = ()
    peers: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    mss: tuple[tuple[Network, int], ...] = field(default=())
    unplanned: tuple[tuple[str, str, str], ...] = ()
