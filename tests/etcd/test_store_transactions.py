"""Transactions against a real etcd: nesting, comparisons, limits, refusals."""

from __future__ import annotations

import asyncio

import pytest

from lab.etcd import Etcd
from statestore import (
    DEFAULT_MAX_OPERATIONS,
    BadRequest,
    Compare,
    Delete,
    Get,
    LeaseLost,
    Op,
    Put,
    Store,
    TooLarge,
    Txn,
    TxnResult,
    operations,
)


def claim(key: bytes, value: bytes) -> Txn:
    """Take a key that nobody has, else see who does."""
    return Txn((Compare.absent(key),), (Put(key, value),), (Get(key),))


def test_a_loser_falls_out_of_an_outer_transaction_alone(shared_etcd: Etcd, prefix: bytes) -> None:
    async def scenario() -> None:
        async with Store([shared_etcd.url]) as store:
            leader = await store.txn(Txn(then=(Put(prefix + b"leader", b"me"),)))
            taken = await store.txn(Txn(then=(Put(prefix + b"2", b"earlier"),)))
            fence = Compare.created_at(prefix + b"leader", leader.revision)
            claims = tuple(claim(prefix + b"%d" % number, b"mine") for number in range(4))
            result = await store.txn(Txn((fence,), claims))

            assert result.succeeded
            assert result.revision == taken.revision + 1
            outcomes = [each.succeeded for each in result.results if isinstance(each, TxnResult)]
            assert outcomes == [True, True, False, True]
            loser = result.results[2]
            assert isinstance(loser, TxnResult)
            (read,) = loser.results
            assert isinstance(read, tuple) and read[0].value == b"earlier"
            for number in (0, 1, 3):
                kv = await store.get(prefix + b"%d" % number)
                assert kv is not None and kv.create_revision == result.revision

    asyncio.run(scenario())


def test_nothing_is_carried_out_under_a_fence_that_fell(shared_etcd: Etcd, prefix: bytes) -> None:
    async def scenario() -> None:
        async with Store([shared_etcd.url]) as store:
            first = await store.txn(Txn(then=(Put(prefix + b"leader", b"a"),)))
            await store.txn(Txn(then=(Delete(prefix + b"leader"),)))
            await store.txn(Txn(then=(Put(prefix + b"leader", b"b"),)))
            fence = Compare.created_at(prefix + b"leader", first.revision)
            result = await store.txn(Txn((fence,), (claim(prefix + b"x", b"late"),)))
            assert not result.succeeded
            assert await store.get(prefix + b"x") is None

    asyncio.run(scenario())


def test_comparisons_see_creation_modification_and_lease(shared_etcd: Etcd, prefix: bytes) -> None:
    async def scenario() -> None:
        key = prefix + b"key"
        async with Store([shared_etcd.url]) as store, await store.lease(30) as lease:
            created = (await store.txn(Txn(then=(Put(key, b"1"),)))).revision
            modified = (await store.txn(Txn(then=(Put(key, b"2", lease.id),)))).revision
            holds = {
                Compare.absent(key): False,
                Compare.absent(prefix + b"other"): True,
                Compare.created_at(key, created): True,
                Compare.created_at(key, modified): False,
                Compare.modified_at(key, created): False,
                Compare.modified_at(key, modified): True,
                Compare.modified_at(prefix + b"other", 0): True,
                Compare.attached_to(key, lease.id): True,
                Compare.attached_to(key, lease.id + 1): False,
            }
            for compare, expected in holds.items():
                assert (await store.txn(Txn((compare,)))).succeeded is expected, compare

    asyncio.run(scenario())


def test_ranges_are_read_and_deleted_inside_a_transaction(shared_etcd: Etcd, prefix: bytes) -> None:
    async def scenario() -> None:
        async with Store([shared_etcd.url]) as store:
            keys = [prefix + name for name in (b"a", b"b", b"c", b"d")]
            await store.txn(Txn(then=tuple(Put(key, key) for key in reversed(keys))))
            result = await store.txn(
                Txn(then=(Get(keys[0], keys[2]), Delete(keys[1], keys[3]), Get(keys[0], keys[3])))
            )
            before, deleted, after = result.results
            assert isinstance(before, tuple) and [kv.key for kv in before] == keys[:2]
            assert deleted == 2
            assert isinstance(after, tuple) and [kv.key for kv in after] == keys[:1]

    asyncio.run(scenario())


def puts(prefix: bytes, count: int) -> tuple[Put, ...]:
    return tuple(Put(prefix + b"%d" % number, b"") for number in range(count))


LIMIT = DEFAULT_MAX_OPERATIONS


@pytest.mark.parametrize("over", [0, 1], ids=["at the limit", "one over"])
@pytest.mark.parametrize("shape", ["flat", "compares", "nested", "deep", "otherwise"])
def test_operations_are_counted_as_etcd_counts_them(
    shared_etcd: Etcd, prefix: bytes, shape: str, over: int
) -> None:
    def nested(outer: int, inner: int) -> tuple[Op | Txn, ...]:
        return tuple(Txn(then=puts(prefix + b"%d/" % number, inner)) for number in range(outer))

    match shape:
        case "flat":
            txn = Txn(then=puts(prefix, LIMIT + over))
        case "compares":
            txn = Txn((Compare.absent(prefix),) * (LIMIT + over))
        case "nested":
            txn = Txn(then=nested(125 + over, 3))
        case "deep":
            txn = Txn(then=(Txn(then=(Txn(then=puts(prefix, LIMIT - 2 + over)),)),))
        case _:
            txn = Txn(then=puts(prefix, 1), otherwise=nested(1, LIMIT - 1 + over))

    async def scenario() -> None:
        assert operations(txn) == LIMIT + over
        async with Store([shared_etcd.url]) as store:
            if over:
                with pytest.raises(TooLarge, match="--max-txn-ops"):
                    await store.txn(txn)
            else:
                await store.txn(txn)

    asyncio.run(scenario())


def test_what_etcd_refuses_names_the_fault(shared_etcd: Etcd, prefix: bytes) -> None:
    async def scenario() -> None:
        key = prefix + b"key"
        async with Store([shared_etcd.url]) as store:
            with pytest.raises(BadRequest, match="duplicate key"):
                await store.txn(Txn(then=(Put(key, b"1"), Txn(then=(Put(key, b"2"),)))))
            with pytest.raises(TooLarge, match="--max-request-bytes"):
                await store.txn(Txn(then=(Put(key, bytes(1_600_000)),)))
            with pytest.raises(TooLarge, match="--max-request-bytes"):
                await store.txn(Txn(then=(Put(key, bytes(5_000_000)),)))
            with pytest.raises(BadRequest, match="key is not provided"):
                await store.txn(Txn(then=(Put(b"", b"1"),)))
            async with await store.lease(30) as lease:
                pass
            with pytest.raises(LeaseLost, match="grant a new lease"):
                await store.txn(Txn(then=(Put(key, b"1", lease.id),)))
            assert await store.get(key) is None

    asyncio.run(scenario())
