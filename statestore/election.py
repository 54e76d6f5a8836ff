"""Leader election: one key on a lease, and the comparison that fences the leader's writes.

Whoever makes the key leads until it is gone. The key's create revision names the leadership: a
deposed leader's writes, compared with its own, are refused by etcd itself, however late it
learns of its fall.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Self

from statestore.errors import BadRequest, OutcomeUnknown, OutOfSpace, StoreError
from statestore.leases import Lease
from statestore.store import Store
from statestore.transactions import Compare, Get, KeyValue, Put, Txn, TxnResult
from statestore.watch import SnapshotPage

log = logging.getLogger(__name__)

PAUSE = 0.2
"""Seconds between a failed attempt to become leader and the next."""


class Leader:
    """A leadership that was won; `fence` belongs into every write made under it.

    Leaving `async with` resigns.
    """

    def __init__(
        self, store: Store, key: bytes, create_revision: int, lease: Lease, history: int
    ) -> None:
        self._store = store
        self._history = history
        self.key = key
        self.create_revision = create_revision
        self.lease = lease
        self._gone = asyncio.Event()
        self._observing = asyncio.create_task(self._observe(), name="leadership")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.resign()

    @property
    def fence(self) -> Compare:
        """Holds as long as this leadership does."""
        return Compare.created_at(self.key, self.create_revision)

    @property
    def leads(self) -> bool:
        """Whether nothing is known to the contrary; the fence decides, but for an etcd that was
        restored, whose snapshot may have this very key."""
        return not self._gone.is_set() and self._store.history == self._history

    async def lost(self) -> None:
        """Return once it is known that the leadership is over, resigned included."""
        await self._gone.wait()

    async def resign(self) -> None:
        """End the leadership: the key is deleted with its lease, another candidate leads at once.

        Never raises a `StoreError`: where etcd cannot be reached the lease runs out.
        """
        self._gone.set()
        self._observing.cancel()
        try:
            await asyncio.wait({self._observing})
        finally:
            await self.lease.revoke()

    async def _observe(self) -> None:
        store = self._store
        expired = asyncio.create_task(self.lease.lost.wait())
        replaced = asyncio.create_task(_changed(store, self.key, self.create_revision))
        restored = asyncio.create_task(store.turned(self._history))
        waiting = {expired, replaced, restored}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            log.warning("leadership lost: %s", self.key.decode(errors="backslashreplace"))
        finally:
            self._gone.set()
            for each in waiting:
                each.cancel()
            for end in await asyncio.gather(*waiting, return_exceptions=True):
                if isinstance(end, Exception):
                    log.error("the leader's key cannot be watched: %s", end)


class Leadership:
    """The election for one key. `value` is what others learn of the leader: its name or address.

    `ttl` (whole seconds) is how long a leader that fell silent keeps the others waiting.
    """

    def __init__(self, store: Store, key: bytes, value: bytes, ttl: int = 2) -> None:
        self._store = store
        self._key = key
        self._value = value
        self._ttl = ttl

    async def current(self) -> tuple[bytes, int] | None:
        """The leader's value and its key's create revision; None: nobody leads."""
        kv = await self._store.get(self._key)
        return (kv.value, kv.create_revision) if kv else None

    async def campaign(self) -> Leader:
        """Wait until nobody else leads, then lead.

        Goes on through every failure of etcd; raises only `BadRequest`. Without space etcd lets
        nobody become leader: that is tried again until there is.
        """
        while True:
            try:
                while kv := await self._store.get(self._key):
                    await _changed(self._store, self._key, kv.create_revision)
                if leader := await self._take():
                    return leader
            except BadRequest:
                raise
            except StoreError as error:
                log.warning("not leading yet: %s", error)
                await asyncio.sleep(self._ttl / 3 if isinstance(error, OutOfSpace) else PAUSE)

    async def _take(self) -> Leader | None:
        """Make the key; None where another was faster."""
        history = self._store.history
        lease = await self._store.lease(self._ttl)
        try:
            create_revision = await self._put(lease)
        except BaseException:
            await lease.revoke()
            raise
        if create_revision is None:
            await lease.revoke()
            return None
        return Leader(self._store, self._key, create_revision, lease, history)

    async def _put(self, lease: Lease) -> int | None:
        """The create revision of our key; None where another's stands there.

        A key on our own lease was made by an attempt of ours whose answer was lost: so it can
        be repeated while the lease lives.
        """
        key = self._key
        txn = Txn(
            compares=(Compare.absent(key),),
            then=(Put(key, self._value, lease.id),),
            otherwise=(Txn(compares=(Compare.attached_to(key, lease.id),), then=(Get(key),)),),
        )
        while True:
            try:
                result = await self._store.txn(txn)
            except OutcomeUnknown as error:
                log.warning("asking whether we lead: %s", error)
                continue
            if result.succeeded:
                return result.revision
            match result.results:
                case (TxnResult(succeeded=True, results=((KeyValue() as kv,),)),):
                    return kv.create_revision
                case _:
                    return None


async def _changed(store: Store, key: bytes, create_revision: int) -> None:
    """Return once the key made at this revision is gone, or another stands in its place."""
    async with contextlib.aclosing(store.watch_key(key, create_revision)) as changes:
        async for change in changes:
            if isinstance(change, SnapshotPage):
                standing = [kv.create_revision for kv in change.items]
            else:
                standing = [event.create_revision for event in change.events]
            # A deleted key's event has the create revision 0.
            if standing != [create_revision]:
                return
