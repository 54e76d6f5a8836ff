"""A cluster's federations as etcd has them, in memory: one function applies whatever comes.

Informations of clusters are stored compressed: etcd takes 1.5 MiB in one request, and a cluster of
thousands of nodes is more than that in JSON.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from federation.server.keys import Keys
from federation.server.tokens import TokenRecord
from netspace.messages.federating import Local
from netspace.messages.federation import ClusterInfo, FederatedNode, Federation
from statestore import Event, KeyValue

T = TypeVar("T")


class ServerRecord(msgspec.Struct, frozen=True):
    """A server that is there: where the others reach it, of which federations it has the keys, and
    of which it has no certificate that it can show."""

    name: str
    endpoint: str
    keys: tuple[str, ...] = ()
    uncertified: tuple[str, ...] = ()


class FederationRecord(msgspec.Struct, frozen=True):
    """A federation as this cluster is in it."""

    local: Local
    federation: Federation


def pack(value: object) -> bytes:
    return zlib.compress(msgspec.json.encode(value), 1)


def unpack(data: bytes, kind: type[T]) -> T:
    return msgspec.json.decode(zlib.decompress(data), type=kind)


class State:
    """`revision` up to which it is; `serial`: the last change's; by name or by federation and
    cluster what there is. `leader`: who leads, and since when its key stands. `unreadable`: what
    cannot be understood, and why; it counts as not being there, and nothing else suffers."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.revision = 0
        self.serial = 0
        self.epoch = 0
        self.leader: ServerRecord | None = None
        self.servers: dict[str, ServerRecord] = {}
        self.nodes: tuple[FederatedNode, ...] = ()
        self.federations: dict[str, FederationRecord] = {}
        self.tokens: dict[tuple[str, str], TokenRecord] = {}
        self.own: dict[str, ClusterInfo] = {}
        self.peers: dict[tuple[str, str], ClusterInfo] = {}
        self.faults: dict[tuple[str, str], str] = {}
        self.contacts: dict[tuple[str, str], int] = {}
        self.available: dict[str, dict[str, list[str]]] = {}
        self.unreadable: dict[tuple[str, ...], str] = {}

    @property
    def number(self) -> int:
        """Of the view that follows from it. A state that was restored never has the same again for
        something else."""
        return self.serial << 8 | self.epoch & 0xFF

    def apply(self, revision: int, changes: Iterable[KeyValue | Event]) -> None:
        """Takes in what etcd has changed, or has."""
        for change in changes:
            value = change.value if change.kind == "put" else None
            parts = self.keys.parts(change.key)
            self.unreadable.pop(parts, None)
            try:
                self._take(parts, value, change.mod_revision)
            except (msgspec.MsgspecError, zlib.error, ValueError) as error:
                self._take(parts, None, change.mod_revision)
                self.unreadable[parts] = str(error)
        self.revision = max(revision, self.revision)

    def _take(self, parts: tuple[str, ...], value: bytes | None, revision: int) -> None:
        match parts:
            case ("serial",):
                self.serial = revision
            case ("epoch",):
                self.epoch = int(value or b"0")
            case ("leader",):
                self.leader = _json(value, ServerRecord)
            case ("nodes",):
                self.nodes = () if value is None else unpack(value, tuple[FederatedNode, ...])
            case ("servers", name):
                _put(self.servers, name, _json(value, ServerRecord))
            case ("federations", name):
                _put(self.federations, name, _json(value, FederationRecord))
            case ("tokens", federation, digest):
                _put(self.tokens, (federation, digest), _json(value, TokenRecord))
            case ("own", name):
                _put(self.own, name, _unpacked(value))
            case ("peers", federation, cluster):
                _put(self.peers, (federation, cluster), _unpacked(value))
            case ("faults", federation, cluster):
                _put(self.faults, (federation, cluster), _json(value, str))
            case ("contacts", federation, cluster):
                _put(self.contacts, (federation, cluster), _json(value, int))
            case ("available", name):
                _put(self.available, name, _json(value, dict[str, list[str]]))


def unread(state: State) -> dict[str, str]:
    """The federations whose own record cannot be understood, and why."""
    return {parts[1]: why for parts, why in state.unreadable.items() if parts[0] == "federations"}


def _json(value: bytes | None, kind: type[T]) -> T | None:
    return None if value is None else msgspec.json.decode(value, type=kind)


def _unpacked(value: bytes | None) -> ClusterInfo | None:
    return None if value is None else unpack(value, ClusterInfo)


K = TypeVar("K")


def _put(into: dict[K, T], key: K, value: T | None) -> None:
    if value is None:
        into.pop(key, None)
    else:
        into[key] = value
