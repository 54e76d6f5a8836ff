"""The audit of a stored state: pure, over the keys and values themselves, at one revision.

Keys come in etcd's order, page by page; with that, attachments, networks and pools are known before
the first slot, so that beside them only a line for each attachment and release is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar, get_args

import msgspec

from ipam_server import keys as key_names
from ipam_server.audit import AuditRecord
from ipam_server.flaws import Flaw, mending
from ipam_server.inspection_pools import Layout
from ipam_server.keys import Claimed, Keys, SlotId
from ipam_server.records import (
    AbsencesRecord,
    Disputed,
    FencingRecord,
    Holder,
    NamespaceRecord,
    NetworkRecord,
    NodeRecord,
    PoolRecord,
    Release,
    slot_of,
    stored_slot,
)
from netspace import names
from statestore import Compare, Delete, KeyValue, Put

T = TypeVar("T")

KINDS: Final = frozenset(get_args(key_names.Kind))

_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, ValueError, ArithmeticError)


class Inspector:
    """`add` the pages, then ask for the `flaws`. `fabrics` are the keys of all fabrics, `now` the
    cluster's clock in milliseconds where it is known better than stored."""

    def __init__(
        self, cluster: str, fabrics: Mapping[str, KeyValue], now: int | None = None
    ) -> None:
        self.keys = Keys(cluster)
        self.count = 0
        self._found: list[Flaw] = []
        self._now = now
        self._clock: int | None = None
        self._layout = Layout(cluster, fabrics)
        # Of each attachment the slot that its key names and the key's revision; then who has it.
        self._attachments: dict[bytes, tuple[SlotId | None, int]] = {}
        self._holding: dict[bytes, SlotId] = {}
        self._released: dict[SlotId, int] = {}
        self._buried: dict[Claimed, tuple[bytes, int, int]] = {}
        self._disputed: dict[SlotId, list[tuple[bytes, Disputed]]] = {}
        self._whose: dict[SlotId, str] = {}
        self._strays: list[tuple[bytes, int]] = []
        self._held_strays: set[str] = set()
        self._vmacs: dict[tuple[str, str], SlotId] = {}
        self._checks: dict[str, Callable[[KeyValue, tuple[str, ...]], None]] = {
            "absences": self._absences,
            "attachments": self._attachment,
            "audit": self._audit,
            "buried": self._burial,
            "clock": self._clocked,
            "fenced": self._fencing,
            "namespaces": self._namespace,
            "networks": self._network,
            "nodes": self._node,
            "pools": self._pool,
            "released": self._release,
            "slots": self._holder,
        }

    def add(self, page: Iterable[KeyValue]) -> None:
        """The next keys."""
        for stored in page:
            self.count += 1
            try:
                kind, parts = self.keys.parse(stored.key)
            except UnicodeDecodeError:
                self._flaw("malformed-key", stored.key, "a key is no UTF-8")
                continue
            if kind not in KINDS:
                self._flaw("unknown-key", stored.key, f"nothing is known of keys of {kind!r}")
                continue
            if kind in self._checks:
                self._checks[kind](stored, parts)

    def flaws(self) -> list[Flaw]:
        """All that is wrong."""
        found = [*self._found, *self._layout.flaws()]
        for key, (slot, revision) in self._attachments.items():
            if key not in self._holding:
                where = "no slot" if slot is None else f"a slot of {slot[0]}"
                gone = mending((Compare.modified_at(key, revision),), (Delete(key),))
                what = f"an attachment names {where} that it does not hold"
                found.append(Flaw("attachment-dangling", (key,), what, gone))
        for slot, told in self._disputed.items():
            for key, each in told:
                found.append(Flaw("address-disputed", (key,), self._in_dispute(slot, key, each)))
        if self._timeless and (self._released or self._buried):
            what = "something was released, but there is no clock that can be read"
            found.append(Flaw("clock", (self.keys.clock,), what))
        for claimed, (key, at, revision) in self._buried.items():
            if at > self._time() and not self._timeless:
                seen = Compare.modified_at(key, revision)
                anew = Put(self.keys.buried(self._time(), claimed), b"")
                what = f"a claim was released {at - self._time()} ms after now, by the clock"
                found.append(
                    Flaw("buried-clock", (key,), what, mending((seen,), (Delete(key), anew)))
                )
        for key, revision in self._strays:
            network = self.keys.parse(key)[1][0]
            change = None
            if network not in self._held_strays and not self._layout.named(network):
                absent = Compare.absent(self.keys.network(network))
                change = mending((Compare.modified_at(key, revision), absent), (Delete(key),))
            what = f"a release in network {network}, which does not exist"
            found.append(Flaw("network-missing", (key,), what, change))
        return found

    def _flaw(self, code: str, key: bytes, what: str, *more: bytes, change: Any = None) -> None:
        self._found.append(Flaw(code, (key, *more), what, change))

    def _read(self, stored: KeyValue, decode: Callable[[bytes], T]) -> T | None:
        try:
            return decode(stored.value)
        except _UNREADABLE as error:
            self._flaw("unreadable", stored.key, f"the value cannot be read: {error}")
            return None

    def _named(self, stored: KeyValue, parts: tuple[str, ...], expected: bytes) -> bool:
        if stored.key == expected:
            return True
        self._flaw("malformed-key", stored.key, f"the key has {len(parts)} parts or another form")
        return False

    # One method for each kind of key

    def _absences(self, stored: KeyValue, parts: tuple[str, ...]) -> None:
        record = self._read(stored, lambda value: msgspec.json.decode(value, type=AbsencesRecord))
        for each in record.disputed if record is not None else ():
            self._disputed.setdefault(each.slot, []).append((stored.key, each))

    def _attachment(self, stored: KeyValue, parts: tuple[str, ...]) -> None:
        if len(parts) != 2 or not all(parts):
            self._named(stored, parts, b"")
            return
        try:
            slot: SlotId | None = slot_of(stored.value)
        except _UNREADABLE:
            slot = None
        self._attachments[stored.key] = slot, stored.mod_revision

    def _audit(self, stored: KeyValue, parts: tuple[str, ...]) -> None:
        self._read(stored, lambda value: msgspec.json.decode(value, type=AuditRecord))

    def _burial(self, stored: KeyValue, parts: tuple[str, ...]) -> None:
        try:
            time, *names = parts
            at, claimed = int(time, 16), (names[0], names[1], names[2])
        except (ValueError, IndexError):
            self._named(stored, parts, b"")
            return
        if self._named(stored, parts, self.keys.buried(at, claimed)):
            self._buried[claimed] = stored.key, at, stored.mod_revision

    def _clocked(self, stored: KeyValue, parts: tuple[str, ...]) -> None:
        self._clock = self._read(stored, _clock)

    def _fencing(self, stored: KeyValue, parts: tuple[str, ...]) -> None:
        self._read(stored, lambda value: msgspec.json.decode(value, type=FencingRecord))

    def _namespace(self, stored: KeyValue, parts: tuple[str, ...]) -> None:
        self._read(stored, lambda value: msgspec.json.decode(value, type=NamespaceRecord).selection)
        self._named(stored, parts, self.keys.namespace(parts[0] if parts else ""))

    def _network(self, stored: KeyValue, parts: tuple[str, ...]) -> None:
        record = self._read(stored, lambda value: msgspec.json.decode(value, type=NetworkRecord))
        name = parts[0] if parts else ""
        if record is None or not self._named(stored, parts, self.keys.network(name)):
            self._layout.unread.add(name)
            return
        fault = self._layout.add_network(name, record, stored.mod_revision)
        if fault is not None:
            self._flaw("unreadable", stored.key, f"network {name}: {fault}")

    def _node(self, stored: KeyValue, parts: tuple[str, ...]) -> None:
        self._read(stored, lambda value: msgspec.json.decode(value, type=NodeRecord))

    def _pool(self, stored: KeyValue, parts: tuple[str, ...]) -> None:
        record = self._read(stored, lambda value: msgspec.json.decode(value, type=PoolRecord))
        name = parts[0] if parts else ""
        if record is None or not self._named(stored, parts, self.keys.pool(name)):
            return
        try:
            self._layout.add_pool(name, record)
        except _UNREADABLE as error:
            self._flaw("unreadable", stored.key, f"pool {name}: {error}")

    def _release(self, stored: KeyValue, parts: tuple[str, ...]) -> None:
        slot = self._slot(stored, parts, self.keys.released)
        release = self._read(stored, lambda value: msgspec.json.decode(value, type=Release))
        if slot is None or release is None or slot[0] in self._layout.unread:
            return
        if slot[0] not in self._layout.networks:
            self._strays.append((stored.key, stored.mod_revision))
            return
        self._released[slot] = stored.mod_revision
        if not self._timeless and (not 0 <= release.at <= self._time() or release.sequence < 0):
            anew = msgspec.structs.replace(
                release, at=self._time(), sequence=max(0, release.sequence)
            )
            put = Put(stored.key, msgspec.json.encode(anew))
            seen = Compare.modified_at(stored.key, stored.mod_revision)
            self._flaw(
                "release-clock",
                stored.key,
                f"a release at {release.at} ms (number {release.sequence}), and the clock is at"
                f" {self._time()} ms",
                change=mending((seen,), (put,), slot),
            )

    def _in_dispute(self, slot: SlotId, key: bytes, disputed: Disputed) -> str:
        node = self.keys.parse(key)[1][0]
        pod = f"{disputed.namespace}/{disputed.pod}" if disputed.pod else "a pod without name"
        where = f"slot {slot[1]} of network {slot[0]}, which does not exist"
        if slot[0] in self._layout.networks:
            where = self._layout.address(slot)
        return (
            f"{pod} ({disputed.ifname} of {disputed.container}) lives on node {node} with {where};"
            f" here it belongs to {self._whose.get(slot, 'nobody')}"
        )

    def _holder(self, stored: KeyValue, parts: tuple[str, ...]) -> None:
        slot = self._slot(stored, parts, self.keys.slot)
        holder = self._read(stored, lambda value: msgspec.json.decode(value, type=Holder))
        if holder is not None and not holder.reserved:
            # Whatever else is wrong with it: the attachment's key is not dangling.
            self._holding.setdefault(self.keys.attachment(holder.attachment), slot or ("", 0))
        if slot is None or holder is None or slot[0] in self._layout.unread:
            return
        if slot in self._disputed:
            self._whose[slot] = _name(holder)
        if slot[0] not in self._layout.networks:
            self._held_strays.add(slot[0])
            what = f"a holder in network {slot[0]}, which does not exist"
            self._flaw("network-missing", stored.key, what)
            return
        self._check_holder(stored, slot, holder)
        at = Compare.modified_at(stored.key, stored.mod_revision)
        if slot in self._released:
            gone = self.keys.released(slot)
            seen = Compare.modified_at(gone, self._released[slot])
            what = f"{self._layout.address(slot)} is held and released at once"
            change = mending((at, seen), (Delete(gone),), slot)
            self._flaw("held-and-released", stored.key, what, gone, change=change)
        if not holder.reserved:
            self._check_attachment(stored, slot, holder, at)

    def _check_holder(self, stored: KeyValue, slot: SlotId, holder: Holder) -> None:
        address = self._layout.address(slot)
        if not self._layout.usable(slot):
            self._flaw("slot-outside", stored.key, f"{address} is held, but no pod can have it")
        fault = _form(holder)
        if fault is not None:
            self._flaw("holder-form", stored.key, f"the holder of {address} {fault}")
        if holder.vmac:
            other = self._vmacs.setdefault((slot[0], holder.node), slot)
            if other != slot:
                what = f"node {holder.node} has another vmac in network {slot[0]} besides {address}"
                self._flaw("vmac-twice", stored.key, what, self.keys.slot(other))
        if holder.reserved:
            return
        owner = self._layout.owner(slot)
        if owner != holder.pool:
            where = f"in pool {owner}" if owner else "in no pool"
            what = f"{address} is held as one of pool {holder.pool}, but lies {where}"
            self._flaw("slot-pool", stored.key, what)
        if holder.claimed in self._buried:
            what = f"{address} is held under a claim that was released"
            self._flaw("claim-buried", stored.key, what, self._buried[holder.claimed][0])

    def _check_attachment(
        self, stored: KeyValue, slot: SlotId, holder: Holder, at: Compare
    ) -> None:
        key = self.keys.attachment(holder.attachment)
        address = self._layout.address(slot)
        first = self._holding[key]
        if first != slot:
            what = f"the attachment that holds {address} holds another address as well"
            self._flaw("attachment-twice", stored.key, what, self.keys.slot(first))
            return
        points, revision = self._attachments.pop(key, (None, 0))
        if points != slot:
            seen = Compare.modified_at(key, revision)
            put = Put(key, stored_slot(slot))
            what = f"the attachment that holds {address} does not name it"
            change = mending((at, seen), (put,), slot)
            self._flaw("attachment-missing", stored.key, what, key, change=change)

    def _slot(
        self, stored: KeyValue, parts: tuple[str, ...], key: Callable[[SlotId], bytes]
    ) -> SlotId | None:
        try:
            slot = parts[0], int(parts[1], 16)
            return slot if self._named(stored, parts, key(slot)) else None
        except (ValueError, IndexError):
            self._named(stored, parts, b"")
            return None

    @property
    def _timeless(self) -> bool:
        """Whether nobody knows the cluster's time; nothing is measured then."""
        return self._clock is None and self._now is None

    def _time(self) -> int:
        return max(self._now or 0, self._clock or 0)


def _name(holder: Holder) -> str:
    if holder.vmac:
        return f"the vmac of node {holder.node}"
    if holder.reserved:
        return f"a reservation ({holder.note})" if holder.note else "a reservation"
    pod = f"{holder.namespace}/{holder.pod}" if holder.pod else f"container {holder.container}"
    return f"{pod} on node {holder.node}"


def _clock(value: bytes) -> int:
    at = int(value)
    if at < 0:
        raise ValueError("it is negative")
    return at


def _form(holder: Holder) -> str | None:
    """What is wrong with how a holder is named; None where nothing is."""
    if holder.vmac and not names.matches(names.NODE, holder.node):
        return f"has no node that could be one: {holder.node[:60]!r}"
    if holder.reserved:
        return "is a reservation, but has a claim" if holder.claim else None
    for what, pattern, text in (
        ("claim", names.CLAIM, holder.claim),
        ("node", names.NODE, holder.node),
        ("container", names.CONTAINER, holder.container),
    ):
        if not names.matches(pattern, text):
            return f"has no {what} that could be one: {text[:60]!r}"
    if not names.is_ifname(holder.ifname):
        return f"has no interface that could be one: {holder.ifname[:60]!r}"
    return None
