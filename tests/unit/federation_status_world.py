"""Statuses of federations for pictures.

`python -m tests.unit.federation_status_world` draws the example into docs/federation.svg.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from netspace.messages.federating import (
    FederationsStatus,
    FederationStatus,
    NodeStatus,
    PeerStatus,
)
from netspace.messages.federation import Kind, PathWord
from netspacectl.federation_picture import svg

PICTURE: Final = Path(__file__).parents[2] / "docs" / "federation.svg"
State = Literal["up", "connecting", "down"]


def path(
    cluster: str, node: str, state: State = "up", why: str = "", federation: str = "prod"
) -> PathWord:
    return PathWord(federation=federation, cluster=cluster, node=node, state=state, why=why)


def node(
    name: str,
    paths: Sequence[PathWord] = (),
    *,
    heard: float | None = 1.0,
    down: int | None = None,
    gateway: bool = False,
    faults: Sequence[str] = (),
) -> NodeStatus:
    return NodeStatus(
        node=name, heard=heard, down=down, gateway=gateway, cni="netspace", addresses=["192.0.2.1"],
        capabilities=["ipsec", "vxlan"], paths=list(paths), faults=list(faults),
    )  # fmt: skip


def peer(
    cluster: str,
    nodes: Sequence[NodeStatus] = (),
    *,
    kind: Kind = "heterogeneous",
    cni: str = "bridge",
    ranges: Sequence[str] = ("10.245.0.0/16",),
    gateways: Sequence[str] = (),
    available: Sequence[str] | None = None,
    age: float = 3.0,
    why: str = "",
    fault: str = "",
    count: int = 12,
    down: int = 0,
    tunnels: Mapping[State, int] | None = None,
    federation: str = "prod",
) -> PeerStatus:
    """`why` not empty: it does not answer. The tunnels are counted from what the nodes say."""
    told = Counter[State](
        each.state
        for one in nodes
        for each in one.paths
        if (each.federation, each.cluster) == (federation, cluster)
    )
    return PeerStatus(
        cluster=cluster, kind=kind, reached=not why, contact=1_767_323_000, age=age, why=why,
        fault=fault, version=None, cni=cni, ranges=list(ranges), nodes=count, down=down,
        gateways=list(gateways), available=list(gateways if available is None else available),
        tunnels=dict(told) if tunnels is None else dict(tunnels),
    )  # fmt: skip


def status(
    nodes: Sequence[NodeStatus],
    *federations: tuple[str, Sequence[PeerStatus]],
    faults: Sequence[str] = (),
) -> FederationsStatus:
    return FederationsStatus(
        version="1", cluster="east", server="s1", leader="s1", ready=True, why="", servers=[],
        federations=[
            FederationStatus(
                name=name, founder="east", number=7, version=None,
                ranges=["10.91.0.0/24", "fd00:91::/64"], peers=list(peers), faults=list(faults),
            )
            for name, peers in federations
        ],
        nodes=list(nodes),
    )  # fmt: skip


def example() -> FederationsStatus:
    """Three clusters; a gateway of the second and a node of the first are gone."""
    west, north = ("gw-1", "gw-2"), ("n1", "n2", "n3")

    def one(name: str, *, gateway: bool) -> NodeStatus:
        return node(
            name,
            [
                path("west", "gw-1"),
                path("west", "gw-2", "down", "3 probes were not answered"),
                *(path("north", each) for each in north),
            ],
            gateway=gateway,
        )

    nodes = [
        one("node-1", gateway=True),
        one("node-2", gateway=True),
        node("node-3", [path("west", "gw-1", "connecting", "the key exchange is under way")]),
        node("node-4", heard=700.0, down=1_767_322_000),
    ]
    return status(
        nodes,
        (
            "prod",
            [
                peer("west", nodes, gateways=west, available=["gw-1"], down=1, count=9),
                peer(
                    "north", nodes, kind="homogeneous", cni="netspace", count=3, age=95.0,
                    ranges=["10.92.0.0/24"], why="no server answered within 30 s",
                ),
            ],
        ),
    )  # fmt: skip


if __name__ == "__main__":
    PICTURE.write_text(svg(example()))
