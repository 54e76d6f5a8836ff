"""Federations for tests of plans: clusters, their nodes, what a node of one sees of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from federation.desired import DesiredNode, Path
from federation.plan.paths import PathState, found
from netspace.messages.federation import (
    Capability,
    ClusterInfo,
    FederatedNode,
    Federation,
    FederationView,
    Kind,
    Member,
    Peer,
    PortSpan,
    Settings,
    Version,
    View,
)

ABLE: list[Capability] = ["ipsec", "vxlan", "ipv6"]


def node(cluster: int, place: int, **other: object) -> FederatedNode:
    """The node `nPLACE` of a cluster: 192.0.CLUSTER.PLACE, with a range of each family."""
    given: dict[str, object] = {
        "name": f"n{place}",
        "addresses": [f"192.0.{cluster}.{place + 1}"],
        "ranges": [f"10.{cluster}.{place}.0/24", f"fd00:{cluster:x}:{place:x}::/64"],
        "capabilities": ABLE,
    }
    return FederatedNode(**{**given, **other})  # type: ignore[arg-type]


def info(cluster: int, nodes: int | Sequence[FederatedNode] = 3, **other: object) -> ClusterInfo:
    """The cluster `cNUMBER`: 10.NUMBER.0.0/16 and fd00:NUMBER::/32."""
    given: dict[str, object] = {
        "cluster": f"c{cluster}",
        "version": Version(epoch=1, number=1),
        "cni": f"cni-{cluster}",
        "ranges": [f"10.{cluster}.0.0/16", f"fd00:{cluster:x}::/32"],
        "endpoints": [f"192.0.{cluster}.250:7443"],
        "nodes": [node(cluster, each) for each in range(nodes)]
        if isinstance(nodes, int)
        else list(nodes),
    }
    return ClusterInfo(**{**given, **other})  # type: ignore[arg-type]


def peer(told: ClusterInfo | None, kind: Kind = "heterogeneous", **other: object) -> Peer:
    """A peer as its leader sees it: all its nodes are available."""
    given: dict[str, object] = {
        "cluster": told.cluster if told else "c9",
        "kind": kind,
        "ca": "the CA",
        "info": told,
        "available": [each.name for each in told.nodes] if told else [],
    }
    return Peer(**{**given, **other})  # type: ignore[arg-type]


def joined(
    peers: Iterable[Peer],
    own: ClusterInfo | None = None,
    name: str = "f",
    settings: Settings | None = None,
) -> FederationView:
    """One federation as its member c0 sees it."""
    own = own or info(0)
    known = list(peers)
    members = [Member(cluster=own.cluster, cni=own.cni, endpoints=[], ca="own", ranges=own.ranges)]
    for each in known:
        ranges = each.info.ranges if each.info else [f"10.{each.cluster[1:]}.0.0/16"]
        members.append(Member(cluster=each.cluster, cni="x", endpoints=[], ca="ca", ranges=ranges))
    federation = Federation(
        name=name,
        number=1,
        founder="c0",
        root="root",
        vni=78,
        members=members,
        settings=settings or Settings(),
    )
    return FederationView(federation=federation, own=own, peers=known)


def view(*federations: FederationView) -> View:
    return View(cluster="c0", number=1, federations=list(federations))


def up(plan: DesiredNode, mtu: int | None = None) -> dict[Path, PathState]:
    """All tunnels of a plan as usable paths."""
    return {each.path: found(0.0, each.ordinal, mtu) for each in plan.tunnels}


def ports(*spans: tuple[Literal["tcp", "udp", "sctp"], int, int]) -> list[PortSpan]:
    return [PortSpan(transport=one, first=first, last=last) for one, first, last in spans]
