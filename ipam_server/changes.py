"""What is written to etcd for an allocation and for a release: pure, from a decision to one nested
transaction, and from its answer to what it did.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from ipam_server.allocator import Choice
from ipam_server.elastic import Resize
from ipam_server.inventory import Held
from ipam_server.keys import Claimed, Keys, SlotId
from ipam_server.records import CONFLICT, stored_slot
from statestore import Compare, Delete, Event, Get, Put, Txn, TxnResult

encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Change:
    """One nested transaction. It landed if afterwards the key `probe` has the value `expected`
    (None: if the key is gone). `slots` are kept from other choices until it is decided. `shared`:
    it compares keys that other clusters' leaders write, so a conflict says nothing of this state.
    `resizes`: the network of which a pool grows or shrinks; one at a time. `allocates`: a pod gets
    its slot.
    """

    compares: tuple[Compare, ...]
    then: tuple[Put | Delete, ...]
    probe: bytes
    expected: bytes | None
    slots: tuple[SlotId, ...] = ()
    shared: bool = False
    resizes: str | None = None
    allocates: bool = False

    @property
    def weight(self) -> int:
        """About how many bytes the change has on its way to etcd."""
        return sum(
            2 * len(op.key) + (len(op.value) if isinstance(op, Put) else 0) for op in self.then
        )

    def nested(self) -> Txn:
        return Txn(self.compares, self.then, (Get(self.probe),))

    def events(self, revision: int) -> list[Event]:
        """What the change did to the keys, if it landed at this revision."""
        return [
            Event("put", op.key, op.value, revision, revision)
            if isinstance(op, Put)
            else Event("delete", op.key, b"", 0, revision)
            for op in self.then
        ]

    def landed(self, result: TxnResult) -> int | None:
        """The revision at which the change landed; None if it did not."""
        if result.succeeded:
            return result.revision
        found = result.results[0]
        assert isinstance(found, tuple)
        if self.expected is None:
            return None if found else result.revision
        return next((kv.mod_revision for kv in found if kv.value == self.expected), None)


def allocation(keys: Keys, choice: Choice, at: int) -> Change:
    """The slot, the attachment, and the end of the slot's release, in one. `at` as in `freeing`."""
    slot, holder = choice.slot, choice.holder
    put_slot = Put(keys.slot(slot), encode(holder))
    put_attachment = Put(keys.attachment(holder.attachment), stored_slot(slot))
    compares: tuple[Compare, ...]
    then: tuple[Put | Delete, ...]
    if choice.replaces is None:
        # A copy of this that was thought lost and comes after the slot was given and released again
        # would find slot and attachment absent: the release it knew never comes back.
        gone = Delete(keys.released(slot))
        compares = (
            Compare.absent(put_slot.key),
            Compare.absent(put_attachment.key),
            Compare.modified_at(gone.key, choice.since),
        )
        then = (put_slot, put_attachment, gone)
    else:
        compares = (Compare.modified_at(put_slot.key, choice.replaces.generation),)
        then = (put_slot, put_attachment)
        if choice.replaces.holder.attachment != holder.attachment:
            then = (*then, Delete(keys.attachment(choice.replaces.holder.attachment)))
        if choice.replaces.holder.claimed != holder.claimed:
            # A late copy of what was asked under it must not take the slot back.
            then = (*then, Put(keys.buried(at, choice.replaces.holder.claimed), b""))
    if choice.grown is None:
        return Change(compares, then, put_slot.key, put_slot.value, (slot,), allocates=True)
    grown = resizing(keys, choice.grown)
    return replace(
        grown,
        compares=(*compares, *grown.compares),
        then=(*grown.then, *then),
        probe=put_slot.key,
        expected=put_slot.value,
        allocates=True,
    )


def resizing(keys: Keys, resize: Resize) -> Change:
    """A pool that grows, together with those around it, or gives a block back. What it takes from a
    pool is nobody else's to choose meanwhile."""
    levels = [
        (Put(keys.pool(level.pool), encode(level.record)), level.revision)
        for level in resize.levels
    ]
    return Change(
        tuple(Compare.modified_at(put.key, revision) for put, revision in levels),
        tuple(put for put, _ in levels),
        levels[0][0].key,
        levels[0][0].value,
        resize.slots,
        resizes=resize.record.network,
    )


def freeing(
    keys: Keys,
    slot: SlotId,
    held: Held,
    at: int,
    sequence: int,
    said: int = 0,
    conflict: bool = False,
) -> Change:
    """The end of one generation: `at` is the cluster's clock in milliseconds, `sequence` the order
    among the releases of one revision, `said` the time of day (Unix seconds) for people."""
    holder = held.holder
    release = holder.ended(at, sequence, said)
    if conflict:
        # Without a name nobody comes back for it: it rests, and is the last to be given again.
        release = msgspec.structs.replace(release, identity=None, note=CONFLICT)
    slot_key = keys.slot(slot)
    put = Put(keys.released(slot), encode(release))
    then: tuple[Put | Delete, ...] = (Delete(slot_key), put)
    if not holder.reserved:
        then = (
            *then,
            Delete(keys.attachment(holder.attachment)),
            Put(keys.buried(at, holder.claimed), b""),
        )
    return Change(
        (Compare.modified_at(slot_key, held.generation),), then, put.key, put.value, (slot,)
    )


def burial(keys: Keys, claimed: Claimed, at: int) -> Change:
    """The end of a claim that holds nothing: its ADD may still be under way."""
    put = Put(keys.buried(at, claimed), b"")
    return Change((), (put,), put.key, put.value)
