"""Reads: paged at one revision while writes go on; deletes in chunks."""

from __future__ import annotations

import asyncio

import pytest

from lab.etcd import Etcd
from statestore import Compacted, Delete, Put, Store, Txn, Unavailable, WatchEvents


async def fill(store: Store, prefix: bytes, count: int) -> int:
    """Write keys 0…count-1; the revision after."""
    revision = 0
    for start in range(0, count, 100):
        numbers = range(start, min(start + 100, count))
        puts = tuple(Put(prefix + b"%06d" % number, b"%d" % number) for number in numbers)
        revision = (await store.txn(Txn(then=puts))).revision
    return revision


def test_all_pages_show_one_revision_while_writes_go_on(shared_etcd: Etcd, prefix: bytes) -> None:
    async def scenario() -> None:
        async with Store([shared_etcd.url]) as store:
            revision = await fill(store, prefix, 250)
            seen = []
            async for page in store.pages(prefix, size=100):
                assert page.revision == revision
                seen += [(kv.key, kv.value) for kv in page.items]
                # What is changed behind the page just read must not be seen.
                await store.txn(
                    Txn(
                        then=(
                            Delete(prefix + b"000240"),
                            Put(prefix + b"000100", b"changed"),
                            Put(prefix + b"000249x", b"new"),
                        )
                    )
                )
            assert seen == [(prefix + b"%06d" % n, b"%d" % n) for n in range(250)]
            again = [kv async for page in store.pages(prefix, revision, 50) for kv in page.items]
            assert [(kv.key, kv.value) for kv in again] == seen
            now = [kv.key async for page in store.pages(prefix) for kv in page.items]
            assert len(now) == 250 and prefix + b"000240" not in now

    asyncio.run(scenario())


def test_an_empty_prefix_is_one_empty_page(shared_etcd: Etcd, prefix: bytes) -> None:
    async def scenario() -> None:
        async with Store([shared_etcd.url]) as store:
            pages = [page async for page in store.pages(prefix)]
            assert [page.items for page in pages] == [()]
            assert pages[0].revision == await store.revision()

    asyncio.run(scenario())


def test_a_key_is_read_as_it_stood(shared_etcd: Etcd, prefix: bytes) -> None:
    async def scenario() -> None:
        async with Store([shared_etcd.url]) as store:
            first = await store.txn(Txn(then=(Put(prefix, b"1"),)))
            second = await store.txn(Txn(then=(Put(prefix, b"2"),)))
            old, new = await store.get(prefix, first.revision), await store.get(prefix)
            assert old is not None and old.value == b"1"
            assert new is not None and new.value == b"2"
            assert (new.create_revision, new.mod_revision) == (first.revision, second.revision)
            assert await store.get(prefix + b"none") is None

    asyncio.run(scenario())


def test_reading_a_compacted_revision_says_so(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with Store([etcd.url]) as store:
            revision = await fill(store, b"/k/", 300)
            pages = store.pages(b"/k/", size=100)
            await anext(pages)
            compacted = (await store.txn(Txn(then=(Put(b"/k/x", b""),)))).revision
            await asyncio.to_thread(etcd.compact, compacted)
            with pytest.raises(Compacted, match="read anew"):
                await anext(pages)
            with pytest.raises(Compacted):
                await store.get(b"/k/000000", revision)

    asyncio.run(scenario())


def test_a_prefix_is_deleted_in_chunks_and_nothing_beside_it(
    shared_etcd: Etcd, prefix: bytes
) -> None:
    async def scenario() -> None:
        async with Store([shared_etcd.url]) as store:
            await fill(store, prefix + b"a/", 120)
            await store.txn(Txn(then=(Put(prefix + b"a", b""), Put(prefix + b"a0", b""))))
            before = await store.revision()
            assert await store.delete_prefix(prefix + b"a/", chunk=50) == 120
            chunks: list[int] = []
            changes = store.watch(prefix + b"a/", before)
            while sum(chunks) < 120:
                batch = await anext(changes)
                assert isinstance(batch, WatchEvents)
                chunks.append(len(batch.events))
            await changes.aclose()
            assert chunks == [50, 50, 20]
            left = [kv.key async for page in store.pages(prefix) for kv in page.items]
            assert left == [prefix + b"a", prefix + b"a0"]
            assert await store.delete_prefix(prefix + b"a/") == 0

    asyncio.run(scenario())


def test_reading_from_nowhere_is_unavailable_in_time() -> None:
    async def scenario() -> None:
        async with Store(["http://127.0.0.1:1"], timeout=0.5) as store:
            began = asyncio.get_running_loop().time()
            with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1.*refused"):
                await store.get(b"key")
            assert asyncio.get_running_loop().time() - began < 5
            (status,) = await store.status()
            assert "refused" in status.error

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [1, 3, 10, 64])
def test_pages_leave_nothing_out_where_keys_are_numbers_with_gaps(
    shared_etcd: Etcd, prefix: bytes, size: int
) -> None:
    # Close together, far apart, in two groups, and up to the last number there is.
    numbers = [*range(120), *range(500, 5000, 300), 0xF000, 0xFFFE, 0xFFFF]
    keys = [prefix + group + b"%04x" % number for group in (b"a/", b"b/") for number in numbers]
    keys += [prefix + b"b/0000x", prefix + b"c"]

    async def scenario() -> None:
        async with Store([shared_etcd.url]) as store:
            for at in range(0, len(keys), 100):
                await store.txn(Txn(then=tuple(Put(key, b"") for key in keys[at : at + 100])))
            pages = [page async for page in store.pages(prefix, size=size)]
            assert [kv.key for page in pages for kv in page.items] == sorted(keys)
            assert all(0 < len(page.items) <= size for page in pages)
            assert len({page.revision for page in pages}) == 1

    asyncio.run(scenario())
