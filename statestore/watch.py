"""A watch that goes on: across dropped connections, restarts, failovers and compactions.

What etcd promises and this relies on: the events of one revision come in one response unless
fragments are asked for (they are not), and in the order of revisions; a watch that starts at a
revision gets all events from it on, or is told that the revision was compacted.

Where etcd is asked again, it is asked from the last revision delivered on, which is dropped when
it comes again: nothing is left out and nothing comes twice. After a compaction the range is read
anew, in pages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import msgspec
from grpc import aio
from pyetcd.etcdrpc import kv_pb2
from pyetcd.etcdrpc import rpc_pb2 as pb

from statestore.connections import (
    CONNECT,
    REQUIRE_LEADER,
    Connections,
    attempt,
    translated,
)
from statestore.errors import Compacted, OutcomeUnknown, Unavailable
from statestore.reads import Page, present_revision, read_pages
from statestore.transactions import KeyValue, prefix_end

log = logging.getLogger(__name__)

QUIET = 2.0
"""Seconds without a message after which etcd is asked for a sign of life."""

SILENT = 2.0
"""Seconds it may take to give one; then another endpoint is asked."""

LIFE = pb.RangeRequest(key=b"\0", count_only=True)
"""What it is asked: a read that needs the leader, so that a member cut off counts as silent."""

PAUSE = 0.1
"""Seconds between a failure and the next attempt."""

FETCH, PAGE = 10_000, 2000
"""Keys asked for at once when a range is read anew, and keys that are given on at once. Where etcd
counts all that is left of the range for each answer, reading a large one in small answers takes it
minutes; whoever takes in a large page keeps everybody else waiting."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One key's change at `mod_revision`; of a deleted key only the key is known."""

    kind: Literal["put", "delete"]
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int


@dataclass(frozen=True, slots=True)
class WatchEvents:
    """All that one revision changed in the watched range, in etcd's order."""

    revision: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """A part of the watched range, read anew as it stood at `revision`.

    The pages of one reading have the same revision and come in the keys' order: `first` begins
    it, `last` ends it (one page may be both). Build the new state beside the old one and put it
    in its place at `last`: another `first` before that means that reading began again.
    """

    revision: int
    items: tuple[KeyValue, ...]
    first: bool
    last: bool


async def watch_range(
    connections: Connections,
    start: bytes,
    end: bytes,
    after: int | None,
    timeout: float,
    without: bytes = b"",
) -> AsyncGenerator[WatchEvents | SnapshotPage, None]:
    """The changes of [start, end) after a revision; with None what stands there now, first.

    Runs until closed (`contextlib.aclosing`) and outlives every failure of etcd; raises only
    `BadRequest`, which no repetition can cure. One response of etcd's is held at a time, and
    etcd is not read from while the consumer is busy, but for the next part of a range that is read
    anew. That leaves out the prefix `without`, whose changes come all the same. `timeout` (seconds)
    is each read's.
    """
    position = after
    history = connections.history
    while True:
        endpoint = connections.current
        try:
            if position is not None:
                connections.reached(position)
                await present_revision(connections, timeout)
            if position is None or connections.history != history:
                # The second: etcd was restored from an older copy of its data.
                history, position = connections.history, None
                async for page in _snapshot(connections, start, end, timeout, without):
                    yield page
                    if page.last:
                        position = page.revision
                assert position is not None
            endpoint = connections.current
            # From the revision already had, not the next: a compaction right at the next one
            # drops the deletes in it, and etcd before 3.4.36 and 3.5.19 would not say so.
            async with contextlib.aclosing(
                _responses(connections, start, end, max(position, 1), history)
            ) as responses:
                async for response in responses:
                    for batch in revisions(response.events):
                        if batch.revision > position:
                            position = batch.revision
                            connections.reached(position)
                            yield batch
                    position = progressed(position, response)
        except Compacted as error:
            log.warning("reading the state anew: %s", error)
            position = None
        except (Unavailable, OutcomeUnknown) as error:
            log.warning("watch interrupted, resuming: %s", error)
            connections.failed(endpoint)
            await asyncio.sleep(PAUSE)


def revisions(events: Iterable[kv_pb2.Event]) -> Iterable[WatchEvents]:
    """Events in etcd's order, those of one revision together."""
    for revision, group in groupby(events, key=lambda event: event.kv.mod_revision):
        yield WatchEvents(revision, tuple(_event(event) for event in group))


def progressed(position: int, response: pb.WatchResponse) -> int:
    """How far a watch has come that was at `position`.

    etcd says periodically of a quiet range that nothing was changed in it up to a revision, so
    that it does not fall behind compaction.
    """
    notice = not response.events and not response.created
    return max(position, response.header.revision) if notice else position


def _event(event: kv_pb2.Event) -> Event:
    kv = event.kv
    kind: Literal["put", "delete"] = "delete" if event.type == kv_pb2.Event.DELETE else "put"
    return Event(kind, kv.key, kv.value, kv.create_revision, kv.mod_revision)


async def _snapshot(
    connections: Connections, start: bytes, end: bytes, timeout: float, without: bytes
) -> AsyncGenerator[SnapshotPage, None]:
    """The range at one revision. While a part of it is given on, the next one is on its way."""
    ranges = [(start, without), (prefix_end(without), end)] if without else [(start, end)]
    parts = _parts(connections, ranges, timeout)
    coming = asyncio.ensure_future(anext(parts, None))
    first = True
    try:
        part = await coming
        while part is not None:
            coming = asyncio.ensure_future(anext(parts, None))
            at = 0
            while at + PAGE < len(part.items):
                yield SnapshotPage(part.revision, part.items[at : at + PAGE], first, last=False)
                first = False
                at += PAGE
                await asyncio.sleep(0)
            following = await coming
            yield SnapshotPage(part.revision, part.items[at:], first, last=following is None)
            first = False
            part = following
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        await parts.aclose()


async def _parts(
    connections: Connections, ranges: Iterable[tuple[bytes, bytes]], timeout: float
) -> AsyncGenerator[Page, None]:
    """The keys of several ranges at the revision of the first answer."""
    revision = 0
    for start, end in ranges:
        async for page in read_pages(connections, start, end, revision, FETCH, timeout):
            revision = page.revision
            yield page


async def _responses(
    connections: Connections, start: bytes, end: bytes, revision: int, history: int
) -> AsyncGenerator[pb.WatchResponse, None]:
    """etcd's responses to one watch from `revision` of a history on; always ends in a
    `StoreError`."""
    endpoint = connections.current
    what = f"watching {start.decode(errors='backslashreplace')} from revision {revision}"
    if not await endpoint.settled(CONNECT):
        raise Unavailable(what, endpoint.url, f"no connection within {CONNECT:.1f} s")
    call = endpoint.watch.Watch(metadata=REQUIRE_LEADER)
    reading: asyncio.Task[pb.WatchResponse] | None = None
    try:
        await call.write(
            pb.WatchRequest(
                create_request=pb.WatchCreateRequest(
                    key=start, range_end=end, start_revision=revision, progress_notify=True
                )
            )
        )
        while True:
            reading = reading or asyncio.ensure_future(call.read())
            done, _ = await asyncio.wait({reading}, timeout=QUIET)
            if not done:
                # Not a progress request: etcd 3.5.8 to 3.5.12 leave it unanswered on a watch
                # that begins in the past, and before, its answer may overtake events.
                before = connections.revision
                sign: pb.RangeResponse = await attempt(
                    endpoint, what, endpoint.kv.Range, LIFE, False, SILENT, SILENT
                )
                connections.judge(sign.header, before)
            if connections.history != history:
                raise Unavailable(what, endpoint.url, "etcd was restored from a snapshot")
            if not done:
                continue
            response, reading = reading.result(), None
            if response is aio.EOF:
                raise Unavailable(what, endpoint.url, "etcd ended the watch")
            if response.compact_revision:
                raise Compacted(
                    what,
                    endpoint.url,
                    f"history begins at revision {response.compact_revision}",
                    compact_revision=response.compact_revision,
                )
            if response.canceled:
                raise Unavailable(what, endpoint.url, response.cancel_reason or "canceled")
            yield response
    except aio.AioRpcError as error:
        raise translated(error, what, endpoint, write=False) from error
    except asyncio.InvalidStateError as error:
        # grpc.aio's word for writing to a call that has ended meanwhile.
        raise Unavailable(what, endpoint.url, str(error)) from error
    finally:
        call.cancel()
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
