"""The store: transactions, reads, deletes in chunks, watches, leases, over several endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Self

from google.protobuf.unknown_fields import UnknownFieldSet
from pyetcd.etcdrpc import rpc_pb2 as pb

from statestore import leases
from statestore.connections import Connections, Endpoint, Tls, attempt
from statestore.errors import StoreError
from statestore.reads import Page, present_revision, read, read_pages
from statestore.transactions import (
    KeyValue,
    Txn,
    TxnResult,
    decode,
    encode,
    key_value,
    prefix_end,
    writes,
)
from statestore.watch import SnapshotPage, WatchEvents, watch_range

ALARMS = {1: "NOSPACE", 2: "CORRUPT"}

IN_USE, QUOTA = 9, 12
"""Fields of a status that the stubs do not know: dbSizeInUse (etcd 3.4), dbSizeQuota (3.6)."""


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """What one endpoint says of itself; `error` is why it does not, else empty.

    `alarms` are the cluster's: "NOSPACE" stands until it is disarmed, whatever space there is.
    `in_use_bytes` is what of the database is left after a defragmentation; `quota_bytes` is what it
    may grow to, 0 where etcd is older than 3.6 and does not say.
    """

    endpoint: str
    version: str = ""
    database_bytes: int = 0
    leader: bool = False
    alarms: tuple[str, ...] = ()
    error: str = ""
    in_use_bytes: int = 0
    quota_bytes: int = 0


class Store:
    """One etcd cluster, used in `async with`.

    `endpoints` are `http://HOST:PORT` or `https://HOST:PORT`; the latter need `tls`. `timeout`
    (seconds) bounds each call, the tries on all endpoints together. Every method raises a
    `StoreError`: reads `Unavailable`, writes that or `OutcomeUnknown`, and what `errors.py` says.
    """

    def __init__(
        self, endpoints: Sequence[str], tls: Tls | None = None, timeout: float = 5.0
    ) -> None:
        self._urls = tuple(endpoints)
        self._tls = tls
        self._timeout = timeout
        self._open: Connections | None = None

    @property
    def place(self) -> tuple[tuple[str, ...], Tls | None, float]:
        """What it was made with, for another process's own."""
        return self._urls, self._tls, self._timeout

    async def __aenter__(self) -> Self:
        self._open = Connections(self._urls, self._tls)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._connections.close()

    @property
    def _connections(self) -> Connections:
        if self._open is None:
            raise RuntimeError("the store is not open: use it in `async with`")
        return self._open

    async def txn(self, txn: Txn, timeout: float | None = None) -> TxnResult:
        """Carry a transaction out. `timeout` in seconds, the store's if None."""
        before = self._connections.revision
        response: pb.TxnResponse = await self._connections.call(
            f"a transaction of {len(txn.then)} operations",
            lambda endpoint: endpoint.kv.Txn,
            encode(txn),
            writes(txn),
            self._timeout if timeout is None else timeout,
        )
        self._connections.judge(response.header, before)
        return decode(response)

    @property
    def history(self) -> int:
        """Another number once etcd was found to have been restored from a snapshot: what was read
        or written before may be there no more."""
        return self._connections.history

    async def turned(self, history: int) -> None:
        """Return once the history is another one than this."""
        await self._connections.turned(history)

    async def get(self, key: bytes, revision: int = 0) -> KeyValue | None:
        """A key now, or as it stood at `revision`; None where it does not exist."""
        answer = await read(
            self._connections, pb.RangeRequest(key=key, revision=revision), self._timeout
        )
        return key_value(answer.kvs[0]) if answer.kvs else None

    async def revision(self) -> int:
        """The present revision of the whole store, linearizable."""
        return await present_revision(self._connections, self._timeout)

    def pages(
        self, prefix: bytes, revision: int = 0, size: int = 2000, after: bytes = b""
    ) -> AsyncGenerator[Page, None]:
        """All keys of a prefix, or those of them behind `after`, in order, at most `size` a page,
        all at one revision.

        That is `revision`, or with 0 the first page's. At least one page comes, be it empty.
        Raises `Compacted` when that revision is gone.
        """
        return read_pages(
            self._connections,
            max(prefix, after + b"\0"),
            prefix_end(prefix),
            revision,
            size,
            self._timeout,
        )

    async def delete_prefix(self, prefix: bytes, chunk: int = 500) -> int:
        """Delete all keys of a prefix, `chunk` at a time; the number of keys deleted.

        One very large delete keeps etcd slow for minutes. Not atomic: what fails in the middle
        leaves the rest, and can be called again.
        """
        deleted = 0
        while True:
            request = pb.RangeRequest(
                key=prefix or b"\0", range_end=prefix_end(prefix), limit=chunk, keys_only=True
            )
            found = await read(self._connections, request, self._timeout)
            if not found.kvs:
                return deleted
            result: pb.DeleteRangeResponse = await self._connections.call(
                f"deleting {len(found.kvs)} keys of {prefix.decode(errors='backslashreplace')}",
                lambda endpoint: endpoint.kv.DeleteRange,
                pb.DeleteRangeRequest(key=found.kvs[0].key, range_end=found.kvs[-1].key + b"\0"),
                True,
                self._timeout,
            )
            deleted += result.deleted

    def watch(
        self, prefix: bytes, after: int | None = None, without: bytes = b""
    ) -> AsyncGenerator[WatchEvents | SnapshotPage, None]:
        """What happens to a prefix after a revision, without gap or repetition.

        With None what stands there now comes first; `SnapshotPage` says how it is to be read.
        It comes again when etcd has compacted what was not delivered yet. The prefix `without`
        inside is not read then; its changes come with the others. Close it
        (`contextlib.aclosing`): it never ends by itself, and raises only `BadRequest`.
        """
        return watch_range(
            self._connections, prefix or b"\0", prefix_end(prefix), after, self._timeout, without
        )

    def watch_key(
        self, key: bytes, after: int | None = None
    ) -> AsyncGenerator[WatchEvents | SnapshotPage, None]:
        """`watch` of one key alone."""
        return watch_range(self._connections, key, b"", after, self._timeout)

    async def lease(self, ttl: int) -> leases.Lease:
        """A new lease of `ttl` whole seconds that keeps itself alive."""
        return await leases.grant(self._connections, ttl, self._timeout)

    async def status(self, timeout: float = 2.0) -> tuple[MemberStatus, ...]:
        """What each endpoint says of itself within `timeout` seconds, in order; never raises."""
        endpoints = self._connections.endpoints
        return tuple(await asyncio.gather(*(_status(each, timeout) for each in endpoints)))


async def _status(endpoint: Endpoint, timeout: float) -> MemberStatus:
    try:
        status: pb.StatusResponse = await attempt(
            endpoint,
            "asking for its status",
            endpoint.maintenance.Status,
            pb.StatusRequest(),
            False,
            timeout,
            timeout,
        )
        alarms: pb.AlarmResponse = await attempt(
            endpoint,
            "asking for its alarms",
            endpoint.maintenance.Alarm,
            pb.AlarmRequest(action=pb.AlarmRequest.GET),
            False,
            timeout,
            timeout,
        )
    except StoreError as error:
        return MemberStatus(endpoint.url, error=str(error))
    unknown = UnknownFieldSet(status)
    fields = (unknown[at] for at in range(len(unknown)))
    more = {field.field_number: field.data for field in fields}
    return MemberStatus(
        endpoint.url,
        status.version,
        status.dbSize,
        status.leader == status.header.member_id,
        tuple(sorted({ALARMS.get(each.alarm, str(each.alarm)) for each in alarms.alarms})),
        in_use_bytes=more.get(IN_USE, 0),
        quota_bytes=more.get(QUOTA, 0),
    )
