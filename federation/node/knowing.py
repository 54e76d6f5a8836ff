"""What the agent knows, and what follows from it: findings and paths as tools show them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from federation.desired import DesiredNode, Path
from federation.node import capabilities, measuring
from federation.node.capabilities import Ability
from federation.node.certificates import Credentials
from federation.node.facts import Facts
from federation.node.findings import Cause, Finding, finding
from federation.node.keeping import Keeper
from federation.node.prober import Target
from federation.node.probing import Window
from federation.node.reporting import PathHealth, node_of
from federation.plan.gateways import is_gateway
from federation.plan.networks import ends
from federation.plan.paths import PathState
from netspace.messages.federation import FederationView, Peer, View
from netspace.messages.federation_node import (
    FederationHealth,
    PartStatus,
    PathStatus,
    PeerHealth,
)

SILENT: Final = 60.0
"""Seconds without an answer of another cluster's server that are told."""
ESP_OVERHEAD: Final = 78
"""Bytes that ESP with AES-GCM in tunnel mode adds at most, with UDP around it (NAT) and IPv4
outside; 20 more with IPv6."""
_CAUSES: Final[dict[str, Cause]] = {"tunnels": "charon", "firewall": "chain"}


@dataclass(frozen=True, slots=True)
class Known:
    """`targets`, `windows`, `mtus`: of what is probed; `whys`: why tunnels are not up, by their
    driver."""

    facts: Facts = field(default_factory=Facts)
    ability: Ability = field(default_factory=lambda: Ability(frozenset()))
    view: View | None = None
    desired: DesiredNode = field(default_factory=DesiredNode)
    paths: Mapping[Path, PathState] = field(default_factory=dict)
    targets: Mapping[Path, Target] = field(default_factory=dict)
    windows: Mapping[Path, Window] = field(default_factory=dict)
    mtus: Mapping[Path, int | None] = field(default_factory=dict)
    whys: Mapping[Path, str] = field(default_factory=dict)


def gateway(known: Known, name: str) -> bool:
    """Whether the node of this name is a gateway of its cluster in any federation."""
    node = node_of(name, known.facts, known.ability.can)
    federations = () if known.view is None else known.view.federations
    return any(is_gateway(one.own.layout, node) for one in federations)


def health(known: Known) -> dict[Path, PathHealth]:
    """Of every path of this node."""
    found: dict[Path, PathHealth] = {}
    if known.view is None:
        return found
    losses = {one.federation.name: one.federation.settings.losses for one in known.view.federations}
    for tunnel in known.desired.tunnels:
        path = tunnel.path
        state = known.paths.get(path, PathState())
        why, limit = known.whys.get(path, ""), losses.get(path.federation, 3)
        found[path] = measuring.tunnel_health(state, known.windows.get(path), why, limit)
    for path, target in known.targets.items():
        if target.link:
            limit = losses.get(path.federation, 3)
            found[path] = measuring.mesh_health(
                known.windows.get(path), known.mtus.get(path), limit
            )
    if "ipv6" not in known.ability.can:
        found |= dict.fromkeys(_mesh(known, known.view), measuring.UNPROBED)
    return found


def _mesh(known: Known, view: View) -> list[Path]:
    devices = {device.federation: device for device in known.desired.vxlans}
    return [
        path
        for one in view.federations
        if (device := devices.get(one.federation.name)) is not None
        for path, _ in measuring.mesh(one, device.local)
    ]


def findings(
    known: Known, paths: Mapping[Path, PathHealth], keepers: Iterable[Keeper], now: float
) -> list[Finding]:
    """What is wrong with the node and its peers, but for its certificates; `now` in Unix time."""
    found = list(_parts(keepers))
    for federation, cluster, why in known.desired.unplanned:
        subject = f"federation {federation}, cluster {cluster}"
        found.append(finding("peer", subject, f"what it tells cannot be used: {why}"))
    if known.view is None:
        return found
    peers = [(one, peer) for one in known.view.federations for peer in one.peers]
    kinds: dict[str, list[str]] = {"heterogeneous": [], "homogeneous": []}
    for _, peer in peers:
        kinds[peer.kind].append(peer.cluster)
    found += capabilities.findings(known.ability, kinds["heterogeneous"], kinds["homogeneous"])
    for one, peer in peers:
        found += _peer(one, peer, known, now)
    ports = {
        one.federation.name: "UDP 500, 4500 and"
        f" {one.federation.settings.probe_port} and IP protocol 50 must be let through"
        for one in known.view.federations
    }
    found += measuring.path_findings(paths, wished(known), ports)
    return found


def wished(known: Known) -> dict[Path, int]:
    """What should go through each path, by the underlay's MTU."""
    least = {}
    for tunnel in known.desired.tunnels:
        outer = 20 if ":" in tunnel.remote else 0
        least[tunnel.path] = known.facts.mtu - ESP_OVERHEAD - outer
    return least | {path: target.most for path, target in known.targets.items() if target.link}


def _parts(keepers: Iterable[Keeper]) -> Iterable[Finding]:
    for keeper in keepers:
        for fault in keeper.faults:
            yield finding(_CAUSES.get(keeper.name, "kernel"), keeper.name, fault)


def _peer(one: FederationView, peer: Peer, known: Known, now: float) -> Iterable[Finding]:
    subject = f"federation {one.federation.name}, cluster {peer.cluster}"
    if peer.fault:
        yield finding("overlap" if "overlap" in peer.fault else "peer", subject, peer.fault)
    if peer.contact is None:
        # What it told may be in the view before the time of it is.
        if peer.info is None:
            yield finding("peer", subject, "its server has never answered", "warning")
    elif now - peer.contact > SILENT:
        text = f"its server has not answered for {now - peer.contact:.0f} s; what was known stands"
        yield finding("peer", subject, text, "warning")
    if peer.info is None or not known.facts.addresses:
        return
    families = {6 if ":" in text else 4 for text in known.facts.addresses}
    device = next((v for v in known.desired.vxlans if v.federation == one.federation.name), None)
    if peer.kind == "homogeneous" and device is not None:
        families = {6 if ":" in device.local else 4}
    apart = [node.name for node in peer.info.nodes if not set(ends(node)) & families]
    if apart and len(apart) == len(peer.info.nodes):
        text = "none of its nodes has an underlay address of a family that this node has"
        yield finding("underlay", subject, text)
    elif apart and device is not None and peer.kind == "homogeneous":
        text = (
            f"{len(apart)} of its nodes have no IPv{max(families)} address in the underlay, which"
            f" this node's VXLAN device uses: {', '.join(apart[:3])}"
        )
        yield finding("underlay", subject, text)
    if any(":" in text for text in peer.info.ranges) and known.ability.no_ipv6:
        yield finding("no-ipv6", subject, known.ability.no_ipv6, "warning")


def federations(
    known: Known, paths: Mapping[Path, PathHealth], credentials: Mapping[str, Credentials]
) -> list[FederationHealth]:
    """The paths as tools show them."""
    if known.view is None:
        return []
    buckets = {
        (each.federation, each.cluster): Counter(each.buckets) for each in known.desired.flows
    }
    tunnels = {tunnel.path: tunnel for tunnel in known.desired.tunnels}
    by_peer: dict[tuple[str, str], list[PathStatus]] = {}
    for path in sorted(paths):
        each, tunnel = paths[path], tunnels.get(path)
        peer = path.federation, path.cluster
        shown = PathStatus(
            node=path.node,
            kind="vxlan" if tunnel is None else "esp",
            state=each.state,
            usable=each.usable,
            loss=round(each.loss, 3),
            rtt=each.rtt,
            mtu=each.mtu,
            why=each.why,
        )
        if tunnel is not None:
            shown.buckets = buckets.get(peer, Counter())[tunnel.ordinal]
            shown.local, shown.remote = tunnel.local, tunnel.remote
        by_peer.setdefault(peer, []).append(shown)
    return [
        FederationHealth(
            name=one.federation.name,
            certificate_until=None
            if (shown_there := credentials.get(one.federation.name)) is None
            else int(shown_there.until.timestamp()),
            peers=[
                PeerHealth(
                    cluster=peer.cluster,
                    kind=peer.kind,
                    contact=peer.contact,
                    fault=peer.fault,
                    ranges=[] if peer.info is None else list(peer.info.ranges),
                    paths=by_peer.get((one.federation.name, peer.cluster), []),
                )
                for peer in one.peers
            ],
        )
        for one in known.view.federations
    ]


def part_status(keeper: Keeper, desired: DesiredNode) -> PartStatus:
    return PartStatus(
        name=keeper.name,
        rounds=keeper.rounds,
        changes=keeper.changed,
        error="; ".join(keeper.faults),
        last=list(keeper.last),
        pending=not keeper.has(desired),
    )
