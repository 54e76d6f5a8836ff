"""Leases and leaders: kept through restarts, lost in time, fenced when deposed."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest
from pyetcd.etcdrpc import rpc_pb2 as pb

from lab.etcd import Etcd
from lab.proxy import Proxy
from statestore import (
    Delete,
    Leader,
    Leadership,
    OutcomeUnknown,
    Put,
    Store,
    Txn,
    TxnResult,
    leases,
)
from statestore.connections import Endpoint, Unary
from tests.etcd.service_world import renewed


def test_a_lease_lives_longer_than_its_time_and_ends_when_it_is_left(
    shared_etcd: Etcd, prefix: bytes
) -> None:
    async def scenario() -> None:
        async with Store([shared_etcd.url]) as store:
            async with await store.lease(4) as lease:
                await store.txn(Txn(then=(Put(prefix, b"1", lease.id),)))
                await asyncio.sleep(lease.ttl * 1.25)
                assert not lease.lost.is_set()
                assert await store.get(prefix) is not None
            assert lease.lost.is_set()
            assert await store.get(prefix) is None

    asyncio.run(scenario())


def test_a_lease_is_renewed_each_third_of_its_time(
    shared_etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed: list[float] = []
    keep_alive = leases._keep_alive

    def noted(endpoint: Endpoint) -> Unary[pb.LeaseKeepAliveResponse]:
        renewed.append(time.monotonic())
        return keep_alive(endpoint)

    monkeypatch.setattr(leases, "_keep_alive", noted)

    async def scenario() -> None:
        async with Store([shared_etcd.url]) as store, await store.lease(2) as lease:
            assert lease.ttl == 2
            async with asyncio.timeout(10):
                while len(renewed) < 5:
                    await asyncio.sleep(0.05)

    asyncio.run(scenario())
    # Two may fail before the lease is over.
    gaps = sorted(later - sooner for sooner, later in pairwise(renewed))
    assert 0.6 < gaps[len(gaps) // 2] < 1.0


def test_a_revoked_lease_is_known_to_be_lost(shared_etcd: Etcd) -> None:
    async def scenario() -> None:
        async with Store([shared_etcd.url]) as store:
            lease = await store.lease(2)
            await asyncio.to_thread(shared_etcd.request, "lease/revoke", {"ID": str(lease.id)})
            async with asyncio.timeout(lease.ttl):
                await lease.lost.wait()
            await lease.revoke()

    asyncio.run(scenario())


def test_a_lease_that_cannot_be_renewed_is_lost_here_before_it_is_in_etcd(
    shared_etcd: Etcd, prefix: bytes
) -> None:
    async def scenario() -> None:
        async with (
            Proxy(shared_etcd.host, shared_etcd.client_port) as proxy,
            Store([proxy.url]) as cut_off,
            Store([shared_etcd.url]) as store,
        ):
            # Counted from when it was asked for, not from the answer, it ends here before it does
            # there, however soon etcd looks.
            await cut_off.revision()
            proxy.delay = 0.3
            lease = await cut_off.lease(2)
            proxy.delay, proxy.losing_requests = 0.0, True
            await store.txn(Txn(then=(Put(prefix, b"1", lease.id),)))
            async with asyncio.timeout(lease.ttl + 0.5):
                await lease.lost.wait()
            assert await store.get(prefix) is not None
            proxy.losing_requests = False
            proxy.cut()
            await lease.revoke()
            assert await store.get(prefix) is None

    asyncio.run(scenario())


def test_one_candidate_leads_and_the_other_follows_when_it_resigns(
    shared_etcd: Etcd, prefix: bytes
) -> None:
    async def scenario() -> None:
        async with Store([shared_etcd.url]) as store:
            one = Leadership(store, prefix, b"one", ttl=10)
            two = Leadership(store, prefix, b"two", ttl=10)
            assert await one.current() is None
            first = await one.campaign()
            assert await two.current() == (b"one", first.create_revision)
            waiting = asyncio.create_task(two.campaign())
            await asyncio.sleep(0.3)
            assert not waiting.done()
            assert first.leads
            await first.resign()
            assert await one.current() != (b"one", first.create_revision)
            async with asyncio.timeout(8):
                second = await waiting
            assert await one.current() == (b"two", second.create_revision)
            assert second.create_revision > first.create_revision
            await second.resign()
            assert await one.current() is None

    asyncio.run(scenario())


def test_a_key_that_only_begins_like_the_leaders_says_nothing(
    shared_etcd: Etcd, prefix: bytes
) -> None:
    async def scenario() -> None:
        async with (
            Store([shared_etcd.url]) as store,
            await Leadership(store, prefix + b"leader", b"one").campaign() as leader,
        ):
            await store.txn(Txn(then=(Put(prefix + b"leader2", b""),)))
            await store.txn(Txn(then=(Delete(prefix + b"leader2"),)))
            await asyncio.sleep(0.3)
            assert leader.leads

    asyncio.run(scenario())


def test_the_next_leads_when_a_leader_falls_silent_and_the_deposed_one_is_fenced_off(
    shared_etcd: Etcd, prefix: bytes
) -> None:
    async def scenario() -> None:
        async with (
            Proxy(shared_etcd.host, shared_etcd.client_port) as proxy,
            Store([proxy.url]) as cut_off,
            Store([shared_etcd.url]) as store,
        ):
            deposed = await Leadership(cut_off, prefix + b"leader", b"one", ttl=2).campaign()
            waiting = asyncio.create_task(
                Leadership(store, prefix + b"leader", b"two", ttl=2).campaign()
            )
            write = Txn((deposed.fence,), (Put(prefix + b"x", b"1"),))
            assert (await store.txn(write)).succeeded
            proxy.losing_requests = True
            async with asyncio.timeout(20):
                await deposed.lost()
                assert not waiting.done(), "lost is known before another may lead"
                leader = await waiting
            proxy.losing_requests = False
            # A write of the deposed leader's that was long on its way.
            late = Txn((deposed.fence,), (Put(prefix + b"x", b"late"),))
            assert not (await store.txn(late)).succeeded
            kv = await store.get(prefix + b"x")
            assert kv is not None and kv.value == b"1"
            await deposed.resign()
            assert leader.leads
            await leader.resign()

    asyncio.run(scenario())


def test_a_leader_whose_key_is_taken_away_knows_at_once(shared_etcd: Etcd, prefix: bytes) -> None:
    async def scenario() -> None:
        async with (
            Store([shared_etcd.url]) as store,
            await Leadership(store, prefix, b"one", ttl=30).campaign() as leader,
        ):
            await store.txn(Txn(then=(Delete(prefix),)))
            async with asyncio.timeout(15):
                await leader.lost()

    asyncio.run(scenario())


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_a_leader_learns_what_happened_to_its_key_in_history_it_missed(
    etcd: Etcd, change: str
) -> None:
    async def scenario() -> None:
        async with (
            Proxy(etcd.host, etcd.client_port) as proxy,
            Store([proxy.url], timeout=1.0) as cut,
            Store([etcd.url]) as store,
            await Leadership(cut, b"leader", b"one", ttl=30).campaign() as leader,
        ):
            await asyncio.sleep(0.2)
            proxy.losing_answers = True
            last = await store.txn(Txn(then=(Delete(b"leader"),)))
            if change == "replaced":
                last = await store.txn(Txn(then=(Put(b"leader", b"usurper"),)))
            await asyncio.to_thread(etcd.compact, last.revision)
            assert leader.leads
            proxy.losing_answers = False
            proxy.cut()
            async with asyncio.timeout(15):
                await leader.lost()

    asyncio.run(scenario())


def test_leadership_and_candidacy_outlive_a_restart_shorter_than_the_lease(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with Store([etcd.url]) as store, Store([etcd.url]) as other:
            leader = await Leadership(store, b"leader", b"one", ttl=10).campaign()
            waiting = asyncio.create_task(Leadership(other, b"leader", b"two", ttl=10).campaign())
            await asyncio.sleep(0.2)
            await asyncio.to_thread(etcd.kill)
            await asyncio.sleep(0.5)
            await asyncio.to_thread(etcd.start)
            await renewed(leader.lease)
            assert leader.leads and not waiting.done()
            assert (await store.txn(Txn((leader.fence,), (Put(b"x", b"1"),)))).succeeded
            await leader.resign()
            async with asyncio.timeout(8):
                await (await waiting).resign()

    asyncio.run(scenario())


def test_a_campaign_begun_without_etcd_leads_once_it_is_there(etcd: Etcd) -> None:
    etcd.kill()

    async def scenario() -> None:
        async with Store([etcd.url], timeout=0.3) as store:
            waiting = asyncio.create_task(Leadership(store, b"leader", b"one").campaign())
            await asyncio.sleep(0.8)
            await asyncio.to_thread(etcd.start)
            async with asyncio.timeout(15), await waiting as leader:
                assert isinstance(leader, Leader) and leader.leads

    asyncio.run(scenario())


def test_a_campaign_whose_answer_was_lost_finds_that_it_leads(
    shared_etcd: Etcd, prefix: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out = Store.txn
    lost: list[TxnResult] = []

    async def lose_the_first_answer(
        store: Store, txn: Txn, timeout: float | None = None
    ) -> TxnResult:
        result = await carry_out(store, txn, timeout)
        if not lost:
            lost.append(result)
            raise OutcomeUnknown("a transaction", store_url, "cut off")
        return result

    store_url = shared_etcd.url
    monkeypatch.setattr(Store, "txn", lose_the_first_answer)

    async def scenario() -> None:
        async with (
            Store([shared_etcd.url]) as store,
            await Leadership(store, prefix, b"one").campaign() as leader,
        ):
            assert leader.create_revision == lost[0].revision
            assert (await store.txn(Txn((leader.fence,)))).succeeded

    asyncio.run(scenario())


def test_a_leader_that_is_cancelled_while_it_resigns_has_resigned_and_ends(
    shared_etcd: Etcd, prefix: bytes
) -> None:
    async def scenario() -> None:
        async with Store([shared_etcd.url]) as store:
            leader = await Leadership(store, prefix, b"a", 10).campaign()
            resigning = asyncio.create_task(leader.resign())
            await asyncio.sleep(0)
            resigning.cancel()
            with pytest.raises(asyncio.CancelledError):
                await resigning
            assert await store.get(prefix) is None

    asyncio.run(scenario())
