"""Pools over a real etcd: what is kept of past holders, and pools that grow and shrink."""

from __future__ import annotations

import asyncio

from ipam_server.term import Limits
from lab.etcd import Etcd
from statestore import Store
from tests.etcd.service_world import ask, find, load, make, serving, until
from tests.etcd.test_service_allocating import release_of


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
