"""Watches that go on: no gap, no repetition, read anew after a compaction."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from lab.etcd import Etcd
from lab.proxy import Proxy
from statestore import (
    Delete,
    OutcomeUnknown,
    Put,
    SnapshotPage,
    Store,
    Txn,
    Unavailable,
    WatchEvents,
)
from statestore.watch import FETCH, PAGE


async def write_on(store: Store, prefix: bytes, until: asyncio.Event) -> None:
    """Write two keys a transaction, again and again, whatever happens to etcd."""
    number = 0
    while not until.is_set():
        number += 1
        puts = (Put(prefix + b"a", b"%d" % number), Put(prefix + b"b", b"%d" % number))
        with contextlib.suppress(Unavailable, OutcomeUnknown):
            await store.txn(Txn(then=puts), timeout=0.3)
        await asyncio.sleep(0.002)


async def follow(store: Store, prefix: bytes, after: int, seen: list[WatchEvents]) -> None:
    async with contextlib.aclosing(store.watch(prefix, after)) as changes:
        async for change in changes:
            assert isinstance(change, WatchEvents)
            seen.append(change)


async def reach(seen: list[WatchEvents], revision: int, seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not seen or seen[-1].revision < revision:
            await asyncio.sleep(0.02)


def check_whole(seen: list[WatchEvents], after: int, prefix: bytes) -> None:
    """Every revision exactly once, in order, with both its events."""
    assert [each.revision for each in seen] == list(range(after + 1, after + 1 + len(seen)))
    for each in seen:
        assert [event.key for event in each.events] == [prefix + b"a", prefix + b"b"]
        assert len({event.value for event in each.events}) == 1


def test_a_watch_outlives_kills_of_etcd_without_gap_or_repetition(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with Store([etcd.url]) as store:
            after = await store.revision()
            seen: list[WatchEvents] = []
            enough = asyncio.Event()
            writer = asyncio.create_task(write_on(store, b"/w/", enough))
            watcher = asyncio.create_task(follow(store, b"/w/", after, seen))
            for _ in range(3):
                await reach(seen, len(seen) + after + 50)
                await asyncio.to_thread(etcd.restart)
            await reach(seen, len(seen) + after + 50)
            enough.set()
            await writer
            await reach(seen, await store.revision())
            watcher.cancel()
            check_whole(seen, after, b"/w/")

    asyncio.run(scenario())


def test_a_watch_outlives_a_cut_connection(shared_etcd: Etcd, prefix: bytes) -> None:
    async def scenario() -> None:
        async with (
            Proxy(shared_etcd.host, shared_etcd.client_port) as proxy,
            Store([proxy.url]) as cut,
            Store([shared_etcd.url]) as store,
        ):
            after = await store.revision()
            seen: list[WatchEvents] = []
            watcher = asyncio.create_task(follow(cut, prefix, after, seen))
            number = 0
            for _ in range(5):
                for _ in range(20):
                    number += 1
                    await store.txn(Txn(then=(Put(prefix, b"%d" % number),)))
                proxy.cut()
                await asyncio.sleep(0.05)
            await reach(seen, await store.revision())
            watcher.cancel()
            values = [event.value for each in seen for event in each.events]
            assert values == [b"%d" % each for each in range(1, number + 1)]

    asyncio.run(scenario())


def test_a_watch_on_an_etcd_that_fell_silent_goes_on_elsewhere(
    three_members: list[Etcd],
) -> None:
    async def scenario() -> None:
        first, *others = three_members
        async with (
            Store([member.url for member in three_members]) as store,
            Store([member.url for member in others]) as writer,
        ):
            after = await store.revision()
            seen: list[WatchEvents] = []
            watcher = asyncio.create_task(follow(store, b"/w/", after, seen))
            await writer.txn(Txn(then=(Put(b"/w/1", b""),)))
            await reach(seen, after + 1)
            first.pause()
            async with asyncio.timeout(15):
                while True:
                    with contextlib.suppress(Unavailable, OutcomeUnknown):
                        revision = (await writer.txn(Txn(then=(Put(b"/w/2", b""),)))).revision
                        break
            await reach(seen, revision)
            watcher.cancel()
            revisions = [each.revision for each in seen]
            assert revisions == list(range(after + 1, revision + 1))

    asyncio.run(scenario())


async def read_anew(
    changes: AsyncGenerator[WatchEvents | SnapshotPage, None],
) -> tuple[int, dict[bytes, bytes]]:
    """The next reading of the whole prefix: its revision and what stood there."""
    items: dict[bytes, bytes] = {}
    async for change in changes:
        assert isinstance(change, SnapshotPage)
        if change.first:
            items.clear()
        items |= {kv.key: kv.value for kv in change.items}
        if change.last:
            return change.revision, items
    raise AssertionError("the watch ended")


def test_a_watch_from_before_a_compaction_reads_anew_and_goes_on(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with Store([etcd.url]) as store:
            after = (await store.txn(Txn(then=(Put(b"/w/old", b"1"), Put(b"/x", b"1"))))).revision
            await store.txn(Txn(then=(Delete(b"/w/old"),)))
            for number in range(45):
                puts = tuple(Put(b"/w/%04d" % (number * 50 + each), b"2") for each in range(50))
                revision = (await store.txn(Txn(then=puts))).revision
            await asyncio.to_thread(etcd.compact, revision)
            async with (
                asyncio.timeout(10),
                contextlib.aclosing(store.watch(b"/w/", after)) as changes,
            ):
                at, items = await read_anew(changes)
                assert at == revision
                # 2,250 keys are more than one page.
                assert items == {b"/w/%04d" % number: b"2" for number in range(2250)}
                later = (await store.txn(Txn(then=(Put(b"/w/new", b"3"),)))).revision
                change = await anext(changes)
                assert isinstance(change, WatchEvents)
                assert (change.revision, change.events[0].key) == (later, b"/w/new")

    asyncio.run(scenario())


def test_a_compaction_while_disconnected_is_read_anew(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with (
            asyncio.timeout(15),
            Proxy(etcd.host, etcd.client_port) as proxy,
            Store([proxy.url], timeout=1.0) as cut,
            Store([etcd.url]) as store,
            contextlib.aclosing(cut.watch(b"/w/")) as changes,
        ):
            assert (await read_anew(changes))[1] == {}
            await store.txn(Txn(then=(Put(b"/w/1", b"1"),)))
            await anext(changes)
            waiting = asyncio.ensure_future(read_anew(changes))
            await asyncio.sleep(0)
            proxy.losing_answers = True
            await store.txn(Txn(then=(Put(b"/w/2", b"2"),)))
            last = await store.txn(Txn(then=(Delete(b"/w/1"),)))
            await asyncio.to_thread(etcd.compact, last.revision)
            proxy.cut()
            proxy.losing_answers = False
            assert await waiting == (last.revision, {b"/w/2": b"2"})

    asyncio.run(scenario())


def test_a_delete_in_the_very_revision_that_is_compacted_is_not_missed(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with Store([etcd.url]) as store:
            after = (await store.txn(Txn(then=(Put(b"/w/1", b"1"),)))).revision
            last = await store.txn(Txn(then=(Delete(b"/w/1"),)))
            await asyncio.to_thread(etcd.compact, last.revision)
            async with (
                asyncio.timeout(5),
                contextlib.aclosing(store.watch(b"/w/", after)) as changes,
            ):
                assert await read_anew(changes) == (last.revision, {})

    asyncio.run(scenario())


def test_a_compaction_of_what_was_delivered_is_no_reason_to_read_anew(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with Store([etcd.url]) as store:
            after = (await store.txn(Txn(then=(Put(b"/w/1", b"1"),)))).revision
            last = await store.txn(Txn(then=(Delete(b"/w/1"),)))
            await asyncio.to_thread(etcd.compact, after)
            async with (
                asyncio.timeout(5),
                contextlib.aclosing(store.watch(b"/w/", after)) as changes,
            ):
                change = await anext(changes)
                assert isinstance(change, WatchEvents)
                assert change.revision == last.revision

    asyncio.run(scenario())


def test_a_watch_without_a_position_begins_with_what_stands_there(
    shared_etcd: Etcd, prefix: bytes
) -> None:
    async def scenario() -> None:
        async with Store([shared_etcd.url]) as store:
            put = await store.txn(Txn(then=(Put(prefix, b"1"),)))
            async with asyncio.timeout(5), contextlib.aclosing(store.watch(prefix)) as changes:
                assert await read_anew(changes) == (put.revision, {prefix: b"1"})
                gone = await store.txn(Txn(then=(Delete(prefix),)))
                change = await anext(changes)
                assert isinstance(change, WatchEvents)
                (event,) = change.events
                assert (event.kind, event.key, event.value) == ("delete", prefix, b"")
                assert event.mod_revision == change.revision == gone.revision

    asyncio.run(scenario())


def test_a_quiet_watch_stays_up_and_sees_the_next_change(
    shared_etcd: Etcd,
    prefix: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("statestore.watch.QUIET", 0.1)

    async def scenario() -> None:
        async with Store([shared_etcd.url]) as store:
            seen: list[WatchEvents] = []
            after = await store.revision()
            watcher = asyncio.create_task(follow(store, prefix, after, seen))
            await asyncio.sleep(1.0)
            put = await store.txn(Txn(then=(Put(prefix, b"1"),)))
            await reach(seen, put.revision)
            watcher.cancel()
            assert [each.revision for each in seen] == [put.revision]

    asyncio.run(scenario())
    assert not [each.getMessage() for each in caplog.records if each.name == "statestore.watch"]


def test_an_etcd_restored_from_an_older_copy_is_read_anew(etcd: Etcd, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Store([etcd.url]) as store:
            await store.txn(Txn(then=(Put(b"/w/old", b"1"),)))
            await asyncio.to_thread(etcd.stop)
            etcd.copy_data(tmp_path / "copy")
            await asyncio.to_thread(etcd.start)
            async with asyncio.timeout(15), contextlib.aclosing(store.watch(b"/w/")) as changes:
                await read_anew(changes)
                for number in range(5):
                    await store.txn(Txn(then=(Put(b"/w/%d" % number, b"2"),)))
                    await anext(changes)
                waiting = asyncio.ensure_future(anext(changes))
                await asyncio.to_thread(etcd.kill)
                etcd.restore_data(tmp_path / "copy")
                await asyncio.to_thread(etcd.start)
                page = await waiting
                assert isinstance(page, SnapshotPage)
                assert [kv.key for kv in page.items] == [b"/w/old"]

    asyncio.run(scenario())


def test_a_large_range_is_read_anew_in_pages_of_one_revision_without_what_is_left_out(
    etcd: Etcd,
) -> None:
    count = FETCH + 2 * PAGE + 1

    async def scenario() -> None:
        async with Store([etcd.url]) as store:
            for start in range(0, count, 120):
                numbers = range(start, min(start + 120, count))
                puts = tuple(Put(b"/k/m/%06d" % number, b"") for number in numbers)
                await store.txn(Txn(then=puts))
            beside = (b"/k/a", b"/k/left/1", b"/k/left/2", b"/k/left0", b"/k/z")
            revision = (await store.txn(Txn(then=tuple(Put(key, b"") for key in beside)))).revision
            pages: list[SnapshotPage] = []
            async with contextlib.aclosing(store.watch(b"/k/", without=b"/k/left/")) as changes:
                async for change in changes:
                    assert isinstance(change, SnapshotPage)
                    pages.append(change)
                    if change.last:
                        break
                    # What is written meanwhile belongs to the changes.
                    if change.first:
                        await store.txn(Txn(then=(Put(b"/k/m/zz", b""), Delete(b"/k/z"))))
                        left_out = await store.txn(Txn(then=(Put(b"/k/left/3", b""),)))
                later = [await anext(changes), await anext(changes)]
            assert {page.revision for page in pages} == {revision}
            assert [page.first for page in pages] == [True] + [False] * (len(pages) - 1)
            assert max(len(page.items) for page in pages) <= PAGE
            keys = [kv.key for page in pages for kv in page.items]
            assert keys == sorted(
                [b"/k/a", b"/k/left0", b"/k/z", *(b"/k/m/%06d" % n for n in range(count))]
            )
            assert all(isinstance(each, WatchEvents) for each in later)
            assert [event.key for event in later[-1].events] == [b"/k/left/3"]  # type: ignore[union-attr]
            assert later[-1].revision == left_out.revision

    asyncio.run(scenario())
