"""What one cluster's state is in memory, and the one function that changes it: `apply`.

Loading, a leader's own commits and a follower's watch all feed `apply(revision, events)`. Choices
that are on their way to etcd are laid over it by `take` and `give_back`, so that decisions see
committed plus in-flight state.

Invariants
- A slot is held, or taken (in flight), or in exactly one queue of the one pool that owns it, or in
  no pool. `place` alone decides which.
- An index belongs to the deepest pool that covers it: nested pools are taken from their parent.
- Revisions come in order; what is not newer than the state is skipped, so that hearing of a change
  twice changes nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile

import msgspec

from ipam_server.inventory import (
    Absences,
    Fenced,
    Held,
    Namespaced,
    NetworkState,
    PoolState,
    Released,
)
from ipam_server.keys import AttachmentKey, Claimed, Keys, SlotId, slot_id
from ipam_server.records import (
    AbsencesRecord,
    FencingRecord,
    Holder,
    Identity,
    NamespaceRecord,
    NetworkRecord,
    NodeRecord,
    PoolRecord,
    decode_holder,
    decode_release,
)
from ipam_server.resizing import resize
from netspace.ranges import Interval, Ranges
from statestore import Event, KeyValue


class _Moment(msgspec.Struct):
    """What of an audit entry is kept in memory."""

    at: int = 0


@dataclass(slots=True)
class ClusterState:
    """Everything that is known of a cluster at `revision`.

    `attachments` follow from the holders, whose transactions write their keys beside the slots'.
    `led_since`: the revision at which the last leader's term began.
    `names`: the slots that a named pod holds or held last. `earlier`: how many held slots had the
    name before their present holder. `used_by`: held slots by node. `strays`: keys of networks that
    do not exist. `audit`: when each remembered change was made, by its key. `buried`: when each
    claim was released, by the cluster's clock, about in that order. `disputed`: slots that some
    node's live attachment has and is not known for: nobody gets them, free or not. `resizing`:
    networks of which a pool grows or shrinks in a transaction under way. `vmacs`: the slot of each
    network's and node's vmac. `fenced`: the nodes that Kubernetes says run nothing any more.
    `namespaces`: what namespaces choose by default."""

    name: str
    keys: Keys = field(init=False)
    revision: int = 0
    clock: int = 0
    leader: bytes | None = None
    led_since: int = 0
    networks: dict[str, NetworkState] = field(default_factory=dict)
    pools: dict[str, PoolState] = field(default_factory=dict)
    nodes: dict[str, NodeRecord] = field(default_factory=dict)
    absences: dict[str, Absences] = field(default_factory=dict)
    fenced: dict[str, Fenced] = field(default_factory=dict)
    namespaces: dict[str, Namespaced] = field(default_factory=dict)
    attachments: dict[AttachmentKey, SlotId] = field(default_factory=dict)
    names: dict[Identity, tuple[SlotId, ...]] = field(default_factory=dict)
    earlier: dict[Identity, int] = field(default_factory=dict)
    taken: set[SlotId] = field(default_factory=set)
    resizing: set[str] = field(default_factory=set)
    used_by: dict[str, int] = field(default_factory=dict)
    reshaped: set[str] = field(default_factory=set)
    strays: set[bytes] = field(default_factory=set)
    _last: int = 0
    audit: dict[bytes, int] = field(default_factory=dict)
    buried: dict[Claimed, int] = field(default_factory=dict)
    disputed: dict[SlotId, int] = field(default_factory=dict)
    vmacs: dict[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys = Keys(self.name)

    # Reading

    def held(self, slot: SlotId) -> Held | None:
        network = self.networks.get(slot[0])
        return network.held.get(slot[1]) if network else None

    def released(self, slot: SlotId) -> Released | None:
        network = self.networks.get(slot[0])
        return network.released.get(slot[1]) if network else None

    def owner(self, slot: SlotId) -> PoolState | None:
        network = self.networks.get(slot[0])
        return network.owner(slot[1]) if network else None

    def rest_left(self, slot: SlotId, now: int) -> int:
        """Milliseconds of cool-down or retention until another pod may have a released slot; 0
        where it may have it now."""
        released, pool = self.released(slot), self.owner(slot)
        if released is None or pool is None:
            return 0
        return max(0, pool.rested_at(released.release) - now)

    def retained(self, slot: SlotId) -> bool:
        """Whether a released slot, as long as it rests, rests for the name that had it."""
        released, pool = self.released(slot), self.owner(slot)
        return released is not None and pool is not None and pool.retains(released.release)

    def buried_before(self, at: int) -> list[bytes]:
        """The keys of the claims released before a moment of the clock."""
        oldest = takewhile(lambda buried: buried[1] < at, self.buried.items())
        return [self.keys.buried(when, claimed) for claimed, when in oldest]

    def default_pool(self) -> PoolState | None:
        return next((pool for pool in self.pools.values() if pool.record.kind == "default"), None)

    def children(self, name: str) -> list[PoolState]:
        return [pool for pool in self.pools.values() if pool.record.parent == name]

    def outer(self, pool: PoolState) -> list[PoolState]:
        """The pools that a pool is nested in, the closest first."""
        found: list[PoolState] = []
        parent = self.pools.get(pool.record.parent or "")
        # A state that somebody wrote by hand may have pools nested in one another.
        while parent is not None and parent is not pool and parent not in found:
            found.append(parent)
            parent = self.pools.get(parent.record.parent or "")
        return found

    def nested(self, name: str) -> Ranges:
        """What of a pool lies in the pools nested in it, at any depth: addresses excluded later
        are included, and of two levels that grow at once each counts from its own record on."""
        within: dict[str, PoolState] = {}
        names = [name]
        for each in names:
            fresh = [p for p in self.children(each) if p.name not in within and p.name != name]
            within |= {child.name: child for child in fresh}
            names += [child.name for child in fresh]
        return Ranges(interval for child in within.values() for interval in child.ranges.intervals)

    def settle(self, pool: PoolState, now: int) -> None:
        """Moves what has rested by `now` to where it can be given."""
        network = self.networks[pool.record.network]
        for queue in (pool.cooling, pool.retained):
            while (index := queue.longest()) is not None:
                released = network.released[index]
                if pool.rested_at(released.release) > now:
                    break
                queue.discard(index)
                pool.ready.put(index, released.order)

    # What is on its way to etcd

    def take(self, slot: SlotId) -> None:
        """Keeps a slot away from every other choice until its transaction is decided."""
        self.taken.add(slot)
        self.place(slot)

    def give_back(self, slot: SlotId) -> None:
        """The transaction is decided: what was applied meanwhile now counts."""
        self.taken.discard(slot)
        self.place(slot)

    # Changing

    def apply(
        self, revision: int, events: Iterable[Event | KeyValue], *, more: bool = False
    ) -> None:
        """Brings the state to a revision. Events come in the order of their keys; `more` says that
        others of the same revision follow in a further call, as the pages of a load do, whose keys
        come as they stand."""
        if revision <= self.revision:
            return
        for event in events:
            self._apply_event(event)
        if more:
            return
        for name in self.reshaped & self.networks.keys():
            self._reshape(name)
        self.reshaped.clear()
        self.revision = revision

    def _apply_event(self, event: Event | KeyValue) -> None:
        value = event.value if event.kind == "put" else None
        slot = self.keys.held(event.key)
        if slot is not None:
            if slot[0] in self.networks:
                self._apply_slot(slot, value, event.mod_revision)
            else:
                self.strays.add(event.key)
            return
        kind, names = self.keys.parse(event.key)
        match kind:
            case "released" if names[0] not in self.networks:
                self.strays.add(event.key)
            case "released":
                self._apply_released(slot_id(names), value, event.mod_revision)
            case "networks":
                self._apply_network(names[0], value, event.mod_revision)
            case "pools":
                self._apply_pool(names[0], value, event.mod_revision)
            case "nodes":
                self._apply_node(names[0], value)
            case "absences":
                self._apply_absences(names[0], value, event.mod_revision)
            case "fenced":
                self._apply_fenced(names[0], value, event.mod_revision)
            case "namespaces":
                self._apply_namespace(names[0], value, event.mod_revision)
            case "audit":
                self._apply_audit(event.key, value)
            case "buried":
                self._apply_buried(int(names[0], 16), (names[1], names[2], names[3]), value)
            case "leader":
                self.leader = value
                self.led_since = event.create_revision or self.led_since
            case "clock":
                self.clock = max(self.clock, int(value or b"0"))

    def _apply_slot(self, slot: SlotId, value: bytes | None, revision: int) -> None:
        name, index = slot
        network = self.networks[name]
        before = network.held.pop(index, None)
        if before is not None:
            network.reservations.discard(index)
            place = name, before.holder.node
            if self.vmacs.get(place) == index:
                del self.vmacs[place]
            self._count(before.holder, -1)
            self._forget(before.holder.identity, slot)
            if self.attachments.get(before.holder.attachment) == slot:
                del self.attachments[before.holder.attachment]
        if value is not None:
            holder = decode_holder(value)
            if revision == self._last:
                # One transaction gives many slots: their generation is kept once.
                revision = self._last
            self._last = revision
            network.held[index] = Held(holder, revision)
            if holder.container:
                self.attachments[holder.container, holder.ifname] = slot
                if holder.pod:
                    self._remember((holder.namespace, holder.pod, holder.ifname), slot)
            else:
                network.reservations.add(index)
                if holder.vmac:
                    self.vmacs[name, holder.node] = index
            self._count(holder, 1)
            network.indices.add(index)
        else:
            network.know(index)
        if name in self.reshaped:
            return
        pool = network.owner(index)
        if pool is not None:
            pool.used += (value is not None) - (before is not None)
            pool.peak = max(pool.peak, pool.used)
        if slot not in self.taken:
            self.place(slot)

    def _apply_released(self, slot: SlotId, value: bytes | None, revision: int) -> None:
        network = self.networks[slot[0]]
        before = network.released.pop(slot[1], None)
        if before is None and value is None:
            return
        if before is not None:
            self._forget(before.release.identity, slot)
        if value is not None:
            release = decode_release(value)
            network.released[slot[1]] = Released(release, revision)
            if release.identity is not None:
                self._remember(release.identity, slot)
        network.know(slot[1])
        if slot[0] not in self.reshaped:
            self.place(slot)

    def _apply_network(self, name: str, value: bytes | None, revision: int) -> None:
        if value is None:
            self.networks.pop(name, None)
            return
        record = msgspec.json.decode(value, type=NetworkRecord)
        if name in self.networks:
            self.networks[name].declare(record, revision)
        else:
            self.networks[name] = NetworkState(record, revision)
        self.reshaped.add(name)

    def _apply_pool(self, name: str, value: bytes | None, revision: int) -> None:
        known = self.pools.get(name)
        if value is None:
            if known is not None:
                del self.pools[name]
                self.reshaped.add(known.record.network)
            return
        record = msgspec.json.decode(value, type=PoolRecord)
        if known is not None and known.resizes(record):
            if known.record.ranges == record.ranges:
                known.record, known.revision = record, revision
                return
            if record.network not in self.reshaped:
                resize(self, known, record, revision)
                return
        self.pools[name] = PoolState(name, record, revision)
        self.reshaped.add(record.network)

    def _apply_audit(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.audit.pop(key, None)
        else:
            self.audit[key] = msgspec.json.decode(value, type=_Moment).at

    def _apply_buried(self, at: int, claimed: Claimed, value: bytes | None) -> None:
        if value is not None:
            self.buried[claimed] = at
        elif self.buried.get(claimed) == at:
            del self.buried[claimed]

    def _apply_node(self, name: str, value: bytes | None) -> None:
        if value is None:
            self.nodes.pop(name, None)
        else:
            self.nodes[name] = msgspec.json.decode(value, type=NodeRecord)

    def _apply_absences(self, node: str, value: bytes | None, revision: int) -> None:
        before = self.absences.pop(node, None)
        if before is not None:
            self._dispute(before.record, -1)
        if value is not None:
            record = msgspec.json.decode(value, type=AbsencesRecord)
            self.absences[node] = Absences(record, revision)
            self._dispute(record, 1)

    def _apply_fenced(self, node: str, value: bytes | None, revision: int) -> None:
        if value is None:
            self.fenced.pop(node, None)
        else:
            self.fenced[node] = Fenced(msgspec.json.decode(value, type=FencingRecord), revision)

    def _apply_namespace(self, name: str, value: bytes | None, revision: int) -> None:
        if value is None:
            self.namespaces.pop(name, None)
        else:
            record = msgspec.json.decode(value, type=NamespaceRecord)
            self.namespaces[name] = Namespaced(record, revision)

    def _dispute(self, record: AbsencesRecord, by: int) -> None:
        for slot in {each.slot for each in record.disputed}:
            self.disputed[slot] = self.disputed.get(slot, 0) + by
            if not self.disputed[slot]:
                del self.disputed[slot]
            if slot[0] in self.networks and slot[0] not in self.reshaped:
                self.place(slot)

    # Keeping the derived parts true

    def place(self, slot: SlotId) -> None:
        """Puts a slot into the one queue where it belongs, or into none."""
        name, index = slot
        network = self.networks[name]
        pool = network.owner(index)
        if pool is None:
            return
        pool.depart(index)
        if index in network.held or slot in self.taken or slot in self.disputed:
            return
        released = network.released.get(index)
        if released is None:
            pool.never.add(index)
        else:
            queue = pool.retained if pool.retains(released.release) else pool.cooling
            queue.put(index, released.order)

    def _reshape(self, name: str) -> None:
        """Works out anew which pool of a network owns what, and these pools' queues."""
        network = self.networks[name]
        pools = [pool for pool in self.pools.values() if pool.record.network == name]
        for pool in pools:
            pool.start((pool.ranges & network.total) - self.nested(pool.name))
        network.own(pools)
        held = sorted(network.held)
        for pool in pools:
            for first, last in pool.own.intervals:
                within = held[bisect_left(held, first) : bisect_right(held, last)]
                pool.used += len(within)
                for low, high in _runs(within):
                    pool.never.discard_all(low, high)
        for index in sorted(network.released):
            if index not in network.held:
                self.place((name, index))
        for slot in (*self.taken, *self.disputed):
            if slot[0] == name:
                self.place(slot)

    def _count(self, holder: Holder, by: int) -> None:
        if holder.before is not None:
            self.earlier[holder.before] = self.earlier.get(holder.before, 0) + by
            if not self.earlier[holder.before]:
                del self.earlier[holder.before]
        if holder.node and holder.container:
            used = self.used_by.get(holder.node, 0) + by
            if used:
                self.used_by[holder.node] = used
            else:
                del self.used_by[holder.node]

    def _remember(self, identity: Identity, slot: SlotId) -> None:
        known = self.names.get(identity)
        if known is None:
            self.names[identity] = (slot,)
        elif slot not in known:
            self.names[identity] = (*known, slot)

    def _forget(self, identity: Identity | None, slot: SlotId) -> None:
        """Drops the slot from a name's slots, unless the name still holds it or held it last."""
        held, released = self.held(slot), self.released(slot)
        if (
            identity is None
            or (held is not None and held.holder.identity == identity)
            or (released is not None and released.release.identity == identity)
        ):
            return
        left = tuple(known for known in self.names.get(identity, ()) if known != slot)
        if left:
            self.names[identity] = left
        else:
            self.names.pop(identity, None)


def _runs(indices: list[int]) -> Iterator[Interval]:
    """First and last of each run of indices without a gap, from indices in order."""
    if not indices:
        return
    first = last = indices[0]
    for index in indices:
        if index > last + 1:
            yield first, last
            first = index
        last = index
    yield first, last
