"""A cluster without etcd: its keys in a dict, and the state in memory that follows them.

Transactions compare and write as etcd does: all comparisons of an outer transaction are made before
anything of it is written, and everything it writes has one revision.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ipam_server import networks as network_rules
from ipam_server import pools as pool_rules
from ipam_server.allocator import Choice, choose
from ipam_server.changes import Change, allocation, freeing
from ipam_server.history import remembering
from ipam_server.inventory import NetworkState, PoolState
from ipam_server.keys import SlotId
from ipam_server.queues import ReleaseQueue
from ipam_server.records import Holder, Identity, NetworkRecord, PoolRecord, Release
from ipam_server.state import ClusterState
from netspace.messages import (
    AllocateRequest,
    AttachmentId,
    ChangeNetwork,
    NewNetwork,
    NewPool,
    Pod,
    ResizePool,
    Selection,
)
from statestore import Compare, Delete, Event, KeyValue, Put, TxnResult
from statestore.transactions import Target

encode = msgspec.json.encode
PLACES = 2
"""Past holders that are kept of each slot."""


class World:
    """`stored`: what etcd would hold. `state` follows it as a leader's does. `now`: the clock."""

    def __init__(self, name: str = "blue") -> None:
        self.stored: dict[bytes, KeyValue] = {}
        self.revision = 1
        self.state = ClusterState(name)
        self.keys = self.state.keys
        self.now = 0
        self.sequence = 0

    # What the committer does

    def begin(self, change: Change) -> Change:
        """The change is on its way: its slots are kept from other choices."""
        for slot in change.slots:
            self.state.take(slot)
        if change.resizes is not None:
            self.state.resizing.add(change.resizes)
        return change

    def abandon(self, change: Change) -> None:
        """The change did not reach etcd."""
        for slot in change.slots:
            self.state.give_back(slot)
        self.state.resizing.discard(change.resizes or "")

    def commit(self, *changes: Change) -> list[int | None]:
        """Carries the changes out in one outer transaction; where each of them landed."""
        written = [op.key for change in changes for op in change.then]
        assert len(set(written)) == len(written), "a key twice in one transaction"
        holding = [all(map(self._holds, change.compares)) for change in changes]
        revision = self.revision + any(holding)
        for change, holds in zip(changes, holding, strict=True):
            for op in change.then if holds else ():
                self._write(op, revision)
        self.revision = revision
        landed = []
        events: list[Event] = []
        for change, holds in zip(changes, holding, strict=True):
            found = () if holds else tuple(filter(None, [self.stored.get(change.probe)]))
            landed.append(change.landed(TxnResult(holds, revision, () if holds else (found,))))
            if holds:
                events += change.events(revision)
        self.state.apply(revision, sorted(events, key=lambda event: event.key))
        for change in changes:
            self.abandon(change)
        return landed

    def do(self, change: Change) -> int:
        """One change alone, which must land."""
        (revision,) = self.commit(self.begin(change))
        assert revision is not None
        return revision

    def put(self, key: bytes, value: bytes) -> int:
        return self.do(Change((), (Put(key, value),), key, value))

    def delete(self, key: bytes) -> int:
        return self.do(Change((), (Delete(key),), key, None))

    def reloaded(self, page: int = 7) -> ClusterState:
        """A state read anew from the keys, in pages."""
        state = ClusterState(self.state.name)
        keys = sorted(self.stored)
        for at in range(0, len(keys), page):
            stored = (self.stored[key] for key in keys[at : at + page])
            events = [
                Event("put", kv.key, kv.value, kv.create_revision, kv.mod_revision) for kv in stored
            ]
            state.apply(self.revision, events, more=True)
        state.apply(self.revision, ())
        return state

    def _holds(self, compare: Compare) -> bool:
        kv = self.stored.get(compare.key)
        if compare.target is Target.CREATE:
            return (kv.create_revision if kv else 0) == compare.number
        return (kv.mod_revision if kv else 0) == compare.number

    def _write(self, op: Put | Delete, revision: int) -> None:
        before = self.stored.pop(op.key, None)
        if isinstance(op, Put):
            created = before.create_revision if before else revision
            self.stored[op.key] = KeyValue(op.key, op.value, created, revision)

    # What admins do

    def network(self, name: str) -> NetworkState:
        return self.state.networks[name]

    def pool(self, name: str) -> PoolState:
        return self.state.pools[name]

    def add_network(self, new: NewNetwork) -> NetworkRecord:
        record = network_rules.declare(new, f"uid-{new.name}-{self.revision}")
        self.put(self.keys.network(new.name), encode(record))
        return record

    def change_network(self, name: str, asked: ChangeNetwork) -> NetworkRecord:
        record = network_rules.change(self.network(name), name, asked)
        self.put(self.keys.network(name), encode(record))
        return record

    def add_pool(self, new: NewPool) -> PoolRecord:
        record = pool_rules.carve(self.state, new, self.now)
        self.put(self.keys.pool(new.name), encode(record))
        return record

    def grow(self, name: str, asked: ResizePool) -> PoolRecord:
        return self.rewrite(name, pool_rules.grow(self.state, self.pool(name), asked, self.now))

    def shrink(self, name: str, asked: ResizePool) -> PoolRecord:
        return self.rewrite(name, pool_rules.shrink(self.state, self.pool(name), asked, self.now))

    def rewrite(self, name: str, record: PoolRecord) -> PoolRecord:
        self.put(self.keys.pool(name), encode(record))
        return record

    def delete_pool(self, name: str) -> None:
        pool_rules.check_delete(self.state, self.pool(name))
        self.delete(self.keys.pool(name))

    def reserve(self, slot: SlotId, note: str = "") -> None:
        released = self.state.released(slot)
        past = released.release if released else None
        holder = Holder(note=note, turn=past.turn + 1 if past else 0)
        put = Put(self.keys.slot(slot), encode(holder))
        then = (put, Delete(self.keys.released(slot)))
        change = Change((Compare.absent(put.key),), then, put.key, put.value, (slot,))
        self.do(remembering(change, self.state, slot, past, PLACES))

    # What nodes do

    def allocate(self, request: AllocateRequest) -> tuple[int, int]:
        """A choice, committed at once: its index and generation."""
        choice = choose(self.state, request, self.now)
        assert isinstance(choice, Choice)
        return choice.slot[1], self.do(self.giving(choice))

    def giving(self, choice: Choice) -> Change:
        """The change that makes a choice true, the past holder kept."""
        choice = choice.stamped(self.now, 1 + self.now // 1000)
        change = allocation(self.keys, choice, self.now)
        return remembering(change, self.state, choice.slot, choice.past, PLACES)

    def past(self, slot: SlotId) -> list[tuple[Identity | None, str]]:
        """The names and uids in a slot's history, the earliest first."""
        prefix = self.keys.history_of(self.network(slot[0]).record.uid, slot[1])
        found = [
            msgspec.json.decode(kv.value, type=Release)
            for key, kv in self.stored.items()
            if key.startswith(prefix)
        ]
        ordered = sorted(found, key=lambda release: release.turn)
        return [(release.identity, release.uid) for release in ordered]

    def freeing(self, slot: SlotId, *, conflict: bool = False) -> Change:
        """The end of what holds the slot now."""
        held = self.state.held(slot)
        assert held is not None
        self.sequence += 1
        said = 1 + self.now // 1000
        return freeing(self.keys, slot, held, self.now, self.sequence, said, conflict)

    def release(self, slot: SlotId) -> int:
        return self.do(self.freeing(slot))


def order(queue: ReleaseQueue) -> list[int]:
    """The members of a queue, the longest released first."""
    members: list[int] = []
    kept = []
    while (index := queue.longest()) is not None:
        kept.append((index, queue._orders[index]))
        members.append(index)
        queue.discard(index)
    for index, at in kept:
        queue.put(index, at)
    return members


def summary(state: ClusterState) -> dict[str, Any]:
    """Everything that is derived from the keys, the order inside of the queues included."""
    return {
        "revision": state.revision,
        "attachments": state.attachments,
        "names": {name: set(slots) for name, slots in state.names.items()},
        "earlier": state.earlier,
        "used by": state.used_by,
        "taken": state.taken,
        "networks": {
            name: (n.record, n.revision, n.held, n.released, n.total, n._firsts)
            for name, n in state.networks.items()
        },
        "pools": {
            name: (
                p.record, p.revision, p.own, p.size, p.used, p.never.ranges(), order(p.cooling),
                order(p.retained), order(p.ready),
            )
            for name, p in state.pools.items()
        },
        "owners": {
            (name, last): pool.name
            for name, network in state.networks.items()
            for last, pool in network._owners
        },
        "strays": state.strays,
        "buried": state.buried,
        "disputed": state.disputed,
        "fenced": state.fenced,
        "namespaces": state.namespaces,
    }  # fmt: skip


def ask(
    container: str,
    pod: str = "",
    *,
    namespace: str = "default",
    uid: str = "",
    node: str = "node-1",
    claim: str = "",
    removed: tuple[str, ...] = (),
    selection: Selection | None = None,
    default: Selection | None = None,
) -> AllocateRequest:
    """A request of the container's eth0."""
    return AllocateRequest(
        attachment=AttachmentId(container=container, ifname="eth0"),
        claim=claim or f"{container.encode().hex():0>32}"[-32:],
        node=node,
        pod=Pod(namespace=namespace, name=pod, uid=uid),
        selection=selection or Selection(),
        default=default or Selection(),
        removed=list(removed),
    )
