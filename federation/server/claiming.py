"""What overlaps what, over all federations of this cluster. Pure.

A cluster's nodes have the rules of all its federations at once, so a range is one cluster's in all
of them: else a member of one could draw the traffic of another one, or of this cluster, to itself.
A cluster is the same one where it has the same name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from federation.plan.overlap import Claims, Overlap, first_overlap, of_info, of_member
from federation.server.checks import address_fault, subnet_fault
from federation.server.info import Site, subnets
from federation.server.state import FederationRecord, State
from netspace.messages.federation import FederatedNode


@dataclass(frozen=True, slots=True)
class Own:
    """What this cluster uses itself, federated or not, as subnets."""

    cluster: str
    ranges: tuple[str, ...] = ()


def own_of(site: Site) -> Own:
    """Of what is known of this cluster: its nodes' ranges, its pools and networks."""
    found = {text for node in site.nodes for text in node.ranges}
    for spans in (*site.pools.values(), *site.networks.values()):
        for span in spans:
            found.update(str(each) for each in subnets(span))
    return Own(site.cluster, tuple(sorted(found)))


def clash(state: State, record: FederationRecord | None, new: Claims, own: Own) -> str:
    """The overlap of a member's claims with those of another cluster, in words; empty if there is
    none. `record`: the federation that it makes them in, None where there is none yet."""
    found = _first_overlap(new, list(_others(state, record)))
    if found is not None:
        return str(found)
    return _used(new, own)


def own_clash(state: State, name: str, own: Own) -> str:
    """The overlap of what this cluster uses itself with what was taken of a federation's other
    members before."""
    for (federation, _), info in state.peers.items():
        if federation == name and (found := _used(of_info(info), own)):
            return found
    return ""


def _used(new: Claims, own: Own) -> str:
    # What is not federated here may well be a Service CIDR or the like there.
    ranges = Claims(new.cluster, new.ranges)
    found = _first_overlap(ranges, [Claims(own.cluster, own.ranges)])
    if found is None:
        return ""
    return (
        f"range {found.one} of cluster {new.cluster} overlaps {found.other}, which cluster"
        f" {own.cluster} uses itself"
    )


def node_clash(state: State, cluster: str, node: FederatedNode) -> str:
    """The overlap of what an own node says it has with the ranges of another member. It is refused
    there: told on, it would be the whole cluster that is not heard any more."""
    new = Claims(cluster, tuple(node.ranges), (), tuple(node.addresses))
    others = [Claims(info.cluster, tuple(info.ranges)) for info in state.peers.values()]
    found = _first_overlap(new, others)
    return "" if found is None else str(found)


def _others(state: State, record: FederationRecord | None) -> Iterable[Claims]:
    """What the members of a federation have, as far as is known here; and what has been taken of
    those of the other ones. What a founder says of them is not enough there: it could keep anybody
    out of another federation."""
    name = "" if record is None else record.federation.name
    for other, info in state.own.items():
        if other != name:
            yield of_info(info)
    for (other, _), info in state.peers.items():
        if other != name:
            yield of_info(info)
    if record is not None:
        yield from claims(state, record)


def claims(state: State, record: FederationRecord) -> list[Claims]:
    """What the members of a federation have, as far as is known here."""
    name = record.federation.name
    own = state.own.get(name)
    found = []
    for member in record.federation.members:
        mine = own is not None and member.cluster == own.cluster
        info = own if mine else state.peers.get((name, member.cluster))
        found.append(of_member(member) if info is None else of_info(info))
    return found


def _first_overlap(new: Claims, others: Sequence[Claims]) -> Overlap | None:
    try:
        return first_overlap(new, others)
    except ValueError:
        # What was stored before it was checked as strictly must not keep all others out.
        return first_overlap(_sound(new), [_sound(other) for other in others])


def _sound(claims: Claims) -> Claims:
    def subnet(texts: Sequence[str]) -> tuple[str, ...]:
        return tuple(text for text in texts if not subnet_fault(text))

    nodes = tuple(text for text in claims.nodes if not address_fault(text))
    return Claims(claims.cluster, subnet(claims.ranges), subnet(claims.services), nodes)
