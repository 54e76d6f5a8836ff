"""Which paths a node probes, how, and what their figures say. Pure.

Tunnels are those that the plan has; over VXLAN there is a path to every node of a peer that has
VXLAN too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from federation.desired import DesiredNode, Path
from federation.node.findings import Finding, finding
from federation.node.prober import Target
from federation.node.probing import Window, vxlan_interval
from federation.node.reporting import PathHealth
from federation.plan import homogeneous
from federation.plan.networks import ends
from federation.plan.paths import PathState
from hostnet.sources import link_local
from netspace.messages.federation import FederationView, View

OUTER: Final = {4: 20, 6: 40}
ENOUGH: Final = 5
"""Probes after which a path that none of them came through is called down."""


def tunnel_targets(desired: DesiredNode, view: View, most: int) -> dict[Path, Target]:
    """How each tunnel is probed; `most`: the underlay's MTU, bytes."""
    settings = {one.federation.name: one.federation.settings for one in view.federations}
    shift = desired.mark & -desired.mark
    return {
        tunnel.path: Target(
            remote=tunnel.remote,
            local=tunnel.local,
            port=settings[tunnel.path.federation].probe_port,
            interval=settings[tunnel.path.federation].probe,
            most=most,
            mark=tunnel.ordinal * shift,
        )
        for tunnel in desired.tunnels
    }


def mesh_targets(desired: DesiredNode, view: View, rate: float) -> dict[Path, Target]:
    """How each VXLAN path is probed, all together at most so many times a second."""
    devices = {device.federation: device for device in desired.vxlans}
    paths = [
        (one, path, address)
        for one in view.federations
        if one.federation.name in devices
        for path, address in mesh(one, devices[one.federation.name].local)
    ]
    found = {}
    for one, path, address in paths:
        settings = one.federation.settings
        device = devices[one.federation.name]
        found[path] = Target(
            remote=address,
            port=settings.probe_port,
            interval=vxlan_interval(settings.probe, len(paths), rate),
            most=device.mtu,
            link=device.link,
        )
    return found


def mesh(one: FederationView, local: str) -> list[tuple[Path, str]]:
    """The VXLAN paths of a federation from a device at this underlay address: to each node the
    link-local address of its device."""
    version = 6 if ":" in local else 4
    name = one.federation.name
    return [
        (
            Path(name, peer.cluster, node.name),
            _far(name, peer.cluster, node.name),
        )
        for peer in one.peers
        if peer.kind == "homogeneous" and peer.info is not None
        for node in peer.info.nodes
        if "vxlan" in node.capabilities and version in ends(node)
    ]


@lru_cache(maxsize=2**17)
def _far(federation: str, cluster: str, node: str) -> str:
    """The link-local address of a node's device."""
    mac = homogeneous.mac(federation, cluster, node)
    return str(link_local(bytes.fromhex(mac.replace(":", ""))))


def tunnel_health(state: PathState, window: Window | None, why: str, losses: int) -> PathHealth:
    """`why` the tunnel is not up, by its driver's word; `losses` in a row take a path out."""
    loss = 0.0 if window is None else window.loss
    rtt = None if window is None else window.rtt
    if state.up and state.lost >= losses:
        why = f"the tunnel is up, but {state.lost} probes in a row were lost"
        if state.usable:
            why += "; flows take it, since no other is better"
        return PathHealth("down", state.usable, loss, None, state.mtu, why)
    if state.usable:
        return PathHealth("up", True, loss, rtt, state.mtu)
    if state.up:
        return PathHealth("connecting", False, loss, rtt, state.mtu, "it is being tried")
    return PathHealth("connecting" if not why else "down", False, loss, None, state.mtu, why)


UNPROBED: Final = PathHealth("up", True, why="not probed: this node has no IPv6")


def mesh_health(window: Window | None, mtu: int | None, losses: int) -> PathHealth:
    """Of a VXLAN path, whose device is there."""
    if window is None or (window.rtt is None and window.row < losses):
        return PathHealth("connecting", True, why="it is being tried")
    if window.row >= losses:
        why = f"{window.row} probes in a row were lost"
        return PathHealth("down", True, window.loss, None, mtu, why)
    return PathHealth("up", True, window.loss, window.rtt, mtu)


def path_findings(
    health: Mapping[Path, PathHealth], wished: Mapping[Path, int], ports: Mapping[str, str]
) -> list[Finding]:
    """What is wrong with paths. Of a peer whose paths are all down one finding tells all. `wished`:
    the MTU that a path should have; `ports`: by federation what must be let through."""
    found = []
    peers: dict[tuple[str, str], list[Path]] = {}
    for path in health:
        peers.setdefault((path.federation, path.cluster), []).append(path)
    for (federation, cluster), paths in peers.items():
        down = [path for path in paths if health[path].state == "down"]
        subject = f"federation {federation}, cluster {cluster}"
        if down and len(down) == len(paths):
            why = health[down[0]].why
            text = f"none of {len(down)} paths works ({down[0].node}: {why}); {ports[federation]}"
            found.append(finding("port", subject, text))
        else:
            found += [
                finding("path", f"{subject}, node {path.node}", health[path].why) for path in down
            ]
    found += _small(health, wished)
    return found


def _small(health: Mapping[Path, PathHealth], wished: Mapping[Path, int]) -> Iterable[Finding]:
    for path, least in wished.items():
        each = health.get(path)
        if each is not None and each.mtu is not None and each.mtu < least:
            subject = f"federation {path.federation}, cluster {path.cluster}, node {path.node}"
            text = f"{each.mtu} bytes go through in one piece, {least} would be usual"
            yield finding("mtu", subject, text, "warning")
