"""What is told of the state: pure translations from the state to the messages on the wire."""

from __future__ import annotations

import heapq
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Literal

from ipam_server.inventory import NetworkState, PoolState
from ipam_server.keys import SlotId
from ipam_server.pools import network_of, total_free
from ipam_server.records import FabricRecord, Holder
from ipam_server.state import ClusterState
from netspace.messages import (
    AddressEntry,
    AddressPage,
    Allocation,
    Fabric,
    FabricMember,
    Network,
    NetworkView,
    Node,
    Pool,
)
from netspace.problems import Problem
from netspace.slots import SlotError, SlotMap, parse_address

AddressState = Literal["used", "reserved", "cooling", "retained", "free", "never"]


@dataclass(frozen=True, slots=True)
class AddressFilter:
    """What a list of addresses is cut down to; None takes all."""

    network: str | None = None
    pool: str | None = None
    namespace: str | None = None
    pod: str | None = None
    node: str | None = None
    state: str | None = None


def fabric(record: FabricRecord) -> Fabric:
    return Fabric(
        name=record.name,
        members=[
            FabricMember(
                cluster=member.cluster,
                network=member.network,
                vlan=member.vlan,
                ipv4=member.ipv4,
                ipv6=member.ipv6,
                ranges=member.ranges,
            )
            for member in record.members
        ],
    )


def network(state: ClusterState, name: str) -> Network:
    known = state.networks[name]
    record = known.record
    return Network(
        name=name,
        revision=known.revision,
        uid=record.uid,
        fabric=record.fabric,
        parent=record.parent,
        vlan=record.vlan,
        ipv4=record.ipv4,
        ipv6=record.ipv6,
        gateway4=record.gateway4,
        gateway6=record.gateway6,
        mapping=record.mapping,
        mtu=record.mtu,
        range=record.range,
        exclude=record.exclude,
        total=str(known.total.size),
        carved=str(known.total.size - total_free(state, name).size),
        used=len(known.held),
        reserved=known.reserved,
    )


def pool(state: ClusterState, known: PoolState, now: int) -> Pool:
    state.settle(known, now)
    record = known.record
    slots = state.networks[record.network].slots
    return Pool(
        name=known.name,
        revision=known.revision,
        kind=record.kind,
        network=record.network,
        parent=record.parent,
        ranges=slots.format_ranges(known.ranges),
        namespaces=record.namespaces,
        cooldown=record.cooldown,
        retention=record.retention,
        elastic=record.elastic,
        replicas=record.replicas,
        surplus=record.surplus,
        size=str(known.size),
        used=known.used,
        cooling=len(known.cooling),
        retained=len(known.retained),
        free=str(known.size - known.used - len(known.cooling) - len(known.retained)),
        never=str(known.never.count),
    )


def node(state: ClusterState, name: str) -> Node | None:
    """None for a node that has neither reported nor holds an address."""
    report = state.nodes.get(name)
    used = state.used_by.get(name, 0)
    if report is None and not used:
        return None
    return Node(
        name=name,
        version=report.version if report else None,
        reported=report is not None,
        links=report.links if report else [],
        used=used,
    )


def allocation(
    state: ClusterState, slot: SlotId, holder: Holder, generation: int, how: str
) -> Allocation:
    known = state.networks[slot[0]]
    record = known.record
    ipv4, ipv6 = addresses(known.slots, slot[1])
    return Allocation(
        cluster=state.name,
        pool=holder.pool,
        slot=str(slot[1]),
        generation=generation,
        ipv4=ipv4 if "ipv4" in (holder.families or ("ipv4",)) else None,
        ipv6=ipv6 if "ipv6" in (holder.families or ("ipv6",)) else None,
        network=NetworkView(
            name=slot[0],
            uid=record.uid,
            parent=record.parent,
            vlan=record.vlan,
            ipv4=record.ipv4,
            ipv6=record.ipv6,
            gateway4=record.gateway4,
            gateway6=record.gateway6,
            mapping=record.mapping,
            mtu=record.mtu,
        ),
        how=how,
    )


def addresses(slots: SlotMap, index: int) -> tuple[str | None, str | None]:
    """The IPv4 and the IPv6 address of a slot."""
    ipv4, ipv6 = slots.ipv4_of(index), slots.ipv6_of(index)
    return str(ipv4) if ipv4 else None, _text(ipv6) if ipv6 else None


def _text(address: IPv6Address) -> str:
    """As `str` gives it, in a tenth of the time."""
    text = socket.inet_ntop(socket.AF_INET6, address.packed)
    # The two differ in where they write the last 32 bits as an IPv4 address.
    return str(address) if "." in text else text


def find_slot(state: ClusterState, address: str, network: str | None) -> SlotId:
    """The slot of an address; the network must be named where several have it."""
    if network is not None:
        network_of(state, network)
    found = []
    try:
        parsed = parse_address(address)
    except SlotError as error:
        raise Problem("invalid", str(error)) from None
    for name, known in state.networks.items():
        if network in (None, name):
            try:
                found.append((name, known.slots.index_of(parsed)))
            except SlotError:
                continue
    if not found:
        where = f"network {network}" if network else f"any network of cluster {state.name}"
        raise Problem("not-found", f"{address} is not in {where}")
    if len(found) > 1:
        names = ", ".join(name for name, _ in found)
        raise Problem("invalid", f"{address} is in several networks", do=f"name one of {names}")
    return found[0]


def address(state: ClusterState, slot: SlotId, now: int) -> AddressEntry:
    """How a slot stands; `never` for one that nobody has had."""
    known = state.networks[slot[0]]
    owner = known.owner(slot[1])
    ipv4, ipv6 = addresses(known.slots, slot[1])
    entry = AddressEntry(
        network=slot[0],
        slot=str(slot[1]),
        ipv4=ipv4,
        ipv6=ipv6,
        state=address_state(state, slot, now),
        pool=owner.name if owner else None,
    )
    held, released = state.held(slot), state.released(slot)
    if held is not None:
        holder = held.holder
        entry.generation = held.generation
        entry.node, entry.namespace = holder.node or None, holder.namespace or None
        entry.pod, entry.uid = holder.pod or None, holder.uid or None
        entry.container, entry.ifname = holder.container or None, holder.ifname or None
        entry.note = holder.note or None
    elif released is not None:
        release = released.release
        if release.identity is not None:
            entry.namespace, entry.pod, entry.ifname = release.identity
        entry.uid, entry.node = release.uid or None, release.node or None
        left = state.rest_left(slot, now) / 1000 or None
        if state.retained(slot):
            entry.retention_left = left
        else:
            entry.cooldown_left = left
    return entry


def address_state(state: ClusterState, slot: SlotId, now: int) -> AddressState:
    held = state.held(slot)
    if held is not None:
        return "reserved" if held.holder.reserved else "used"
    if state.released(slot) is None:
        return "never"
    if not state.rest_left(slot, now):
        return "free"
    return "retained" if state.retained(slot) else "cooling"


def address_page(
    state: ClusterState, wanted: AddressFilter, limit: int, after: str | None, now: int
) -> AddressPage:
    """Held and released slots in the order of network and index, `limit` of them behind `after`."""
    start = _mark(after) if after else ("", -1)
    matches = _filter(state, wanted, now)
    found: list[SlotId] = []
    for name in sorted(state.networks):
        if name < start[0] or (wanted.network is not None and name != wanted.network):
            continue
        lowest = start[1] if name == start[0] else -1
        known = state.networks[name]
        candidates = (i for i in _indices(known) if i > lowest and matches((name, i)))
        found += [(name, i) for i in heapq.nsmallest(limit + 1 - len(found), candidates)]
        if len(found) > limit:
            break
    more = found[limit - 1] if len(found) > limit else None
    return AddressPage(
        items=[address(state, slot, now) for slot in found[:limit]],
        next=f"{more[0]}/{more[1]:x}" if more else None,
    )


def _mark(after: str) -> SlotId:
    """Where a page ended: `NETWORK/INDEX`, as `next` said it."""
    network, _, index = after.rpartition("/")
    try:
        return network, int(index, 16)
    except ValueError:
        raise Problem("invalid", f"after: {after[:60]!r} is not what a page gave as next") from None


def _indices(known: NetworkState) -> Iterator[int]:
    yield from known.held
    yield from (index for index in known.released if index not in known.held)


def _filter(state: ClusterState, wanted: AddressFilter, now: int) -> Callable[[SlotId], bool]:
    def matches(slot: SlotId) -> bool:
        if wanted.pool is not None:
            owner = state.owner(slot)
            if owner is None or owner.name != wanted.pool:
                return False
        if wanted.state is not None and address_state(state, slot, now) != wanted.state:
            return False
        if wanted.namespace is None and wanted.pod is None and wanted.node is None:
            return True
        namespace, pod, on = _who(state, slot)
        return (
            wanted.namespace in (None, namespace)
            and wanted.pod in (None, pod)
            and wanted.node in (None, on)
        )

    return matches


def _who(state: ClusterState, slot: SlotId) -> tuple[str, str, str]:
    held, released = state.held(slot), state.released(slot)
    if held is not None:
        return held.holder.namespace, held.holder.pod, held.holder.node
    assert released is not None
    identity = released.release.identity or ("", "", "")
    return identity[0], identity[1], released.release.node
