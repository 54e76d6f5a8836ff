"""Pools over a real etcd: what is kept of past holders, and pools that grow and shrink."""

from __future__ import annotations

import asyncio

import pytest

from ipam_server.keys import Keys
from ipam_server.term import Limits
from lab.etcd import Etcd
from netspace.messages import ChangePool, Elastic, NewPool, Selection
from netspace.problems import Problem
from statestore import Delete, Store, Txn
from tests.etcd.service_world import ask, check, find, load, make, serving, until
from tests.etcd.test_service_allocating import release_of

KEYS = Keys("blue")


def test_an_address_tells_who_held_it_also_to_another_leader(etcd: Etcd) -> None:
    async def scenario() -> None:
        limits = Limits(timeout=5.0, history_entries=2)
        async with serving(etcd.url, limits=limits) as directory:
            service = await make(directory, size=1)
            for number in range(5):
                request = ask(f"c{number}", f"web-{number}", uid=f"u{number}")
                await service.allocate(request)
                if number < 4:
                    await service.release(release_of(request))
        async with serving(etcd.url, limits=limits) as directory, Store([etcd.url]) as store:
            service = await find(directory)
            told = await service.address_history("10.0.0.1", None)
            assert [item.pod for item in told.items] == ["web-4", "web-3", "web-2"]
            assert told.items[0].until is None
            assert all(item.since and item.until for item in told.items[1:])
            assert (told.items[1].uid, told.items[1].node) == ("u3", "node-1")
            # What is remembered weighs nothing at a server's start.
            state = await load(store, "blue")
            assert not state.strays

    asyncio.run(scenario())


def test_what_is_too_old_is_forgotten(etcd: Etcd) -> None:
    async def scenario() -> None:
        limits = Limits(timeout=5.0, history_age=0.2, history_interval=0.05)
        async with serving(etcd.url, limits=limits) as directory:
            service = await make(directory, size=1)
            for number in range(3):
                request = ask(f"c{number}", f"web-{number}")
                await service.allocate(request)
                await service.release(release_of(request))

            async def forgotten() -> bool:
                told = await service.address_history("10.0.0.1", None)
                return [item.pod for item in told.items] == ["web-2"]

            await until(forgotten)

    asyncio.run(scenario())


def test_64_pods_at_once_on_a_pool_that_grows_from_4_to_64_all_get_an_address(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            bounds = Elastic(minimum=4, maximum=64, step=4)
            await service.create_pool(
                NewPool(
                    name="team", kind="netspace", network="red", namespaces=["*"], elastic=bounds
                )
            )
            team = Selection(netspace="team")
            asked = [ask(f"c{n}", f"web-{n}", selection=team) for n in range(64)]
            answers = await asyncio.gather(*map(service.allocate, asked))
            assert len({answer.slot for answer in answers}) == 64
            pool = await service.pool("team")
            assert (pool.size, pool.used, len(pool.ranges)) == ("64", 64, 1)
            await check(store, service, *answers)
            with pytest.raises(Problem, match="its maximum is 64"):
                await service.allocate(ask("c64", "web-64", selection=team))

    asyncio.run(scenario())


def test_another_leader_goes_on_growing_where_the_last_one_ended(etcd: Etcd) -> None:
    async def scenario() -> None:
        limits = Limits(timeout=5.0, pool_interval=0.05)
        team = Selection(netspace="team")
        async with serving(etcd.url, limits=limits) as directory:
            service = await make(directory)
            bounds = Elastic(minimum=2, maximum=8, step=2, low=1, quiet=0.2)
            await service.create_pool(
                NewPool(
                    name="team", kind="netspace", network="red", namespaces=["*"], cooldown=0,
                    elastic=bounds,
                )
            )  # fmt: skip
            asked = [ask(f"c{n}", f"web-{n}", selection=team) for n in range(8)]
            answers = [await service.allocate(request) for request in asked[:5]]
        async with serving(etcd.url, limits=limits) as directory, Store([etcd.url]) as store:
            service = await find(directory)
            answers += await asyncio.gather(*map(service.allocate, asked[5:]))
            await check(store, service, *answers)
            assert (await service.pool("team")).size == "8"
            for request in asked[1:]:
                await service.release(release_of(request))

            async def small() -> bool:
                return (await service.pool("team")).size == "2"

            await until(small)
            await check(store, service, answers[0])

    asyncio.run(scenario())


def test_an_applications_pool_follows_its_replicas_and_keeps_what_is_retained(etcd: Etcd) -> None:
    async def scenario() -> None:
        limits = Limits(timeout=5.0, pool_interval=0.05)
        async with serving(etcd.url, limits=limits) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            await service.create_pool(
                NewPool(
                    name="db", kind="application", network="red", size="1", namespaces=["*"],
                    retention=3600,
                )
            )  # fmt: skip
            db = Selection(application="db")
            pool = await service.change_pool("db", ChangePool(replicas=6, surplus=1))
            assert (pool.size, pool.replicas, pool.surplus) == ("7", 6, 1)
            asked = [ask(f"c{n}", f"db-{n}", selection=db) for n in range(4)]
            answers = [await service.allocate(request) for request in asked]
            for request in asked[2:]:
                await service.release(release_of(request))
            await service.change_pool("db", ChangePool(replicas=2, surplus=0))

            async def settled() -> bool:
                return (await service.pool("db")).size == "4"

            await until(settled)
            pool = await service.pool("db")
            assert (pool.used, pool.retained, pool.free) == (2, 2, "0")
            await service.change_pool("db", ChangePool(replicas=4))
            again = [await service.allocate(ask(f"d{n}", f"db-{n}", selection=db)) for n in (3, 2)]
            assert [each.slot for each in again] == [answers[3].slot, answers[2].slot]
            await check(store, service, *answers[:2], *again)

    asyncio.run(scenario())


def test_nested_pools_grow_together_under_load_and_give_back_level_by_level(etcd: Etcd) -> None:
    async def scenario() -> None:
        limits = Limits(timeout=5.0, pool_interval=0.05)
        async with serving(etcd.url, limits=limits) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            bounds = Elastic(minimum=2, maximum=40, step=4, quiet=0.2)
            await service.create_pool(
                NewPool(
                    name="team", kind="netspace", network="red", namespaces=["*"], cooldown=0,
                    elastic=bounds,
                )
            )  # fmt: skip
            await service.create_pool(
                NewPool(
                    name="db", kind="application", network="red", parent="team", cooldown=0,
                    elastic=Elastic(minimum=2, maximum=30, step=3, quiet=0.2),
                )
            )  # fmt: skip
            db, team = Selection(application="db"), Selection(netspace="team")
            asked = [ask(f"d{n}", f"db-{n}", selection=db) for n in range(30)]
            asked += [ask(f"t{n}", f"web-{n}", selection=team) for n in range(10)]
            answers = await asyncio.gather(*map(service.allocate, asked))
            assert len({answer.slot for answer in answers}) == 40
            assert [answer.pool for answer in answers] == ["db"] * 30 + ["team"] * 10
            await check(store, service, *answers)
            with pytest.raises(Problem, match=r"pool db has 30 addresses, 30 used.*maximum is 30"):
                await service.allocate(ask("d30", "db-30", selection=db))
            assert (await service.inspect()).findings == []
            for request in asked:
                await service.release(release_of(request))

            async def small() -> bool:
                sizes = [(await service.pool(name)).size for name in ("db", "team")]
                return sizes == ["2", "0"]

            await until(small)

    asyncio.run(scenario())


def test_what_the_leader_does_by_itself_stands_in_the_log_of_changes(etcd: Etcd) -> None:
    async def scenario() -> None:
        limits = Limits(timeout=5.0, pool_interval=0.05)
        async with serving(etcd.url, limits=limits) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            await service.create_pool(
                NewPool(
                    name="team", kind="netspace", network="red", namespaces=["*"], cooldown=0,
                    elastic=Elastic(minimum=2, maximum=8, step=2, quiet=0.1),
                )
            )  # fmt: skip
            team = Selection(netspace="team")
            asked = [ask(f"c{n}", f"web-{n}", selection=team) for n in range(3)]
            answers = [await service.allocate(request) for request in asked]
            page = await service.audit(100, None)
            grown = page.items[-1]
            assert (grown.who, grown.kind, grown.name) == ("server s1 (elastic growth)", "pool",
                                                           "team")  # fmt: skip
            assert grown.before is not None and grown.after is not None
            assert grown.before["ranges"] != grown.after["ranges"]
            # In the transaction of the allocation that needed it.
            assert grown.revision == answers[2].generation
            for request in asked[1:]:
                await service.release(release_of(request))

            async def shrunk() -> bool:
                page = await service.audit(100, None)
                return page.items[-1].who == "server s1 (elastic shrinking)"

            await until(shrunk)
            await store.txn(Txn(then=(Delete(KEYS.attachment(("c0", "eth0"))),)))
            assert [mended.done for mended in (await service.repair()).mended] == [True]
            mend = (await service.audit(100, None)).items[-1]
            assert mend.who.startswith("server s1 (repair by ")
            assert (mend.kind, mend.name, mend.action) == ("key", "attachments/c0/eth0", "repair")
            key = KEYS.attachment(("c0", "eth0")).decode()
            assert (mend.before, mend.after) == (
                {key: None}, {key: f"red/{int(answers[0].slot):x}"}
            )  # fmt: skip

    asyncio.run(scenario())
