"""Requests that come once more, late: what was asked before never undoes what was asked since."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from ipam_server import term
from ipam_server.keys import Keys
from ipam_server.term import Limits
from lab.etcd import Etcd
from netspace.messages import AllocateRequest, OperatorRelease, ReleaseRequest
from netspace.problems import Problem
from statestore import Store
from tests.etcd.service_world import ask, check, find, make, serving, until


def release_of(request: AllocateRequest) -> ReleaseRequest:
    return ReleaseRequest(attachment=request.attachment, node=request.node, claim=request.claim)


def test_an_add_that_waits_for_an_admins_release_of_its_address_gets_none(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            got = await service.allocate(ask("c1", "web-1"))
            assert got.ipv4 is not None
            order = OperatorRelease(network="red", address=got.ipv4, generation=got.generation)
            freeing = asyncio.create_task(service.operator_release(order))
            while not service.state.taken and not freeing.done():
                await asyncio.sleep(0)
            with pytest.raises(Problem) as late:
                await service.allocate(ask("c1", "web-1"))
            assert late.value.code == "claim-released"
            assert (await freeing).released
            await check(store, service)

    asyncio.run(scenario())


@pytest.mark.parametrize("held", [True, False], ids=["held", "holding nothing"])
def test_the_next_leader_knows_which_claims_were_released(etcd: Etcd, held: bool) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory:
            service = await make(directory)
            if held:
                await service.allocate(ask("c1", "web-1"))
            assert (await service.release(release_of(ask("c1", "web-1")))).released is held
        async with serving(etcd.url, server="s2") as directory, Store([etcd.url]) as store:
            service = await find(directory)
            with pytest.raises(Problem) as caught:
                await service.allocate(ask("c1", "web-1"))
            assert caught.value.code == "claim-released"
            await check(store, service)

    asyncio.run(scenario())


def test_a_claim_that_was_released_long_ago_is_forgotten(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(timeout=5.0, clock_interval=0.1)

    async def scenario() -> None:
        async with serving(etcd.url, limits=limits) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            many = [ask(f"c{number}") for number in range(2 * term.FORGOTTEN + 1)]
            await asyncio.gather(*map(service.release, map(release_of, many)))
            assert len(service.state.buried) == len(many)
            monkeypatch.setattr(term, "BURIED", 0.2)

            async def forgotten() -> bool:
                return not service.state.buried

            await until(forgotten)
            pages = [page.items async for page in store.pages(Keys("blue").prefix + b"buried/")]
            assert pages == [()]
            await check(store, service)

    asyncio.run(scenario())


@pytest.mark.parametrize("moved", ["claim", "sandbox"])
def test_a_copy_of_an_older_add_takes_nothing_back(etcd: Etcd, moved: str) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            old = ask("c1", "web-1")
            await service.allocate(old)
            if moved == "claim":
                new = msgspec.structs.replace(old, claim=f"{12345:032x}")
            else:
                new = ask("c2", "web-1", removed=("c1",))
            got = await service.allocate(new)
            with pytest.raises(Problem) as caught:
                await service.allocate(old)
            assert caught.value.code == "claim-released"
            assert (await service.allocate(new)).generation == got.generation
            await check(store, service, got)
            assert (await service.release(release_of(new))).released
            await check(store, service)

    asyncio.run(scenario())
