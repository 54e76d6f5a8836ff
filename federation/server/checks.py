"""What other clusters and the own nodes may say of addresses, ranges, ports and endpoints, pure.

Both are held to the same, and as strictly as the nodes that read it: one text that a node cannot
use would cost it the whole plan. Each function says what is wrong, and nothing where all is well.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Final

from federation.desired import Network
from federation.plan.networks import network
from netspace.endpoints import Endpoint
from netspace.messages.federation import ClusterInfo, FederatedNode, Member, PortSpan
from netspace.problems import Problem

MOST_RANGES: Final = 256
"""Ranges that a cluster federates: a node has policies for each of them with each of its own
cluster's."""

SHORTEST: Final = {4: 8, 6: 16}
"""The least prefix lengths: whatever is shorter is most of all addresses, and no cluster's."""

_NOBODYS: Final = tuple(
    (each.version, int(each.network_address), int(each.broadcast_address), text, what)
    for text, what in (
        ("0.0.0.0/8", "are no machine's"),
        ("127.0.0.0/8", "are each machine's own"),
        ("169.254.0.0/16", "are each link's own"),
        ("224.0.0.0/4", "are of groups"),
        ("::1/128", "are each machine's own"),
        ("::ffff:0:0/96", "are those of IPv4"),
        ("fe80::/10", "are each link's own"),
        ("ff00::/8", "are of groups"),
    )
    for each in [network(text)]
)
"""Addresses that are never one cluster's: version, the first and the last as numbers."""


def subnet_fault(text: str) -> str:
    """Of a range as clusters and nodes tell it to one another, in the one way of writing it."""
    try:
        found = network(text)
    except ValueError as error:
        return f"{text[:60]!r} is no subnet: {error}"
    if str(found) != text:
        return f"{text[:60]!r} is to be written as {found}"
    return _place_fault(found)


def _place_fault(found: Network) -> str:
    if found.prefixlen < SHORTEST[found.version]:
        return f"{found} is too large: the prefix is at least /{SHORTEST[found.version]}"
    first, last = int(found.network_address), int(found.broadcast_address)
    for version, begin, end, text, what in _NOBODYS:
        if version == found.version and first <= end and begin <= last:
            return f"{found} cannot be a cluster's: the addresses of {text} {what}"
    return ""


def address_fault(text: str) -> str:
    """Of a pod's address. There may be a hundred thousand of them."""
    family = AF_INET6 if ":" in text else AF_INET
    try:
        if inet_ntop(family, inet_pton(family, text)) == text:
            return ""
        # There is another usage for IPv6 addresses that end with one of IPv4.
        right = str(ip_address(text))
    except (ValueError, OSError):
        return f"{text[:60]!r} is no address"
    return "" if right == text else f"{text[:60]!r} is to be written as {right}"


def node_fault(node: FederatedNode) -> str:
    """Of what a node says of itself, or another cluster of its node."""
    for what, texts in (("address", node.addresses), ("pod", node.pods)):
        for text in texts:
            if fault := address_fault(text):
                return f"{what} of node {node.name}: {fault}"
    for text in node.addresses:
        if fault := _place_fault(network(text)):
            return f"address of node {node.name}: {fault}"
    for text in node.ranges:
        if fault := subnet_fault(text):
            return f"range of node {node.name}: {fault}"
    return ""


def ranges_fault(ranges: Iterable[str]) -> str:
    """Of a cluster's federated ranges together."""
    found = list(ranges)
    if len(found) > MOST_RANGES:
        return (
            f"{len(found)} ranges are federated, and at most {MOST_RANGES} can be: federate larger"
            " ranges, or pools that lie on whole subnets"
        )
    return next((f"range {fault}" for text in found if (fault := subnet_fault(text))), "")


def services_fault(services: Iterable[str]) -> str:
    return next((f"Service CIDR {fault}" for text in services if (fault := subnet_fault(text))), "")


def exposed_fault(exposed: Iterable[PortSpan]) -> str:
    for span in exposed:
        if span.last < span.first:
            return f"exposed ports {span.first}-{span.last}: the last is before the first"
    return ""


def endpoints_fault(endpoints: Iterable[str]) -> str:
    for url in endpoints:
        try:
            secure = Endpoint.parse(url).tls
        except Problem as problem:
            return problem.detail
        if not secure:
            return f"endpoint {url[:120]!r}: clusters speak https to one another"
    return ""


def member_fault(member: Member) -> str:
    """Of a member as the founder describes it."""
    texts = [f"range {fault}" for text in member.ranges if (fault := subnet_fault(text))]
    found = [*texts, services_fault(member.services), endpoints_fault(member.endpoints)]
    return next((f"member {member.cluster}: {fault}" for fault in found if fault), "")


def info_fault(info: ClusterInfo, known: ClusterInfo | None) -> str:
    """Of another cluster's information. Nodes that are `known` so are not looked at again."""
    fault = (
        ranges_fault(info.ranges)
        or services_fault(info.services)
        or exposed_fault(info.exposed)
        or endpoints_fault(info.endpoints)
    )
    good = {} if known is None else {node.name: node for node in known.nodes}
    for node in info.nodes:
        if not fault and good.get(node.name) != node:
            fault = node_fault(node)
    names = [node.name for node in info.nodes]
    if not fault and len(set(names)) != len(names):
        fault = "a node stands twice in it"
    return fault
