"""What a node should be for a peer of another CNI: ESP tunnels to its gateways, and what leads into
them.

The block policies stand from joining to leaving, and so do pods' routes, by which what pods on
macvlan send comes to the node and is blocked there. Everything else is there while the pair is
healthy: what both clusters are is known, and this node is one of its own and can do IPsec.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from federation.desired import (
    Accept,
    DesiredNode,
    Exposure,
    Flows,
    Network,
    Path,
    PodRoute,
    Policy,
    RangeRoute,
    Tunnel,
)
from federation.plan import gateways
from federation.plan.networks import (
    EVERYTHING,
    ends,
    inside,
    network,
    networks,
    number,
    pair_of_ends,
    readable,
)
from federation.plan.paths import PathState
from federation.plan.site import Site
from netspace.messages.federation import ClusterInfo, FederationView, Peer, PortSpan

IKE_PORTS: Final = (500, 4500)
_OUTER: Final = {4: 20, 6: 40}
_ESP: Final = 8 + 8 + 16
"""SPI and sequence number, the nonce and the check of AES-GCM (RFC 4303, RFC 4106)."""
_TRAILER: Final = 2
TCP_HEADERS: Final = {4: 40, 6: 60}
UDP: Final = 17


def blocks(view: FederationView, peer: Peer) -> DesiredNode:
    """What stands whatever the health: nothing leaves for the peer's ranges in clear, neither by
    this node nor past it. Before the peer told its ranges those that it joined with are blocked."""
    if peer.info is not None:
        texts = peer.info.ranges
    else:
        members = view.federation.members
        texts = next((one.ranges for one in members if one.cluster == peer.cluster), [])
    ranges = readable(texts)
    return DesiredNode(
        policies=tuple(_block(each) for each in ranges),
        pod_routes=tuple(PodRoute(each) for each in ranges),
    )


def healthy(site: Site, peer: Peer) -> ClusterInfo | None:
    """What the peer tells, if traffic with it may be: both clusters have told ranges, and this node
    has an address and IPsec."""
    if peer.info is None or not peer.info.ranges or not site.own.ranges:
        return None
    return peer.info if site.ends and "ipsec" in site.can else None


def parts(
    site: Site,
    peer: Peer,
    reqid: int,
    paths: Mapping[Path, PathState],
    taken: Callable[[str], Collection[int]] = lambda name: (),
) -> DesiredNode:
    """This node's part for one peer, without what stands anyway. `taken`: by gateway the ordinals
    of this node's tunnels to it in other federations. Raises ValueError where the peer tells what
    is no address, range or span of ports."""
    info = healthy(site, peer)
    if info is None:
        return DesiredNode()
    remote = networks(info.ranges, site.ipv6)
    tunnels = _tunnels(site, info, peer.available, reqid, paths, taken)
    accepts = _accepts(site, peer, info, reqid)
    policies = [
        *_bypasses(site, info, remote),
        *_outgoing(site, remote, tunnels),
        *_incoming(site, remote, reqid),
    ]
    if accepts:
        policies.extend(_probed(site))
    usable = frozenset(tunnel.ordinal for tunnel in tunnels if tunnel.usable)
    buckets = gateways.buckets(frozenset(tunnel.ordinal for tunnel in tunnels), usable)
    mtu = _mtu(site, tunnels, paths)
    name, cluster, settings = site.federation.name, peer.cluster, site.federation.settings
    return DesiredNode(
        tunnels=tunnels,
        accepts=accepts,
        policies=tuple(policies),
        flows=(Flows(name, cluster, site.local, remote, buckets or (0,) * 64),),
        exposures=(exposure(name, site.own, info),),
        routes=tuple(_routes(site, info, remote, tunnels, mtu)),
        pod_routes=pod_routes(remote, mtu),
        remote=remote,
        peers=underlay(info),
        ports=(*IKE_PORTS, settings.probe_port),
        mss=segments(remote, mtu),
    )


def _block(one: Network) -> Policy:
    return Policy("block", EVERYTHING[one.version], one)


def _tunnels(
    site: Site,
    info: ClusterInfo,
    available: list[str],
    reqid: int,
    paths: Mapping[Path, PathState],
    taken: Callable[[str], Collection[int]],
) -> tuple[Tunnel, ...]:
    federation, cluster = site.federation.name, info.cluster
    reached = {
        node.name: pair
        for node in info.nodes
        if gateways.is_gateway(info.layout, node)
        and (pair := pair_of_ends(site.ends, ends(node))) is not None
    }

    def state(name: str) -> PathState:
        return paths.get(Path(federation, cluster, name), _UNSEEN)

    chosen = gateways.choose(
        f"{site.own.cluster}/{site.node.name}",
        cluster,
        reached,
        available,
        site.federation.settings.gateways,
        lambda name: state(name).usable,
    )
    before = {name: state(name).ordinal for name in chosen}
    ordinals = gateways.ordinals(chosen, before, {name: taken(name) for name in chosen})
    tunnels = []
    for name in chosen:
        local, remote = reached[name]
        path = Path(federation, cluster, name)
        tunnels.append(Tunnel(path, local, remote, ordinals[name], reqid, state(name).usable))
    return tuple(sorted(tunnels, key=lambda tunnel: tunnel.ordinal))


_UNSEEN: Final = PathState()


def _accepts(site: Site, peer: Peer, info: ClusterInfo, reqid: int) -> tuple[Accept, ...]:
    """Where nodes of the peer bring tunnels up to, if this node is a gateway of its cluster: the
    end of the first family that any of them has too."""
    if site.own.layout == "centralised" and not site.node.gateway:
        return ()
    used = set()
    for node in info.nodes:
        pair = pair_of_ends(site.ends, ends(node))
        if pair is not None:
            used.add(pair[0])
    name = site.federation.name
    return tuple(Accept(name, peer.cluster, peer.ca, local, reqid) for local in sorted(used))


def _bypasses(site: Site, info: ClusterInfo, remote: tuple[Network, ...]) -> Iterator[Policy]:
    """In clear: what goes to nodes and endpoints of the peer that have addresses inside its ranges,
    since tunnels end there, and what they themselves say to this node, if it has such too."""
    addresses = {address for node in info.nodes for address in node.addresses}
    addresses.update(filter(None, map(_endpoint_address, info.endpoints)))
    ours = [network(one) for one in inside(site.node.addresses, site.local)]
    for address in sorted(inside(addresses, remote)):
        one = network(address)
        yield Policy("bypass", EVERYTHING[one.version], one)
        for own in ours:
            if own.version == one.version:
                yield Policy("in", one, own, local=_end(site), optional=True)


def _outgoing(
    site: Site, remote: tuple[Network, ...], tunnels: tuple[Tunnel, ...]
) -> Iterator[Policy]:
    """Into each tunnel: what has its mark and goes to the peer's ranges, and probes of it. What has
    no mark takes the first usable one: a packet of the node's own is routed before the firewall
    marks it, and would be blocked there."""
    unmarked = next((tunnel.ordinal for tunnel in tunnels if tunnel.usable), 0)
    port = site.federation.settings.probe_port
    for tunnel in tunnels:
        into = Policy(
            "out",
            network(tunnel.local),
            network(tunnel.remote),
            UDP,
            port,
            site.mark(tunnel.ordinal),
            site.mask,
            tunnel.local,
            tunnel.remote,
            tunnel.reqid,
        )
        yield into
        for one in remote:
            anything = EVERYTHING[one.version]
            carried = replace(into, source=anything, destination=one, protocol=0, port=0)
            yield carried
            if tunnel.ordinal == unmarked:
                yield replace(carried, mark=0)


def _incoming(site: Site, remote: tuple[Network, ...], reqid: int) -> Iterator[Policy]:
    """What comes from the peer's ranges for ours came by ESP. In clear it may come from the own
    cluster's gateways, which hand on what they decrypted: to pods that lie on this node, and where
    pods are not grouped by node to this node's own address among them."""
    end = _end(site)
    for source in remote:
        for local in _of(source, site.local, site.behind):
            handed_on = local in site.behind
            here = handed_on or not site.own.grouped
            yield Policy("in", source, local, local=end, reqid=reqid, optional=here)
            yield Policy("fwd", source, local, local=end, reqid=reqid, optional=handed_on)


def _end(site: Site) -> str:
    return site.ends.get(4) or site.ends[6]


def _of(source: Network, *ranges: tuple[Network, ...]) -> list[Network]:
    """The ranges of the source's family, each once."""
    return list(
        dict.fromkeys(one for each in ranges for one in each if one.version == source.version)
    )


def _probed(site: Site) -> Iterator[Policy]:
    """A probe counts only if it came by a tunnel, whoever's."""
    port = site.federation.settings.probe_port
    for address in site.ends.values():
        own = network(address)
        yield Policy("in", EVERYTHING[own.version], own, UDP, port, local=address)


def _routes(
    site: Site,
    info: ClusterInfo,
    remote: tuple[Network, ...],
    tunnels: tuple[Tunnel, ...],
    mtu: int,
) -> Iterator[RangeRoute]:
    """By way of the first gateway's address, of the range's own family where both ends have one:
    the ESP packets then find their own way."""
    if not tunnels:
        return
    first = tunnels[0]
    node = next(node for node in info.nodes if node.name == first.path.node)
    far = ends(node)
    for one in remote:
        both = one.version in far and one.version in site.ends
        yield RangeRoute(one, far[one.version] if both else first.remote, mtu)


def _mtu(site: Site, tunnels: tuple[Tunnel, ...], paths: Mapping[Path, PathState]) -> int:
    """Of the tightest tunnel: a flow may take any."""
    known = []
    for tunnel in tunnels:
        state = paths.get(tunnel.path, _UNSEEN)
        known.append(state.mtu or esp_mtu(site.mtu, tunnel.remote))
    return min(known, default=esp_mtu(site.mtu, _end(site)))


def esp_mtu(mtu: int, end: str) -> int:
    """What goes through an ESP tunnel with AES-GCM to an address over an underlay of `mtu` bytes
    without NAT, before anything is measured: whole words of payload with the trailer."""
    room = mtu - _OUTER[6 if ":" in end else 4] - _ESP
    return room // 4 * 4 - _TRAILER


def pod_routes(remote: tuple[Network, ...], mtu: int) -> tuple[PodRoute, ...]:
    """The ranges as pods' own routes with what a packet and a TCP segment may have."""
    return tuple(PodRoute(one, mtu, mtu - TCP_HEADERS[one.version]) for one in remote)


def segments(remote: tuple[Network, ...], mtu: int) -> tuple[tuple[Network, int], ...]:
    """By range the largest TCP segment."""
    return tuple((one, mtu - TCP_HEADERS[one.version]) for one in remote)


def exposure(federation: str, own: ClusterInfo, info: ClusterInfo) -> Exposure:
    """What each of two clusters lets the other reach."""
    ours, theirs = _spans(own.exposed), _spans(info.exposed)
    return Exposure(federation, info.cluster, ours, theirs, networks(info.ranges))


def _spans(spans: list[PortSpan]) -> tuple[tuple[str, int, int], ...]:
    for span in spans:
        if span.first > span.last:
            # Leaving it out might leave none, and none means all.
            raise ValueError(f"{span.transport}/{span.first}-{span.last} is no span of ports")
    return tuple(sorted({(span.transport, span.first, span.last) for span in spans}))


def underlay(info: ClusterInfo) -> tuple[str, ...]:
    """All addresses that the cluster's nodes may speak from. Raises ValueError for what is none."""
    addresses = {address: None for node in info.nodes for address in node.addresses}
    for address in addresses:
        number(address)
    return tuple(addresses)


def _endpoint_address(endpoint: str) -> str:
    """The address of an endpoint, empty where it is a name."""
    try:
        host = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").hostname
        return str(ip_address(host)) if host else ""
    except ValueError:
        return ""
