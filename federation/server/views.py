"""What nodes and other members are told, each made and encoded once for all who wait for it."""

from __future__ import annotations

import asyncio
import time
import zlib
from typing import Final

import msgspec

from federation.server.info import Site, build
from federation.server.place import Place
from federation.server.state import FederationRecord, State
from netspace.messages.federating import Info
from netspace.messages.federation import FederationView, Peer, Version, View

BEHIND: Final = 2.0
"""Seconds that a server may be behind another one; whoever has seen more than the leader by then
has seen another life of the state."""


def view_of(state: State, cluster: str) -> View:
    """All federations as a node needs them; pure."""
    return View(
        cluster=cluster,
        number=state.number,
        federations=[
            _federation(state, cluster, record)
            for _, record in sorted(state.federations.items())
            if any(member.cluster == cluster for member in record.federation.members)
        ],
    )


def _federation(state: State, cluster: str, record: FederationRecord) -> FederationView:
    federation = record.federation
    name = federation.name
    own = state.own.get(name)
    if own is None:
        member = next(each for each in federation.members if each.cluster == cluster)
        own = build(Site(cluster, member.cni, grouped=True), record.local, with_pods=False)
    available = state.available.get(name, {})
    return FederationView(
        federation=federation,
        own=own,
        peers=[
            Peer(
                cluster=member.cluster,
                kind=federation.kind(cluster, member.cluster),
                ca=member.ca,
                info=state.peers.get((name, member.cluster)),
                available=available.get(member.cluster, []),
                contact=state.contacts.get((name, member.cluster)),
                fault=state.faults.get((name, member.cluster), ""),
            )
            for member in federation.members
            if member.cluster != cluster
        ],
    )


class _Stamped(msgspec.Struct):
    """An `Info`, most of it encoded before."""

    info: msgspec.Raw
    federation: msgspec.Raw
    time: float


class Views:
    """Waits with those who ask until there is something new. `close` lets them all go."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._view: tuple[State, int, dict[tuple[str, str], int], bytes] | None = None
        self._packed: tuple[bytes, bytes] | None = None
        self._infos: dict[str, tuple[Info, msgspec.Raw, msgspec.Raw]] = {}
        self._closed = False

    def close(self) -> None:
        self._closed = True
        self._place.mirror.wake()

    async def view(self, after: int, wait: float) -> bytes | None:
        """The encoded view; None where the asker has seen a later one than there is here."""
        end = time.monotonic() + (wait if after <= self._place.state.number else BEHIND)
        while self._place.state.number <= after and await self._waited(end):
            pass
        state = self._place.state
        if state.number < after:
            return None
        return self.latest()

    def latest(self) -> bytes:
        state = self._place.state
        known = self._view
        # That another member answered makes no later view, but stands in the one there is.
        if known is None or known[0] is not state or known[1:3] != (state.number, state.contacts):
            data = msgspec.json.encode(view_of(state, self._place.cluster))
            known = self._view = (state, state.number, dict(state.contacts), data)
        return known[3]

    def packed(self, view: bytes) -> bytes:
        """The same, compressed: of thousands of nodes it is a tenth."""
        known = self._packed
        if known is None or known[0] is not view:
            known = self._packed = (view, zlib.compress(view, 1))
        return known[1]

    async def info(self, name: str, after: Version | None, known: int, wait: float) -> bytes:
        """What another member is told: this cluster's information if it is newer than `after`,
        and the federation, if this cluster keeps it and its number is above `known`."""
        end = time.monotonic() + wait
        while True:
            told = self._told(name, after, known)
            if told.info is not None or told.federation is not None or not await self._waited(end):
                return self._encoded(name, told)

    def _told(self, name: str, after: Version | None, known: int) -> Info:
        state = self._place.state
        record, own = state.federations.get(name), state.own.get(name)
        if own is not None and after is not None and own.version <= after:
            own = None
        federation = None
        if record is not None and record.federation.founder == self._place.cluster:
            federation = record.federation if record.federation.number > known else None
        return Info(info=own, federation=federation)

    def _encoded(self, name: str, told: Info) -> bytes:
        known = self._infos.get(name)
        # The same things, not equal ones: these may have thousands of nodes.
        same = known is not None and (
            known[0].info is told.info and known[0].federation is told.federation
        )
        if known is None or not same:
            own, federation = (
                msgspec.Raw(msgspec.json.encode(each)) for each in (told.info, told.federation)
            )
            known = self._infos[name] = (told, own, federation)
        return msgspec.json.encode(_Stamped(known[1], known[2], time.time()))

    async def _waited(self, end: float) -> bool:
        """Whether something has changed before the end."""
        left = end - time.monotonic()
        if left <= 0 or self._closed:
            return False
        try:
            async with asyncio.timeout(left):
                await self._place.mirror.renumbered()
        except TimeoutError:
            return False
        return not self._closed
