"""Who held an address, and when.

Who holds it stands in the slot's key, who held it last in its release. When the slot is given again
that release is copied to a place of its own, in the transaction of the new holder: a slot that is
given for the first time costs nothing. A slot has a fixed number of such places, and its holders
take them in turn, so that the oldest is overwritten; the leader forgets what is too old. The keys
lie beside the cluster's, named by the network's uid: no server reads them at its start, and a new
network of an old name begins without a past.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime

import msgspec

from ipam_server import views
from ipam_server.changes import Change
from ipam_server.keys import Keys, SlotId
from ipam_server.records import Holder, Release
from ipam_server.state import ClusterState
from netspace.messages import AddressHistory, Tenancy
from netspace.problems import Problem
from statestore import Compare, Delete, Page, Put, Store, StoreError

LOOKED_AT = 1000
"""Entries that are looked at together when the old ones are forgotten."""

CHUNK = 50
"""Entries that one transaction forgets."""


def remembering(
    change: Change, state: ClusterState, slot: SlotId, past: Release | None, entries: int
) -> Change:
    """The change that ends what is known of a past holder, with that holder kept in the history;
    `entries`: how many places a slot has."""
    if past is None or not entries:
        return change
    uid = state.networks[slot[0]].record.uid
    key = state.keys.history(uid, slot[1], past.turn % entries)
    return replace(change, then=(*change.then, Put(key, msgspec.json.encode(past))))


def forgetting(page: Page, now: int, age: int) -> list[Change]:
    """Deletes what of a page of entries is older than `age`, both by the cluster's clock in
    milliseconds; what was written anew meanwhile stays."""
    old = [
        stored
        for stored in page.items
        if msgspec.json.decode(stored.value, type=Release).at + age < now
    ]
    return [
        Change(
            tuple(Compare.modified_at(kv.key, kv.mod_revision) for kv in chunk),
            tuple(Delete(kv.key) for kv in chunk),
            chunk[0].key,
            None,
            shared=True,
        )
        for chunk in (old[at : at + CHUNK] for at in range(0, len(old), CHUNK))
    ]


async def page_after(store: Store, keys: Keys, after: bytes) -> Page | None:
    """The entries of a cluster that follow a key; None where etcd cannot be asked now."""
    try:
        async with contextlib.aclosing(
            store.pages(keys.histories, size=LOOKED_AT, after=after)
        ) as pages:
            return await anext(pages)
    except StoreError:
        return None


async def history(store: Store, state: ClusterState, slot: SlotId, entries: int) -> AddressHistory:
    """All that is known of the holders of a slot, the latest first."""
    known = state.networks[slot[0]]
    held, released = state.held(slot), state.released(slot)
    past: dict[int, Release] = {}
    prefix = state.keys.history_of(known.record.uid, slot[1])
    try:
        async with contextlib.aclosing(store.pages(prefix)) as pages:
            async for page in pages:
                for stored in page.items:
                    release = msgspec.json.decode(stored.value, type=Release)
                    past[release.turn] = release
    except StoreError as error:
        raise Problem("state-unavailable", str(error), retry_after=1) from None
    if released is not None:
        past[released.release.turn] = released.release
    items = [_past(past[turn]) for turn in sorted(past, reverse=True)]
    ipv4, ipv6 = views.addresses(known.slots, slot[1])
    return AddressHistory(
        network=slot[0],
        slot=str(slot[1]),
        ipv4=ipv4,
        ipv6=ipv6,
        items=[*([_present(held.holder)] if held else []), *items[: max(entries, 1)]],
    )


def _present(holder: Holder) -> Tenancy:
    return Tenancy(
        since=_said(holder.since),
        until=None,
        namespace=holder.namespace or None,
        pod=holder.pod or None,
        uid=holder.uid or None,
        ifname=holder.ifname or None,
        node=holder.node or None,
        container=holder.container or None,
        note=holder.note or None,
    )


def _past(release: Release) -> Tenancy:
    namespace, pod, ifname = release.identity or ("", "", "")
    return Tenancy(
        since=_said(release.since),
        until=_said(release.until),
        namespace=namespace or None,
        pod=pod or None,
        uid=release.uid or None,
        ifname=ifname or None,
        node=release.node or None,
        container=release.container or None,
        note=release.note or None,
    )


def _said(seconds: int) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else None
