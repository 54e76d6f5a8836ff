"""What is remembered of every change that somebody asked for, or that the leader makes by itself:
who, what, before, after.

Pure, but for `tell`. An entry is written in the transaction of its change. Its key begins with the
revision at which the change was decided, and so keys sort in the order of the changes; the time in
it is for people and orders nothing. How old an entry is, the cluster's clock says.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import msgspec

from ipam_server import keys, views
from ipam_server.changes import Change
from ipam_server.keys import slot_id
from ipam_server.records import (
    FencingRecord,
    Holder,
    NamespaceRecord,
    NetworkRecord,
    PoolRecord,
    ranges_of,
)
from ipam_server.state import ClusterState
from netspace import messages as m
from netspace.callers import Caller
from netspace.problems import Problem
from statestore import Compare, Delete, KeyValue, Put

log = logging.getLogger(__name__)

Kind = Literal["network", "pool", "namespace", "address", "node", "cluster", "fabric", "key"]

GROWTH: Final = "elastic growth"
SHRINKING: Final = "elastic shrinking"
RECLAIMING: Final = "reclaiming"
FENCED: Final = "reclaiming from a fenced node"
"""Why a leader changes something that nobody asked for."""

LARGEST: Final = 4096
"""Bytes of a repaired key's value that are remembered; a fabric's can be long."""

LONGEST: Final = 100
"""Items of a list that are remembered; a network can have ten thousand ranges."""

CATALOGUE_ENTRIES: Final = 1000
"""Entries that are remembered of changes of clusters and fabrics themselves."""


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An entry as stored. `at`: the cluster's clock in milliseconds; `who` as `Caller.encode`;
    `cause`: why that server did it by itself, empty where somebody asked for it."""

    time: str
    who: str
    cause: str = ""
    action: str
    kind: Kind
    name: str
    at: int = 0
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """Who makes a change, why, and when: by the cluster's clock in milliseconds, and in words.
    `sequence` tells changes apart that were decided at one revision."""

    caller: Caller
    cause: str
    sequence: int
    at: int
    time: str


def audited(
    change: Change, state: ClusterState, word: Word
) -> tuple[Change, tuple[AuditRecord, ...]]:
    """The change with an entry in the same transaction for each thing declared that it changes."""
    found = (_described(op, state, word.at) for op in change.then)
    return _remembered(change, state, word, [each for each in found if each is not None])


def repaired(
    change: Change, state: ClusterState, word: Word, before: Mapping[bytes, bytes | None]
) -> tuple[Change, tuple[AuditRecord, ...]]:
    """The change of a mend with its entry; `before`: the values of the keys that it writes."""
    name = change.probe.removeprefix(state.keys.prefix).decode(errors="backslashreplace")
    was = {_key(op.key): _value(before.get(op.key)) for op in change.then}
    now = {_key(op.key): _value(op.value if isinstance(op, Put) else None) for op in change.then}
    return _remembered(change, state, word, [("key", name, "repair", was, now)])


def _key(key: bytes) -> str:
    return key.decode(errors="backslashreplace")


def _value(value: bytes | None) -> object:
    """A stored value as people can read it."""
    if value is None or len(value) > LARGEST:
        return None if value is None else f"{len(value)} bytes"
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return value.decode(errors="backslashreplace")


_Described = tuple[Kind, str, str, "dict[str, Any] | None", "dict[str, Any] | None"]


def _remembered(
    change: Change, state: ClusterState, word: Word, found: list[_Described]
) -> tuple[Change, tuple[AuditRecord, ...]]:
    entries = []
    for number, (kind, name, action, before, after) in enumerate(found):
        if before is not None and after is not None:
            before, after = _different(before, after)
        entry = AuditRecord(
            time=word.time,
            who=word.caller.encode(),
            cause=word.cause,
            action=action,
            kind=kind,
            name=name,
            at=word.at,
            before=_cut(before),
            after=_cut(after),
        )
        if kind == "cluster":
            key = keys.catalogue_audit(state.revision, name)
        else:
            key = state.keys.audit(state.revision, word.sequence + number, own=bool(word.cause))
        entries.append(entry)
        change = replace(
            change,
            compares=(*change.compares, Compare.absent(key)),
            then=(*change.then, Put(key, msgspec.json.encode(entry))),
        )
    return change, tuple(entries)


def _described(op: Put | Delete, state: ClusterState, now: int) -> _Described | None:
    """What an operation does to something that is declared: kind, name, action, before, after."""
    value = op.value if isinstance(op, Put) else None
    if op.key.startswith(keys.CATALOGUE):
        return "cluster", op.key[len(keys.CATALOGUE) :].decode(), "delete", {}, None
    kind, names = state.keys.parse(op.key)
    if kind == "networks":
        known = state.networks.get(names[0])
        before = None if known is None else msgspec.to_builtins(known.record)
        record = None if value is None else msgspec.json.decode(value, type=NetworkRecord)
        after = None if record is None else msgspec.to_builtins(record)
        return "network", names[0], _action(before, after), before, after
    if kind == "pools":
        pool = state.pools.get(names[0])
        before = None if pool is None else _pool(state, pool.record)
        found = None if value is None else msgspec.json.decode(value, type=PoolRecord)
        after = None if found is None else _pool(state, found)
        return "pool", names[0], _action(before, after), before, after
    if kind == "nodes" and value is None:
        return "node", names[0], "forget", {}, None
    if kind == "fenced":
        return _fenced(names[0], value, state)
    if kind == "namespaces":
        known_default = state.namespaces.get(names[0])
        before = None if known_default is None else msgspec.to_builtins(known_default.record)
        chosen = None if value is None else msgspec.json.decode(value, type=NamespaceRecord)
        after = None if chosen is None else msgspec.to_builtins(chosen)
        return "namespace", names[0], _action(before, after), before, after
    if kind == "slots":
        entry = views.address(state, slot_id(names), now)
        name = str(entry.ipv4 or entry.ipv6)
        shown = {key: what for key, what in msgspec.to_builtins(entry).items() if what is not None}
        if value is None:
            action = "unreserve" if entry.state == "reserved" else "release"
            return "address", name, action, shown, None
        holder = msgspec.json.decode(value, type=Holder)
        if not holder.reserved:
            return None
        reserved = {"network": names[0], "state": "reserved", "note": holder.note}
        if holder.vmac:
            reserved["node"] = holder.node
        return "address", name, "reserve", None, reserved
    return None


def _fenced(node: str, value: bytes | None, state: ClusterState) -> _Described | None:
    """That a node is fenced, why, and that it is no more; not each time that it is said."""
    told = state.fenced.get(node)
    before = None if told is None else {"fenced": told.record.why}
    now = None if value is None else msgspec.json.decode(value, type=FencingRecord)
    after = None if now is None else {"fenced": now.why}
    if before == after:
        return None
    return "node", node, "unfence" if after is None else "fence", before, after


def _pool(state: ClusterState, record: PoolRecord) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(record)
    network = state.networks.get(record.network)
    if network is not None:
        shown["ranges"] = network.slots.format_ranges(ranges_of(record))
    return shown


def _action(before: object, after: object) -> str:
    if before is None:
        return "create"
    return "delete" if after is None else "change"


def _different(
    before: dict[str, Any], after: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return (
        {key: before[key] for key in changed if key in before},
        {key: after[key] for key in changed if key in after},
    )


def _cut(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Long lists cut short, so that an entry stays small whatever it is about."""
    if values is None:
        return None
    return {
        key: [*value[:LONGEST], f"and {len(value) - LONGEST} more"]
        if isinstance(value, list) and len(value) > LONGEST
        else value
        for key, value in values.items()
    }


def overdue(entries: Mapping[bytes, int], now: int, most: int, age: int) -> list[bytes]:
    """The keys of entries that go: all but the newest `most`, and those that are older than `age`.
    `entries`: when each was made; `now`, `age` and the times are in milliseconds. What leaders do
    by themselves is counted apart, so that it never takes the place of what people did."""
    gone: list[bytes] = []
    for own in (False, True):
        ordered = sorted(key for key in entries if keys.is_own(key) is own)
        many = max(0, len(ordered) - most)
        gone += ordered[:many] + [key for key in ordered[many:] if entries[key] + age < now]
    return gone


def tell(entry: AuditRecord, cluster: str | None, revision: int) -> None:
    """Says the same in the log."""
    log.info(
        "%s %s: %s", entry.kind, entry.name, entry.action,
        extra={
            "event": "audit",
            "cluster": cluster,
            "revision": revision,
            "who": entry.who,
            "cause": entry.cause,
            "kind": entry.kind,
            "object": entry.name,
            "action": entry.action,
            "before": entry.before,
            "after": entry.after,
        },
    )  # fmt: skip


def shown(stored: KeyValue) -> m.Audited:
    """A stored entry as the API tells it."""
    entry = msgspec.json.decode(stored.value, type=AuditRecord)
    try:
        who = str(Caller.decode(entry.who))
    except Problem:
        who = entry.who
    who += f" ({entry.cause})" if entry.cause else ""
    return m.Audited(
        revision=stored.mod_revision,
        time=entry.time,
        who=who,
        action=entry.action,
        kind=entry.kind,
        name=entry.name,
        before=entry.before,
        after=entry.after,
    )
