"""Reading what is remembered of changes, and remembering what no cluster's leader writes."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import msgspec

from ipam_server import keys
from ipam_server.audit import CATALOGUE_ENTRIES, AuditRecord, Kind, overdue, shown
from netspace import messages as m
from netspace.callers import Caller
from netspace.problems import Problem
from statestore import Delete, KeyValue, Put, Store, StoreError, Txn

Said = tuple[Kind, str, str]
"""Of what kind it is, its name, and what was done."""

CHUNK = 100
"""Entries that one transaction forgets."""


async def audit_page(store: Store, prefix: bytes, limit: int, after: str | None) -> m.AuditPage:
    """`limit` entries behind `after`, oldest first."""
    behind = prefix + after.encode() if after else b""
    try:
        pages = store.pages(prefix, size=limit + 1, after=behind)
        async with contextlib.aclosing(pages):
            items: tuple[KeyValue, ...] = (await anext(pages)).items
    except StoreError as error:
        raise Problem("state-unavailable", str(error), retry_after=1) from None
    more = items[limit - 1].key[len(prefix) :].decode() if len(items) > limit else None
    return m.AuditPage(items=[shown(stored) for stored in items[:limit]], next=more)


def remembered(
    kind: Kind, name: str, action: str, revision: int, caller: Caller
) -> tuple[Put, AuditRecord]:
    """The entry of a cluster or fabric that is made or deleted, decided at this revision."""
    entry = AuditRecord(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        who=caller.encode(),
        action=action,
        kind=kind,
        name=name,
        before={} if action == "delete" else None,
        after={} if action == "create" else None,
    )
    key = keys.catalogue_audit(revision, f"{kind}-{name}")
    return Put(key, msgspec.json.encode(entry)), entry


async def forget_oldest(store: Store) -> None:
    """Keeps what is remembered of clusters and fabrics within bounds. Raises `StoreError`."""
    known: dict[bytes, int] = {}
    async with contextlib.aclosing(store.pages(keys.AUDIT)) as pages:
        async for page in pages:
            known |= {stored.key: 0 for stored in page.items}
    gone = overdue(known, 0, CATALOGUE_ENTRIES, 0)
    for at in range(0, len(gone), CHUNK):
        await store.txn(Txn(then=tuple(map(Delete, gone[at : at + CHUNK]))))
