"""What a node should be for all its federations: the one value that the reconcilers bring it to.

Pure. Every peer adds its own parts, so that what changes with one touches nothing of the others,
and what one tells that cannot be planned takes its own parts away alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeVar

from federation.desired import DesiredNode, Path, Policy
from federation.plan import heterogeneous, homogeneous
from federation.plan.networks import order, readable
from federation.plan.paths import PathState
from federation.plan.site import Site, ordinal_mask, reqids, site
from netspace.messages.federation import (
    Capability,
    FederationView,
    Kind,
    Peer,
    View,
)

_NOTHING_KNOWN: Final[Mapping[Path, PathState]] = MappingProxyType({})
T = TypeVar("T")


def desired(
    view: View,
    node: str,
    paths: Mapping[Path, PathState] = _NOTHING_KNOWN,
    can: Collection[Capability] | None = None,
    mtu: int = 1500,
) -> DesiredNode:
    """What `node` of the view's cluster should be. `paths`: what it knows of its paths; `can`: what
    it can do now, None: what its cluster's information says; `mtu`: of its underlay, bytes. A node
    that its cluster does not know has what stands anyway (`closed`). The mark is the first
    federation's (by name): marks do not leave a node. What cannot be planned is in `unplanned`."""
    federations = sorted(view.federations, key=lambda one: one.federation.name)
    names = [one.federation.name for one in federations]
    pairs = [(one.federation.name, peer.cluster) for one in federations for peer in one.peers]
    ids = reqids(pairs)
    mask = ordinal_mask(federations[0].federation.settings.mark) if federations else 0
    found = [DesiredNode(mark=mask), closed(view, can is None or "ipv6" in can)]
    ordinals: dict[Path, int] = {}
    for one in federations:
        name = one.federation.name
        here = next((each for each in one.own.nodes if each.name == node), None)
        if here is None:
            continue
        able = frozenset(here.capabilities if can is None else can)
        try:
            place = site(one.federation, one.own, here, able, mtu, mask)
        except ValueError as error:
            found.append(_unplanned(name, one.own.cluster, error))
            continue
        for peer in _peers(one, "heterogeneous"):
            taken = _elsewhere([each for each in names if each != name], peer, ordinals, paths)
            try:
                made = heterogeneous.parts(place, peer, ids[name, peer.cluster], paths, taken)
            except ValueError as error:
                made = _unplanned(name, peer.cluster, error)
            ordinals |= {tunnel.path: tunnel.ordinal for tunnel in made.tunnels}
            found.append(made)
        found += _mesh(place, _peers(one, "homogeneous"), paths)
    return join(found)


def closed(view: View, ipv6: bool = True) -> DesiredNode:
    """What stands from joining to leaving, whatever this node is and can: nothing goes to
    heterogeneous peers in clear, of the node's own or of its pods."""
    federations = sorted(view.federations, key=lambda one: one.federation.name)
    found = []
    for one in federations:
        local = tuple(each for each in readable(one.own.ranges) if ipv6 or each.version == 4)
        found.append(DesiredNode(local=local))
        found += [heterogeneous.blocks(one, peer) for peer in _peers(one, "heterogeneous")]
    return join(found)


def _peers(one: FederationView, kind: Kind) -> list[Peer]:
    return sorted((peer for peer in one.peers if peer.kind == kind), key=lambda peer: peer.cluster)


def _elsewhere(
    federations: Sequence[str],
    peer: Peer,
    ordinals: Mapping[Path, int],
    paths: Mapping[Path, PathState],
) -> Callable[[str], set[int]]:
    """By gateway of a peer the ordinals of the tunnels to it in these federations: as
    just given, else as before. The mark alone tells probes of two tunnels to one address apart."""

    def taken(gateway: str) -> set[int]:
        there = (Path(name, peer.cluster, gateway) for name in federations)
        return {
            ordinals[path] if path in ordinals else paths[path].ordinal
            for path in there
            if path in ordinals or path in paths
        }

    return taken


def _mesh(
    place: Site, peers: Sequence[Peer], paths: Mapping[Path, PathState]
) -> Iterator[DesiredNode]:
    """The peers of one device, less those that cannot be planned."""
    try:
        yield homogeneous.parts(place, peers, paths)
    except ValueError:
        good = []
        for peer in peers:
            try:
                homogeneous.parts(place, [peer], paths)
                good.append(peer)
            except ValueError as error:
                yield _unplanned(place.federation.name, peer.cluster, error)
        yield homogeneous.parts(place, good, paths)


def _unplanned(federation: str, cluster: str, error: ValueError) -> DesiredNode:
    return DesiredNode(unplanned=((federation, cluster, str(error)),))


def join(parts: Iterable[DesiredNode]) -> DesiredNode:
    """All parts in one, each value once. What the kernel has once, by its key, is the first part's:
    a policy by selector and mark, a route and a segment's size by the range; of two routes of pods
    that of which the size is known."""
    given = list(parts)
    pod_routes = [each for part in given for each in part.pod_routes]
    pod_routes.sort(key=lambda each: not each.mtu)
    return DesiredNode(
        mark=next((part.mark for part in given if part.mark), 0),
        tunnels=tuple(each for part in given for each in part.tunnels),
        accepts=tuple(each for part in given for each in part.accepts),
        policies=_once((each, _kernel_key(each)) for part in given for each in part.policies),
        flows=tuple(each for part in given for each in part.flows),
        exposures=tuple(each for part in given for each in part.exposures),
        vxlans=tuple(each for part in given for each in part.vxlans),
        routes=_once((each, each.destination) for part in given for each in part.routes),
        pod_routes=_once((each, each.destination) for each in pod_routes),
        local=tuple(sorted({each for part in given for each in part.local}, key=order)),
        remote=tuple(sorted({each for part in given for each in part.remote}, key=order)),
        peers=tuple(sorted({each for part in given for each in part.peers})),
        ports=tuple(sorted({each for part in given for each in part.ports})),
        mss=_once((each, each[0]) for part in given for each in part.mss),
        unplanned=tuple(each for part in given for each in part.unplanned),
    )


def _kernel_key(policy: Policy) -> tuple[object, ...]:
    """What the kernel tells policies apart by: the selector, the mark and the direction, which of
    block and bypass is `out`."""
    direction = policy.action if policy.action in ("in", "fwd") else "out"
    return (
        direction,
        policy.source,
        policy.destination,
        policy.protocol,
        policy.port,
        policy.mark,
        policy.mask,
    )


def _once(keyed: Iterable[tuple[T, object]]) -> tuple[T, ...]:
    first: dict[object, T] = {}
    for value, key in keyed:
        first.setdefault(key, value)
    return tuple(first.values())
