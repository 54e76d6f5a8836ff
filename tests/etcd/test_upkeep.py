"""The audit over a real etcd: what a server finds, mends, and leaves to a person."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from ipam_server.keys import Keys
from lab.etcd import Etcd
from netspace.problems import Problem
from statestore import Delete, Put, Store, Txn
from tests.etcd.service_world import ask, check, make, serving

KEYS = Keys("blue")


async def write(store: Store, *operations: Put | Delete) -> None:
    """Past every server, as a person with etcdctl does."""
    await store.txn(Txn(then=operations))


def test_a_state_in_use_is_clean_and_its_audit_reads_every_key(etcd: Etcd) -> None:
    async def run() -> None:
        async with serving(etcd.url) as directory:
            service = await make(directory)
            for number in range(30):
                await service.allocate(ask(f"c{number}", f"p{number}"))
            found = await service.inspect()
            assert found.findings == [] and found.more == 0
            # Leader, clock, network and pool, entries of the making, two keys for each pod.
            assert found.keys >= 64
            assert (await service.repair()).mended == []

    asyncio.run(run())


def test_repair_mends_what_is_safe_and_says_what_is_left(etcd: Etcd) -> None:
    async def run() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            answer = await service.allocate(ask("c1", "p1"))
            slot = ("red", int(answer.slot))
            await write(
                store,
                Delete(KEYS.attachment(("c1", "eth0"))),
                Put(KEYS.attachment(("c9", "eth0")), b"red/9"),
                Put(KEYS.released(slot), b'{"a":0,"q":1}'),
                Put(KEYS.slot(("red", 60_000)), b'{"t":"printer"}'),
                Put(KEYS.prefix + b"wishes/1", b""),
                Delete(b"/netspace/v1/fabrics/default"),
            )
            found = await service.inspect()
            assert sorted(finding.code for finding in found.findings) == [
                "attachment-dangling",
                "attachment-missing",
                "fabric-member-missing",
                "held-and-released",
                "unknown-key",
            ]
            repair = await service.repair()
            assert all(mended.done for mended in repair.mended)
            assert len(repair.mended) == 4
            assert [finding.code for finding in repair.left.findings] == ["unknown-key"]
            assert not repair.left.findings[0].safe
            await write(store, Delete(KEYS.prefix + b"wishes/1"))
            assert (await service.inspect()).findings == []
            # The address is still its pod's, and nobody else's.
            again = await service.allocate(ask("c1", "p1"))
            assert (again.slot, again.generation) == (answer.slot, answer.generation)

    asyncio.run(run())


def test_a_mend_goes_on_beside_allocations(etcd: Etcd) -> None:
    async def run() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            answers = [await service.allocate(ask(f"c{n}", f"p{n}")) for n in range(40)]
            await write(store, *(Delete(KEYS.attachment((f"c{n}", "eth0"))) for n in range(40)))
            asked = asyncio.gather(*(service.allocate(ask(f"d{n}", f"q{n}")) for n in range(40)))
            repair = await service.repair()
            more = await asked
            assert len(repair.mended) == 40
            assert repair.left.findings == []
            await check(store, service, *answers, *more)

    asyncio.run(run())


def test_a_state_that_no_server_can_read_is_audited_all_the_same(etcd: Etcd) -> None:
    async def run() -> None:
        async with Store([etcd.url]) as store:
            async with serving(etcd.url) as directory:
                service = await make(directory)
                await service.allocate(ask("c1", "p1"))
            await write(store, Put(KEYS.pool("main"), b"{"))
            async with serving(etcd.url, server="s2") as directory:
                async with asyncio.timeout(10):
                    while True:
                        with contextlib.suppress(Problem):
                            found = await directory.cluster("blue").inspect()
                            break
                        await asyncio.sleep(0.05)
                assert [finding.code for finding in found.findings] == ["unreadable", "slot-pool"]
                with pytest.raises(Problem) as caught:
                    await directory.cluster("blue").repair()
                assert caught.value.code == "not-leader"

    asyncio.run(run())
