"""How a cluster's federations are, in one document: the leader's, of what it has in memory."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Literal

from federation.plan.availability import gateways
from federation.plan.gateways import is_gateway
from federation.plan.overlap import of_info
from federation.server.checks import ranges_fault
from federation.server.claiming import clash, own_clash
from federation.server.exchange import Exchange
from federation.server.info import federated, missing
from federation.server.leading import Duty
from federation.server.place import member_of
from federation.server.service import Service
from federation.server.state import FederationRecord, State, unread
from federation.server.words import Words
from netspace import __version__
from netspace.messages.federating import (
    FederationServer,
    FederationsStatus,
    FederationStatus,
    NodeStatus,
    PeerStatus,
)
from netspace.messages.federation import Member, NodeWord

TunnelState = Literal["up", "connecting", "down"]


def status_of(service: Service) -> FederationsStatus:
    """`Problem` not-leader where this server does not lead."""
    duty, state = service.duty, service.place.state
    why = service.why_not_ready()
    return FederationsStatus(
        version=__version__,
        cluster=service.place.cluster,
        server=service.me.name,
        leader=None if state.leader is None else state.leader.name,
        ready=not why,
        why=why,
        servers=[
            FederationServer(
                name=each.name,
                endpoint=each.endpoint,
                keys=list(each.keys),
                uncertified=list(each.uncertified),
            )
            for _, each in sorted(state.servers.items())
        ],
        federations=[
            _federation(service, duty, state, record)
            for _, record in sorted(state.federations.items())
        ]
        + [_unreadable(name, why) for name, why in sorted(unread(state).items())],
        nodes=nodes_of(duty.words, state.federations.values(), time.monotonic()),
        certificates=service.identity.expires(),
    )


def nodes_of(words: Words, federations: Iterable[FederationRecord], now: float) -> list[NodeStatus]:
    """The nodes by their own words, and whether they are gateways of any of the federations."""
    layouts = {record.local.layout for record in federations}
    found = []
    for name, heard in sorted(words.heard.items()):
        word, node = heard.word, heard.node
        findings = [] if word is None else word.findings
        found.append(
            NodeStatus(
                node=name,
                heard=None if word is None else now - heard.at,
                down=node.down,
                gateway=any(is_gateway(layout, node) for layout in layouts),
                cni=None if word is None else word.cni,
                addresses=node.addresses,
                capabilities=node.capabilities,
                paths=[] if word is None else word.paths,
                faults=[str(each) for each in findings if each.verdict == "fault"],
                findings=findings,
            )
        )
    return found


def _federation(
    service: Service, duty: Duty, state: State, record: FederationRecord
) -> FederationStatus:
    federation, cluster = record.federation, service.place.cluster
    own = state.own.get(federation.name)
    words = [heard.word for heard in duty.words.heard.values() if heard.word is not None]
    now = time.time()
    return FederationStatus(
        name=federation.name,
        founder=federation.founder,
        number=federation.number,
        version=None if own is None else own.version,
        ranges=[] if own is None else own.ranges,
        peers=[
            peer_of(state, record, member, cluster, asking, words, now)
            for member in federation.members
            if member.cluster != cluster
            for asking in [duty.exchanges.get((federation.name, member.cluster))]
        ],
        faults=faults_of(service, duty, state, record),
        certificate=service.identity.expires().get(federation.name),
    )


def _unreadable(name: str, why: str) -> FederationStatus:
    """A federation whose record counts as not being there."""
    fault = (
        f"what etcd has of federation {name} cannot be understood: {why}; restore or remove the key"
        f" that ends with federations/{name}"
    )
    return FederationStatus(
        name=name, founder="", number=0, version=None, ranges=[], peers=[], faults=[fault]
    )


def faults_of(service: Service, duty: Duty, state: State, record: FederationRecord) -> list[str]:
    """What is wrong with this cluster in a federation."""
    name, cluster = record.federation.name, service.place.cluster
    found = []
    if member_of(record, cluster) is None:
        found.append(f"this cluster was removed from federation {name}: leave it, or join again")
    if name in service.identity.faults:
        found.append(service.identity.faults[name])
    found += [
        f"server {server.name} has no certificate of federation {name}: if it comes to lead, other"
        " members will not hear it; its log says why"
        for _, server in sorted(state.servers.items())
        if name in server.uncertified and server.name != service.me.name
    ]
    found += duty.faults.values()
    if duty.ranges_known:
        site = duty.site()
        found += missing(site, record.local)
        if fault := ranges_fault(str(each) for each in federated(site, record.local)):
            found.append(f"its ranges stay as they were: {fault}")
    found += [
        f"{'/'.join(parts)} in etcd cannot be understood, and is passed over: {why}"
        for parts, why in sorted(state.unreadable.items())
        if name in parts[1:2]
    ]
    own, uses = state.own.get(name), duty.own()
    clashes = [own_clash(state, name, uses)]
    if own is not None:
        clashes.append(clash(state, record, of_info(own), uses))
        if not own.ranges:
            found.append("no range is federated: nothing of this cluster can be reached")
    found += [fault for fault in clashes if fault]
    return found


def peer_of(
    state: State,
    record: FederationRecord,
    member: Member,
    own: str,
    exchange: Exchange | None,
    words: list[NodeWord],
    now: float,
) -> PeerStatus:
    """Another member, as it is known here; `now` is the Unix time."""
    name, cluster = record.federation.name, member.cluster
    info = state.peers.get((name, cluster))
    contact = state.contacts.get((name, cluster)) if exchange is None else exchange.contact
    kind = record.federation.kind(own, cluster)
    tunnels: dict[TunnelState, int] = {"up": 0, "connecting": 0, "down": 0}
    for word in words:
        for path in word.paths:
            if path.federation == name and path.cluster == cluster:
                tunnels[path.state] += 1
    return PeerStatus(
        cluster=cluster,
        kind=kind,
        reached=exchange is not None and exchange.reached,
        contact=contact,
        age=None if contact is None else max(0.0, now - contact),
        why="" if exchange is None else exchange.why,
        fault=state.faults.get((name, cluster), ""),
        version=None if info is None else info.version,
        cni=member.cni if info is None else info.cni,
        ranges=member.ranges if info is None else info.ranges,
        nodes=0 if info is None else len(info.nodes),
        down=0 if info is None else sum(node.down is not None for node in info.nodes),
        gateways=[] if info is None or kind == "homogeneous" else gateways(info),
        available=state.available.get(name, {}).get(cluster, []),
        tunnels=tunnels,
        clock=None if exchange is None else exchange.clock,
    )
