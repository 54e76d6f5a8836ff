"""The lab's federation: who joins how, and when everybody's paths are up."""

from __future__ import annotations

import time
from typing import Final

from lab.federation.layout import A, LabCluster, LabNode
from lab.federation.place import POOL, FederatedPlace, Member
from lab.place import PlaceError
from netspace.messages.federating import (
    ChangeFederation,
    FederationDetails,
    JoinFederation,
    Local,
    NewFederation,
    NodeStatus,
)
from netspace.messages.federation import Layout, PathWord, Settings

NAME: Final = "lab"
BRIDGED: Final[dict[str, Layout]] = {"a": "distributed", "b": "centralised", "c": "distributed"}
"""Each cluster's layout: b's third node is no gateway."""
_LOOK: Final = 1.0


def local(cluster: LabCluster) -> Local:
    """What a cluster brings: a its pool, the others all their pods."""
    if cluster.macvlan:
        return Local(pools=[POOL], layout=BRIDGED[cluster.name])
    return Local(ranges=list(cluster.ranges), layout=BRIDGED[cluster.name])


def found(member: Member, settings: Settings) -> FederationDetails:
    new = NewFederation(name=NAME, local=local(member.cluster), settings=settings)
    return member.ask(lambda client: client.found(member.cluster.name, new))


def join(founder: Member, member: Member) -> FederationDetails:
    """With a fresh token of the founder's."""
    token = founder.ask(lambda client: client.token(founder.cluster.name, NAME, 600))
    asked = JoinFederation(token=token.token, local=local(member.cluster))
    return member.ask(lambda client: client.join(member.cluster.name, asked))


def join_all(lab: FederatedPlace, settings: Settings) -> None:
    founder = lab.members[A.name]
    found(founder, settings)
    for cluster in lab.clusters:
        if cluster.name != A.name:
            join(founder, lab.members[cluster.name])


def leave(member: Member) -> None:
    member.ask(lambda client: client.leave(member.cluster.name, NAME))


def change(member: Member, change: ChangeFederation) -> None:
    member.ask(lambda client: client.change(member.cluster.name, NAME, change))


def expected(lab: FederatedPlace, node: LabNode) -> set[tuple[str, str]]:
    """The paths that a node should have: cluster and node of the other end."""
    macvlan = {each.name: each.macvlan for each in lab.clusters}
    found = set()
    for other in lab.nodes:
        if other.cluster == node.cluster:
            continue
        mesh = macvlan[other.cluster] == macvlan[node.cluster]
        if mesh or BRIDGED[other.cluster] == "distributed" or other.gateway:
            found.add((other.cluster, other.name))
    return found


def nodes(lab: FederatedPlace) -> dict[str, NodeStatus]:
    """What each node says of itself, by name."""
    return {each.node: each for member in lab.members.values() for each in member.status().nodes}


def missing(lab: FederatedPlace, known: dict[str, NodeStatus]) -> list[str]:
    """The paths that should be up and are not, or should not be, in words."""
    words = []
    for node in lab.nodes:
        told = known.get(node.name)
        paths: dict[tuple[str, str], PathWord] = (
            {(path.cluster, path.node): path for path in told.paths} if told else {}
        )
        for key in sorted(expected(lab, node) | paths.keys()):
            path = paths.get(key)
            if path is None:
                words.append(f"{node.name} → {key[1]}: not there")
            elif key not in expected(lab, node):
                words.append(f"{node.name} → {key[1]}: still there")
            elif path.state != "up" or path.mtu is None:
                words.append(f"{node.name} → {key[1]}: {path.state} {path.why}".rstrip())
    return words


def unsettled(lab: FederatedPlace) -> list[str]:
    """The parts of the nodes' data planes that are not yet as they should be, in words."""
    return [
        f"{node.name}: {part.name} {part.error or 'is on its way'}"
        for node in lab.nodes
        for part in lab.agent_status(node).parts
        if part.pending
    ]


def wait_for_paths(lab: FederatedPlace, seconds: float) -> tuple[float, dict[str, NodeStatus]]:
    """Until every path that should be there is up, no other one is, and every node is as it should
    be: how many seconds that took, and what the nodes then said. Raises `PlaceError` with what is
    missing."""
    began = time.monotonic()
    while left := (missing(lab, known := nodes(lab)) or unsettled(lab)):
        if time.monotonic() > began + seconds:
            faults = [f"{each.node}: {fault}" for each in known.values() for fault in each.faults]
            raise PlaceError(
                f"after {seconds:.0f} s {len(left)} paths or parts are not as they should be:"
                f" {'; '.join([*left[:6], *faults[:6]])}"
            )
        time.sleep(_LOOK)
    return time.monotonic() - began, known
