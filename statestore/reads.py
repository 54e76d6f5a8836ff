"""Reads of keys and ranges: one at a time, or paged at one revision."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

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

    At least one page comes, be it empty; `timeout` (seconds) is each page's. For each answer etcd
    counts all that is left of the range it is asked for, however few keys it gives: it is asked for
    about a page where the keys are such that one can tell how far that reaches.
    """
    bound, first = end, True
    while True:
        answer = await read(
            connections,
            pb.RangeRequest(key=start, range_end=bound, limit=size, revision=revision),
            timeout,
        )
        revision = revision or answer.header.revision
        items = tuple(map(key_value, answer.kvs))
        if items or first:
            yield Page(revision, items)
        first = False
        if answer.more:
            behind = items[-1].key
            start = behind + b"\0"
        elif bound == end:
            return
        else:
            start = behind = bound
        close = 2 * len(items) >= size
        bound = ahead(items[0].key, items[-1].key, behind, end) if close else end


def ahead(first: bytes, last: bytes, behind: bytes, end: bytes) -> bytes:
    """A key as far behind `behind` as `first` is before `last`, and a quarter more; `end` if it
    comes sooner, or if the three do not differ in a hexadecimal number at their end alone."""
    found = _NUMBER.search(last)
    if found is None:
        return end
    at, length = found.start(), len(last)
    if any(
        len(key) != length or key[:at] != last[:at] or not _NUMBER.fullmatch(key, at)
        for key in (first, behind)
    ):
        return end
    low, high, number = (int(key[at:], 16) for key in (first, last, behind))
    number += (high - low) * 5 // 4 + 1
    if number >= 16 ** (length - at):
        return end
    bound = last[:at] + b"%0*x" % (length - at, number)
    return end if end != b"\0" and bound > end else bound


_NUMBER: Final = re.compile(rb"[0-9a-f]+\Z")
