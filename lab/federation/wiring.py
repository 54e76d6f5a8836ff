"""Makes the lab's namespaces, links, addresses and routes, as admins of clusters and of a data
centre would: with `ip`, `bridge`, `tc` and `iptables`. What is to be done is pure text."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from hostnet import write_sysctl
from lab import programs, topology
from lab.federation.layout import (
    CLUSTERS,
    FAMILIES,
    POD_NETWORKS,
    VLAN,
    LabCluster,
    LabNode,
    links,
)
from lab.topology import netns

SWITCH: Final = "lan"
UPLINK: Final = "up0"
"""A node's card in its cluster's network."""
BRIDGE: Final = "cni0"
_SETTINGS: Final = (
    ("ipv4", "ip_forward", "1"),
    ("ipv6", "conf", "all", "forwarding", "1"),
)


@dataclass(frozen=True, slots=True)
class LabPod:
    """A pod with its addresses, IPv4 then IPv6, in the namespace `netns`."""

    name: str
    node: LabNode
    netns: str
    addresses: tuple[str, str]


def make(clusters: Sequence[LabCluster] = CLUSTERS, later: Iterable[LabNode] = ()) -> None:
    """Makes the routers, their links and the clusters with their nodes, but for those that come
    `later`."""
    # The lab kernel has IPv6 in a module, which comes when it is asked for.
    socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    absent = set(later)
    spaces = [space for each in clusters for space in (each.router, each.control)]
    nodes = [node for each in clusters for node in each.nodes if node not in absent]
    topology.ip(f"netns add {netns(name)}" for name in (*spaces, *(n.name for n in nodes)))
    for space in (*spaces, *(node.name for node in nodes)):
        _settle(space)
    for each in clusters:
        topology.ip(router_lines(each), inside=netns(each.router))
    for one, other, mtu in links(clusters):
        topology.ip(link_lines(one, other, mtu), inside=netns(one.router))
        for here, there in ((one, other), (other, one)):
            topology.ip(transit_lines(here, there, mtu), inside=netns(here.router))
    for each in clusters:
        restore(each.router, [guard_text(each, family) for family in FAMILIES])
        _plug(each, each.control, each.server)
        for node in each.nodes:
            if node not in absent:
                add_node(each, node, known=nodes, fresh=False)


def add_node(
    cluster: LabCluster, node: LabNode, known: Sequence[LabNode], fresh: bool = True
) -> None:
    """Makes a node; the others of a routed cluster that are `known` get the way to its pods."""
    if fresh:
        topology.ip([f"netns add {netns(node.name)}"])
        _settle(node.name)
    _plug(cluster, node.name, node.underlay)
    if cluster.macvlan:
        trunk = [f"{node.name}-{card}" for card in topology.CARDS]
        topology.ip(
            (line for card, port in zip(topology.CARDS, trunk, strict=True) for line in (
                f"link add {port} type veth peer name {card} netns {netns(node.name)}",
                f"link set {port} master {SWITCH} up",
            )),
            inside=netns(cluster.router),
        )  # fmt: skip
        allowed = [f"vlan add dev {port} vid {VLAN}" for port in trunk]
        topology.batch("bridge", allowed, netns(cluster.router))
        return
    others = [each for each in cluster.nodes if each != node and each in known]
    topology.ip(bridge_lines(node, others), inside=netns(node.name))
    if fresh:
        for other in others:
            topology.ip(way_lines(node), inside=netns(other.name))
    restore(node.name, [foreign_text(cluster, family) for family in FAMILIES])


def add_pod(node: LabNode, name: str, at: int) -> LabPod:
    """A pod on a node of a routed cluster, as the bridge plugin would make it."""
    space = netns(f"pod-{node.cluster}-{name}")
    pod = LabPod(name, node, space, node.pod(at))
    topology.ip([f"netns add {space}"])
    topology.ip(
        [
            f"link add v{at} type veth peer name eth0 netns {space}",
            f"link set v{at} master {BRIDGE} up",
        ],
        inside=netns(node.name),
    )
    first = node.pod(1)
    lines = ["link set lo up", "link set eth0 up"]
    lines += [f"addr add {pod.addresses[0]}/24 dev eth0"]
    lines += [f"addr add {pod.addresses[1]}/64 dev eth0 nodad"]
    lines += [f"route add default via {via}" for via in first]
    topology.ip(lines, inside=space)
    return pod


def cut(node: LabNode, cluster: LabCluster) -> None:
    """Takes a node off its cluster's network, as when its power is gone."""
    topology.ip([f"link set {port} down" for port in _ports(node, cluster)], netns(cluster.router))


def mend(node: LabNode, cluster: LabCluster) -> None:
    """Puts it back."""
    topology.ip([f"link set {port} up" for port in _ports(node, cluster)], netns(cluster.router))


def shape(cluster: LabCluster, nodes: Iterable[LabNode], megabits: float | None) -> None:
    """Bounds what reaches each of the nodes from its cluster's network; None ends it."""
    lines = []
    for node in nodes:
        if megabits is None:
            lines.append(f"qdisc del dev {node.name} root")
        else:
            rate = f"rate {megabits * 1000:.0f}kbit burst 16k latency 60ms"
            lines.append(f"qdisc replace dev {node.name} root tbf {rate}")
    topology.batch("tc", lines, netns(cluster.router))


def router_lines(cluster: LabCluster) -> Iterator[str]:
    """The switch of a cluster's network, with the router's own leg in it."""
    yield "link set lo up"
    filtering = " vlan_filtering 1" if cluster.macvlan else ""
    yield f"link add {SWITCH} type bridge{filtering} mcast_snooping 0 forward_delay 0"
    yield f"link set {SWITCH} up"
    yield from _addresses(SWITCH, cluster.gateway)
    if cluster.macvlan:
        four, six = cluster.subnets
        yield f"link add link {SWITCH} name {SWITCH}.{VLAN} type vlan id {VLAN}"
        yield f"link set {SWITCH}.{VLAN} up"
        yield f"addr add {four.replace('.0/', '.1/')} dev {SWITCH}.{VLAN}"
        yield f"addr add {six.replace('::/', '::1/')} dev {SWITCH}.{VLAN} nodad"


def link_lines(one: LabCluster, other: LabCluster, mtu: int) -> Iterator[str]:
    """A link between two routers, made in the first one's namespace."""
    ends = f"{one.port(other)} type veth peer name {other.port(one)} netns {netns(other.router)}"
    yield f"link add {ends}"
    yield f"link set {one.port(other)} mtu {mtu} up"


def transit_lines(here: LabCluster, there: LabCluster, mtu: int) -> Iterator[str]:
    """A router's end of a link: its addresses, and the way to what lies behind the other end."""
    port = here.port(there)
    yield f"link set {port} mtu {mtu} up"
    yield from _addresses(port, here.transit(there))
    four, six = there.transit(here)
    for destination in (f"172.31.{there.number}.0/24", there.ranges[0]):
        yield f"route add {destination} via {four}"
    for destination in (f"fd31:{there.number}::/64", there.ranges[1]):
        yield f"route add {destination} via {six}"


def guard_text(cluster: LabCluster, family: int) -> str:
    """A router's rules: what comes from another router for pods, or from them, is not let in."""
    pods = POD_NETWORKS[FAMILIES.index(family)]
    ports = [cluster.port(other) for other in CLUSTERS if other != cluster]
    rules = [
        f"-A FORWARD -i {port} {side} {pods} -j DROP" for port in ports for side in ("-s", "-d")
    ]
    return "\n".join(["*filter", *rules, "COMMIT", ""])


def foreign_text(cluster: LabCluster, family: int) -> str:
    """What a CNI and kube-proxy have on a node of a routed cluster: only flows within the cluster
    are forwarded, what conntrack does not know is dropped, pods' traffic to elsewhere is given the
    node's address."""
    pods = cluster.ranges[FAMILIES.index(family)]
    return "\n".join(
        [
            "*filter",
            ":FORWARD DROP [0:0]",
            ":CNI-FORWARD - [0:0]",
            "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
            "-A FORWARD -j CNI-FORWARD",
            f"-A CNI-FORWARD -s {pods} -j ACCEPT",
            f"-A CNI-FORWARD -d {pods} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "COMMIT",
            "*nat",
            ":CNI-MASQUERADE - [0:0]",
            f"-A POSTROUTING -s {pods} -j CNI-MASQUERADE",
            f"-A CNI-MASQUERADE ! -d {pods} -j MASQUERADE",
            "COMMIT",
            "",
        ]
    )


def bridge_lines(node: LabNode, others: Iterable[LabNode]) -> Iterator[str]:
    """A node's bridge for its pods, and the ways to the pods of the others."""
    yield f"link add {BRIDGE} type bridge mcast_snooping 0 forward_delay 0"
    yield f"link set {BRIDGE} up"
    four, six = node.pod(1)
    yield f"addr add {four}/24 dev {BRIDGE}"
    yield f"addr add {six}/64 dev {BRIDGE} nodad"
    for other in others:
        yield from way_lines(other)


def way_lines(node: LabNode) -> Iterator[str]:
    """The ways to a node's pods, for the other nodes of its cluster."""
    for pods, underlay in zip(node.ranges, node.underlay, strict=True):
        yield f"route add {pods} via {underlay}"


def restore(space: str, texts: Iterable[str]) -> None:
    """Adds rules to a namespace's tables, IPv4's and IPv6's. Raises `TopologyError`."""

    def job(_: object) -> None:
        for program, text in zip(("iptables", "ip6tables"), texts, strict=True):
            done = subprocess.run(
                [str(programs.find(f"{program}-legacy-restore")), "--noflush", "-w"],
                input=text,
                text=True,
                capture_output=True,
                env=programs.environment(),
            )
            if done.returncode:
                raise topology.TopologyError(f"{program} in {space}: {done.stderr.strip()}")

    topology.within(netns(space), job)


def _settle(space: str) -> None:
    topology.within(
        netns(space), lambda net: [write_sysctl(net, s[-1], *s[:-1]) for s in _SETTINGS]
    )


def _plug(cluster: LabCluster, space: str, addresses: Iterable[str]) -> None:
    """Puts a namespace on its cluster's network, the router being its way to everything else."""
    topology.ip(
        [
            f"link add {space} type veth peer name {UPLINK} netns {netns(space)}",
            f"link set {space} master {SWITCH} up",
        ],
        inside=netns(cluster.router),
    )
    lines = ["link set lo up", f"link set {UPLINK} up", *_addresses(UPLINK, addresses)]
    lines += [f"route add default via {gateway}" for gateway in cluster.gateway]
    topology.ip(lines, inside=netns(space))


def _addresses(link: str, addresses: Iterable[str]) -> Iterator[str]:
    for text in addresses:
        length = "64" if ":" in text else "24"
        yield f"addr add {text}/{length} dev {link}{' nodad' if ':' in text else ''}"


def _ports(node: LabNode, cluster: LabCluster) -> list[str]:
    cards = [f"{node.name}-{card}" for card in topology.CARDS] if cluster.macvlan else []
    return [node.name, *cards]
