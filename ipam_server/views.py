"""What is told of the state: pure translations from the state to the messages on the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from ipam_server.inventory import PoolState
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
from netspace.ranges import Ranges
from netspace.slots import SlotError, SlotMap, parse_address

LOOKED: Final = 1000
"""Slots that are looked at for a page without giving way to others."""

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
        services=record.services,
        owner=record.owner,
        total=str(known.total.size),
        carved=str(known.total.size - total_free(state, name).size),
        used=len(known.held),
        reserved=len(known.reservations),
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
        probe=record.probe,
        replicas=record.replicas,
        surplus=record.surplus,
        size=str(known.size),
        used=known.used,
        cooling=len(known.cooling),
        retained=len(known.retained),
        free=str(known.size - known.used - len(known.cooling) - len(known.retained)),
        never=str(known.never.count),
        owner=record.owner,
    )


def node(state: ClusterState, name: str) -> Node | None:
    """None for a node that has not reported, holds no address and is not fenced."""
    report = state.nodes.get(name)
    used = state.used_by.get(name, 0)
    said = state.fenced.get(name)
    if report is None and not used and said is None:
        return None
    return Node(
        name=name,
        version=report.version if report else None,
        reported=report is not None,
        links=report.links if report else [],
        used=used,
        networks=report.networks if report else [],
        fenced=said.record.why if said else None,
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
        probe=holder.pool in state.pools and state.pools[holder.pool].record.probe,
    )


def addresses(slots: SlotMap, index: int) -> tuple[str | None, str | None]:
    """The IPv4 and the IPv6 address of a slot."""
    return slots.texts_of(index)


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
    """Held and released slots in the order of network and index, at most `limit` of them behind
    `after`. No more than `LOOKED` are looked at: the page may be short, or empty, and have a `next`
    all the same."""
    start = _mark(after) if after else ("", -1)
    matches = _filter(state, wanted, now)
    found: list[SlotId] = []
    last, left = start, LOOKED
    for name in sorted(state.networks):
        if name < start[0] or (wanted.network is not None and name != wanted.network):
            continue
        for index in _indices(state, name, wanted.pool, start[1] if name == start[0] else -1):
            if not left or len(found) == limit:
                items = [address(state, slot, now) for slot in found]
                return AddressPage(items=items, next=f"{last[0]}/{last[1]:x}")
            left -= 1
            last = name, index
            if matches(last):
                found.append(last)
    return AddressPage(items=[address(state, slot, now) for slot in found], next=None)


def _mark(after: str) -> SlotId:
    """Where a page ended: `NETWORK/INDEX`, as `next` said it."""
    network, _, index = after.rpartition("/")
    try:
        return network, int(index, 16)
    except ValueError:
        raise Problem("invalid", f"after: {after[:60]!r} is not what a page gave as next") from None


def _indices(state: ClusterState, network: str, pool: str | None, after: int) -> Iterator[int]:
    """What is held or released of a network, behind an index; of a pool not much more than what
    is its own."""
    last = None
    if pool is not None:
        own = state.pools[pool].own if pool in state.pools else Ranges()
        if not own or state.pools[pool].record.network != network:
            return
        after, last = max(after, own.first - 1), own.last
    for index in state.networks[network].indices.after(after):
        if last is not None and index > last:
            return
        yield index


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
