"""What a cluster tells the others, built of what is known of it; what of theirs is taken. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
    summarize_address_range,
)
from socket import AF_INET, AF_INET6, inet_pton
from typing import Literal

import msgspec

from federation.server.checks import info_fault
from netspace.messages.federating import Local
from netspace.messages.federation import ClusterInfo, FederatedNode, Version

Network = IPv4Network | IPv6Network
Told = Literal["newer", "same", "older"]


@dataclass(frozen=True, slots=True)
class Site:
    """What is the same in all federations of a cluster. `pods`: addresses by node, as the IPAM
    server has them; empty where they are not told. `pools`: ranges by pool, `networks` by
    network, both as spans."""

    cluster: str
    cni: str
    grouped: bool
    services: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    nodes: tuple[FederatedNode, ...] = ()
    pools: Mapping[str, Sequence[str]] = field(default_factory=dict)
    networks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    pods: Mapping[str, Sequence[str]] = field(default_factory=dict)


def build(site: Site, local: Local, *, with_pods: bool) -> ClusterInfo:
    """The information, its version still 0. Nothing outside of the federated ranges is told."""
    ranges = federated(site, local)
    held: dict[str, list[str]] = {}
    if with_pods and not site.grouped:
        held = _pods(site, ranges)
    nodes = [
        msgspec.structs.replace(
            node,
            ranges=[] if not site.grouped else _within(node.ranges, ranges),
            pods=held.get(node.name, []),
        )
        for node in sorted(site.nodes, key=lambda each: each.name)
    ]
    return ClusterInfo(
        cluster=site.cluster,
        version=Version(epoch=0, number=0),
        cni=site.cni,
        layout=local.layout,
        grouped=site.grouped,
        ranges=[str(each) for each in ranges],
        services=list(site.services),
        exposed=list(local.exposed),
        endpoints=list(site.endpoints),
        nodes=nodes,
    )


def federated(site: Site, local: Local) -> list[Network]:
    """The federated ranges, joined and in order."""
    found: list[Network] = [ip_network(text) for text in local.ranges]
    for names, known in ((local.pools, site.pools), (local.networks, site.networks)):
        for name in names:
            for span in known.get(name, ()):
                found += subnets(span)
    return _joined(found)


def missing(site: Site, local: Local) -> list[str]:
    """Pools and networks that are to be federated and are not there."""
    return [
        *(f"there is no pool {name}" for name in local.pools if name not in site.pools),
        *(f"there is no network {name}" for name in local.networks if name not in site.networks),
    ]


def subnets(span: str) -> list[Network]:
    """An address, `first-last` or a subnet as subnets. ValueError for anything else."""
    first, dash, last = span.partition("-")
    if not dash:
        return [ip_network(span)]
    one, other = ip_address(first), ip_address(last)
    if isinstance(one, IPv4Address) and isinstance(other, IPv4Address):
        return list(summarize_address_range(one, other))
    if isinstance(one, IPv6Address) and isinstance(other, IPv6Address):
        return list(summarize_address_range(one, other))
    raise ValueError(f"{span} is of two families")


def compared(known: ClusterInfo | None, told: ClusterInfo) -> Told:
    """Whether what is told is news. Of the same version it is when it differs: something was
    missed."""
    if known is None or told.version > known.version:
        return "newer"
    if told.version < known.version:
        return "older"
    return "same" if told == known else "newer"


def fault_of(info: ClusterInfo, cluster: str, known: ClusterInfo | None) -> str:
    """What is wrong with another cluster's information so that it cannot be used; empty if
    nothing. Nodes that are `known` so are not looked at again."""
    if info.cluster != cluster:
        return f"it is of cluster {info.cluster}"
    return info_fault(info, known)


def _joined(found: Iterable[Network]) -> list[Network]:
    each = list(found)
    four = [network for network in each if isinstance(network, IPv4Network)]
    six = [network for network in each if isinstance(network, IPv6Network)]
    return [*collapse_addresses(four), *collapse_addresses(six)]


def _within(texts: Sequence[str], ranges: Sequence[Network]) -> list[str]:
    """What of the subnets lies in the ranges."""
    found: list[Network] = []
    for text in texts:
        network = _network(text)
        for each in ranges:
            if each.version != network.version:
                continue
            if _subnet_of(network, each):
                if len(texts) == 1:
                    return [str(network)]
                found.append(network)
            elif _subnet_of(each, network):
                found.append(each)
    return [str(each) for each in _joined(found)]


@lru_cache(maxsize=65_536)
def _network(text: str) -> Network:
    """Nodes say the same again and again, and there are thousands of them."""
    return ip_network(text)


def _subnet_of(inner: Network, outer: Network) -> bool:
    return int(outer.network_address) <= int(inner.network_address) and (
        int(inner.broadcast_address) <= int(outer.broadcast_address)
    )


def _pods(site: Site, ranges: Sequence[Network]) -> dict[str, list[str]]:
    """Each address on one node: where the node itself says so, else where the IPAM server does.
    There may be a hundred thousand, so they are compared as bytes."""
    on: dict[str, str] = {}
    for name, addresses in site.pods.items():
        on.update(dict.fromkeys(addresses, name))
    for node in site.nodes:
        on.update(dict.fromkeys(node.pods, node.name))
    spans = {
        version: [
            (each.network_address.packed, each.broadcast_address.packed)
            for each in ranges
            if each.version == version
        ]
        for version in (4, 6)
    }
    firsts = {version: [first for first, _ in each] for version, each in spans.items()}
    held: dict[str, list[tuple[int, bytes, str]]] = {}
    for text, name in on.items():
        version = 6 if ":" in text else 4
        packed = inet_pton(AF_INET6 if version == 6 else AF_INET, text)
        at = bisect_right(firsts[version], packed) - 1
        if at >= 0 and packed <= spans[version][at][1]:
            held.setdefault(name, []).append((version, packed, text))
    return {name: [text for *_, text in sorted(each)] for name, each in held.items()}
