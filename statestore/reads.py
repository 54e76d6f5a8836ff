"""Reads of keys and ranges: one at a time, or paged at one revision."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from pyetcd.etcdrpc import rpc_pb2 as pb

from statestore.connections import Connections
from statestore.transactions import KeyValue, key_value


@dataclass(frozen=True, slots=True)
class Page:
    """Some keys of a range, in order, as they stood at `revision`."""

    revision: int
    items: tuple[KeyValue, ...]


async def read(
    connections: Connections, request: pb.RangeRequest, timeout: float
) -> pb.RangeResponse:
    """One linearizable read. Raises `Unavailable`, `Compacted`, `BadRequest`."""
    before = connections.revision
    response: pb.RangeResponse = await connections.call(
        f"reading {request.key.decode(errors='backslashreplace')}",
        lambda endpoint: endpoint.kv.Range,
        request,
        False,
        timeout,
    )
    connections.judge(response.header, before)
    return response


async def present_revision(connections: Connections, timeout: float) -> int:
    """The store's revision now, whatever was last written."""
    answer = await read(connections, pb.RangeRequest(key=b"\0", count_only=True), timeout)
    return int(answer.header.revision)


async def read_pages(
    connections: Connections, start: bytes, end: bytes, revision: int, size: int, timeout: float
) -> AsyncGenerator[Page, None]:
    """The keys in [start, end), at most `size` a page, all at `revision` (0: the first page's).

    At least one page comes, be it empty; `timeout` (seconds) is each page's.
    """
    while True:
        answer = await read(
            connections,
            pb.RangeRequest(key=start, range_end=end, limit=size, revision=revision),
            timeout,
        )
        revision = revision or answer.header.revision
        yield Page(revision, tuple(key_value(kv) for kv in answer.kvs))
        if not answer.more:
            return
        start = answer.kvs[-1].key + b"\0"
