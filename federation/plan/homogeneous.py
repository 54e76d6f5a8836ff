"""What a node should be for its peers of the same CNI: one VXLAN device per federation, and behind
it every node of theirs with its ranges, or with its pods' addresses where those are not grouped.

The device has what the own underlay leaves; where less goes through to a node, the routes to it
say so, and routes and segments of its cluster follow the tightest one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from federation.desired import DesiredNode, Neighbour, Network, Path, Vxlan
from federation.plan.heterogeneous import exposure, pod_routes, segments, underlay
from federation.plan.networks import digest, ends, networks
from federation.plan.paths import PathState
from federation.plan.site import Site
from netspace.messages.federation import ClusterInfo, Peer

OVERHEAD: Final = {4: 50, 6: 70}
"""Bytes that VXLAN adds, by the family outside: IP, UDP, VXLAN and the Ethernet header inside."""


def parts(site: Site, peers: Sequence[Peer], paths: Mapping[Path, PathState]) -> DesiredNode:
    """This node's part for a federation's homogeneous peers, of which something is known. `paths`:
    what was measured, at least where it is less than the device's."""
    if "vxlan" not in site.can or not site.ends:
        return DesiredNode()
    known = [peer.info for peer in peers if peer.info is not None]
    if not known:
        return DesiredNode()
    version = 4 if 4 in site.ends else 6
    federation = site.federation
    mtu = site.mtu - OVERHEAD[version]
    small = {
        (path.cluster, path.node): state.mtu
        for path, state in paths.items()
        if path.federation == federation.name and state.mtu is not None and state.mtu < mtu
    }
    neighbours: list[Neighbour] = []
    ranges: list[tuple[tuple[Network, ...], int]] = []
    for info in known:
        found = list(_neighbours(site, info, version, small))
        neighbours += found
        least = min((one.mtu for one in found if one.mtu), default=mtu)
        ranges.append((networks(info.ranges, site.ipv6), least))
    device = Vxlan(
        federation.name,
        link_name(federation.name),
        federation.vni,
        federation.settings.port,
        site.ends[version],
        mac(federation.name, site.own.cluster, site.node.name),
        mtu,
        tuple(sorted(neighbours)),
    )
    return DesiredNode(
        exposures=tuple(exposure(federation.name, site.own, info) for info in known),
        vxlans=(device,),
        pod_routes=tuple(each for remote, least in ranges for each in pod_routes(remote, least)),
        remote=tuple(each for remote, _ in ranges for each in remote),
        peers=tuple(address for info in known for address in underlay(info)),
        ports=(federation.settings.port, federation.settings.probe_port),
        mss=tuple(each for remote, least in ranges for each in segments(remote, least)),
    )


def _neighbours(
    site: Site, info: ClusterInfo, version: int, small: Mapping[tuple[str, str], int]
) -> Iterator[Neighbour]:
    """The nodes that have VXLAN and an address of the family that this node's device has."""
    federation = site.federation.name
    for node in info.nodes:
        end = ends(node).get(version)
        if end is not None and "vxlan" in node.capabilities:
            behind = node.ranges if info.grouped else node.pods
            yield Neighbour(
                mac(federation, info.cluster, node.name),
                end,
                networks(behind, site.ipv6),
                small.get((info.cluster, node.name), 0),
            )


def link_name(federation: str) -> str:
    """The name of a federation's device, 11 characters."""
    return f"nsf{digest('link', federation, size=4).hex()}"


def mac(federation: str, cluster: str, node: str) -> str:
    """The MAC of a node's device: unicast, locally administered, the same everywhere."""
    raw = bytearray(digest("mac", federation, cluster, node, size=6))
    raw[0] = raw[0] & 0xFC | 0x02
    return raw.hex(":")
