"""Terms of leading over a real etcd: fenced, ended from outside, read anew, one clock for all."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from ipam_server.allocator import Choice, choose
from ipam_server.changes import Change, allocation
from ipam_server.committer import Committer
from ipam_server.keys import Keys
from ipam_server.records import Holder, Release, stored_slot
from ipam_server.state import ClusterState
from ipam_server.term import Limits
from lab.etcd import Etcd
from lab.proxy import Proxy
from netspace.messages import Allocation, LinkReport, NodeReport, ResizePool
from netspace.problems import Problem
from statestore import Compare, Delete, Event, Put, Store, Txn, WatchEvents
from tests.etcd.service_world import (
    ask,
    check,
    find,
    holders,
    lease_of,
    load,
    make,
    put_all,
    serving,
    term_of,
    until,
)
from tests.etcd.test_service_allocating import release_of
from tests.unit.cluster_world import summary

LEADER = Keys("blue").leader


async def commit_once(store: Store, fence: Compare, *changes: Change) -> list[object]:
    """What a committer under this fence makes of the changes."""
    seen: list[Event] = []
    committer = Committer(
        store,
        fence,
        lambda revision, events: seen.extend(events),
        lambda change: None,
        lambda: Put(Keys("blue").clock, b"1"),
    )
    pending = [committer.put(change) for change in changes]
    running = asyncio.create_task(committer.run())
    try:
        return await asyncio.gather(*(p.decided for p in pending), return_exceptions=True)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_a_deposed_leaders_writes_are_refused_by_etcd_itself(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with Store([etcd.url]) as store:
            async with serving(etcd.url) as directory:
                service = await make(directory)
                state = term_of(service).state
                choice = choose(state, ask("late"), 0)
                assert isinstance(choice, Choice)
                late = allocation(state.keys, choice, 0)
                kv = await store.get(LEADER)
                assert kv is not None
            async with serving(etcd.url, server="s2") as directory:
                service = await find(directory)
                before = await store.revision()
                fence = Compare.created_at(LEADER, kv.create_revision)
                (answer,) = await commit_once(store, fence, late)
                assert isinstance(answer, Problem) and answer.code == "not-leader"
                assert await store.revision() == before
                got = await service.allocate(ask("c1"))
                assert got.slot == "1"
                await check(store, service, got)

    asyncio.run(scenario())


def test_leadership_taken_away_ends_the_term_and_the_state_is_read_anew(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            one = await service.allocate(ask("c1"))
            term = term_of(service)
            await asyncio.to_thread(etcd.request, "kv/lease/revoke", {"ID": lease_of(etcd, LEADER)})
            two = await until(lambda: service.allocate(ask("c2")))
            assert term_of(service) is not term and term.over
            with pytest.raises(Problem) as caught:
                await term.submit(Change((), (Delete(b"x"),), b"x", None))
            assert caught.value.code == "not-leader"
            await check(store, service, one, two)

    asyncio.run(scenario())


def test_a_leader_that_was_cut_off_changes_nothing_after_another_leads(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with (
            Proxy(etcd.host, etcd.client_port) as proxy,
            Store([etcd.url]) as store,
            serving(proxy.url, server="old") as old_directory,
        ):
            old = await make(old_directory)
            proxy.losing_requests = True
            asks = [ask(f"old-{number}") for number in range(30)]
            stuck = [asyncio.create_task(old.allocate(each)) for each in asks]
            lease = await asyncio.to_thread(lease_of, etcd, LEADER)
            await asyncio.to_thread(etcd.request, "kv/lease/revoke", {"ID": lease})
            async with serving(etcd.url, server="new") as new_directory:
                new = await find(new_directory)
                answers = [await new.allocate(ask(f"new-{number}")) for number in range(3)]
                proxy.losing_requests = False
                proxy.cut()
                # Everybody is answered, and nobody with an address.
                refused = await asyncio.gather(*stuck, return_exceptions=True)
                assert {each.code for each in refused if isinstance(each, Problem)} <= {
                    "outcome-unknown",
                    "not-leader",
                    "state-unavailable",
                }
                assert not any(isinstance(each, Allocation) for each in refused)
                await check(store, new, *answers)

    asyncio.run(scenario())


def test_a_cooldown_is_only_lengthened_by_a_restart(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory:
            service = await make(directory, size=1, cooldown=5)
            await service.allocate(ask("c1", "web-0"))
            asked = term_of(service).clock.now()
            await service.release(release_of(ask("c1")))
            released = time.monotonic()
        await asyncio.sleep(0.5)
        async with serving(etcd.url) as directory:
            before = time.monotonic()
            service = await find(directory)
            # It stood still while nobody led, and nothing that was written is forgotten.
            clock = term_of(service).clock.now()
            assert asked <= clock <= asked + 400 + 1000 * (time.monotonic() - before)
            with pytest.raises(Problem) as caught:
                await service.allocate(ask("c2", "web-1"))
            assert caught.value.code == "pool-cooling"
            got = await until(lambda: service.allocate(ask("c2", "web-1")), 20)
            assert got.how == "longest-released"
            assert time.monotonic() - released >= 5.3

    asyncio.run(scenario())


def test_released_addresses_are_given_in_the_order_of_release_after_a_restart(
    etcd: Etcd,
) -> None:
    order = [5, 2, 6, 1, 3, 4]

    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory, size=6)
            for index in range(1, 7):
                assert (await service.allocate(ask(f"c{index}"))).slot == str(index)
            before = await store.revision()
            await asyncio.gather(
                *(service.release(release_of(ask(f"c{index}"))) for index in order)
            )
            # Some of them in one revision: the number inside of it orders them.
            assert await store.revision() - before < 6
        async with serving(etcd.url) as directory:
            service = await find(directory)
            given = [await service.allocate(ask(f"d{number}")) for number in range(6)]
            assert [int(each.slot) for each in given] == order

    asyncio.run(scenario())


def test_twenty_thousand_addresses_are_read_over_pages_into_the_same_state(etcd: Etcd) -> None:
    async def scenario() -> None:
        keys = Keys("blue")
        async with serving(etcd.url) as directory:
            await make(directory, size=30_000, cooldown=60)
        async with Store([etcd.url]) as store:
            items: list[tuple[bytes, bytes]] = []
            for index in range(1, 20_001):
                slot = ("red", index)
                holder = Holder(
                    container=f"c{index}", ifname="eth0", node=f"n{index % 50}", claim="0" * 32,
                    namespace="a", pod=f"web-{index % 9000}", pool="main",
                    before=("a", f"db-{index % 700}", "eth0") if index % 3 else None,
                )  # fmt: skip
                if index % 4:
                    items.append((keys.slot(slot), msgspec.json.encode(holder)))
                    items.append((keys.attachment(holder.attachment), stored_slot(slot)))
                else:
                    release = Release(at=index % 90, sequence=index, identity=holder.identity)
                    items.append((keys.released(slot), msgspec.json.encode(release)))
            after = await store.revision()
            live = await load(store, "blue")
            await put_all(store, items)
            anew = await load(store, "blue")
            async with asyncio.timeout(20):
                async for change in store.watch(keys.prefix, after):
                    assert isinstance(change, WatchEvents)
                    live.apply(change.revision, change.events)
                    if change.revision == anew.revision:
                        break
            assert anew.pools["main"].used == 15_000
            assert (len(anew.pools["main"].cooling), anew.pools["main"].never.count) == (
                5000,
                10_000,
            )
            assert summary(live) == summary(anew)
        async with serving(etcd.url) as directory:
            service = await find(directory)
            state: ClusterState = term_of(service).state
            assert len(state.attachments) == 15_000
            assert (await service.allocate(ask("new"))).slot == "20001"
            # Its own address, still cooling for everybody else.
            own = await service.allocate(ask("own", "web-4", namespace="a"))
            assert own.how == "returned"

    asyncio.run(scenario())


def test_every_request_under_way_is_answered_when_the_term_ends(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with (
            Proxy(etcd.host, etcd.client_port) as proxy,
            Store([etcd.url]) as store,
            serving(proxy.url, ttl=3, timeout=2) as directory,
        ):
            service = await make(directory)
            got = await service.allocate(ask("c0", "web-0"))
            proxy.losing_answers = True
            work = [
                *(service.allocate(ask(f"c{number}", "web-1")) for number in range(1, 40)),
                # These two wait for what is under way; this one keeps others out.
                service.allocate(ask("c1", "web-1", claim="d" * 32)),
                service.release(release_of(ask("c1"))),
                service.release(release_of(ask("c0"), got.generation)),
                service.shrink_pool("main", ResizePool(size="10")),
                service.report_node("node-1", NodeReport(version="1")),
            ]
            async with asyncio.timeout(30):
                answers = await asyncio.gather(*work, return_exceptions=True)
            assert all(isinstance(each, Problem) and each.again for each in answers), answers
            proxy.losing_answers = False
            proxy.cut()
            repeated = await until(lambda: service.allocate(ask("c0", "web-0", claim="c" * 32)))
            assert repeated.generation
            held = await holders(store)
            assert len({holder.container for holder, _ in held.values()}) == len(held)
            memory = term_of(service).state.networks["red"].held
            assert {("red", index) for index in memory} == held.keys()

    asyncio.run(scenario())


def test_a_value_that_cannot_be_read_is_reported_and_leading_goes_on_without_it(
    etcd: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with Store([etcd.url]) as store:
            async with serving(etcd.url) as directory:
                await make(directory)
            broken = Keys("blue").slot(("red", 7))
            await store.txn(Txn(then=(Put(broken, b"{"),)))
            async with serving(etcd.url) as directory:
                async with asyncio.timeout(20):
                    while "cannot be understood" not in caplog.text:
                        await asyncio.sleep(0.05)
                assert not directory.cluster("blue").leading
                await store.txn(Txn(then=(Delete(broken),)))
                service = await find(directory)
                assert (await service.allocate(ask("c1"))).slot == "1"

    asyncio.run(scenario())


def test_many_large_reports_do_not_make_a_transaction_too_large(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url, limits=Limits(timeout=5)) as directory:
            service = await make(directory)
            big = NodeReport(version="1", links=[_link(number) for number in range(4000)])
            assert len(msgspec.json.encode(big)) > 500_000
            await asyncio.gather(
                *(service.report_node(f"node-{number}", big) for number in range(5)),
                *(service.allocate(ask(f"c{number}")) for number in range(20)),
            )
            assert len(await service.nodes()) == 5

    asyncio.run(scenario())


def _link(number: int) -> LinkReport:
    return LinkReport(
        name=f"bond0.{number}", kind="vlan", mac="02:00:00:00:00:01", mtu=1500, up=True,
        addresses=[f"10.0.{number % 250}.1/24", f"fd00:{number:x}::1/64"],
    )  # fmt: skip
