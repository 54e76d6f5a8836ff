"""Which clusters there are: made and deleted here or by another server, whatever comes late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from ipam_server import keys
from ipam_server.directory import Directory
from ipam_server.service import ClusterService
from lab.etcd import Etcd
from netspace.messages import NewCluster
from netspace.problems import Problem
from statestore import SnapshotPage, Store, WatchEvents
from tests.etcd.service_world import serving, until

News = AsyncGenerator[WatchEvents | SnapshotPage, None]


class Late:
    """Etcd's news of the catalogue: `come` once there is some, delivered from `deliver` on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.come = asyncio.Event()
        self.deliver = asyncio.Event()
        real = Store.watch

        async def watch(
            store: Store, prefix: bytes, after: int | None = None, without: bytes = b""
        ) -> News:
            async for change in real(store, prefix, after, without):
                if prefix == keys.CATALOGUE:
                    self.come.set()
                    await self.deliver.wait()
                yield change

        monkeypatch.setattr(Store, "watch", watch)


def names(directory: Directory) -> list[str]:
    return sorted(service.name for service in directory.services)


def test_a_cluster_made_while_the_catalogue_was_being_read_stays(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        late = Late(monkeypatch)
        async with serving(etcd.url) as directory:
            await late.come.wait()  # read while it was empty
            making = asyncio.create_task(directory.create_cluster(NewCluster(name="blue")))
            while "blue" not in names(directory) and not making.done():
                await asyncio.sleep(0.01)
            late.deliver.set()
            assert (await making).leader == "s1"
            await directory.create_cluster(NewCluster(name="green"))
            assert names(directory) == ["blue", "green"]

    asyncio.run(scenario())


def test_a_cluster_deleted_before_news_of_its_making_came_stays_deleted(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        late = Late(monkeypatch)
        async with serving(etcd.url) as directory:
            await late.come.wait()
            await directory.create_cluster(NewCluster(name="blue"))
            await directory.delete_cluster("blue")
            late.deliver.set()
            seen = set[str]()
            async with serving(etcd.url, server="s2") as other:
                # News comes in order: with another server's cluster all before it has come.
                await other.create_cluster(NewCluster(name="green"))
                async with asyncio.timeout(20):
                    while "green" not in seen:
                        await asyncio.sleep(0)
                        seen.update(names(directory))
            assert seen == {"green"}

    asyncio.run(scenario())


def test_a_deletion_answers_when_the_cluster_has_ended_though_the_catalogue_ended_it(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing, go = asyncio.Event(), asyncio.Event()
    dissolve, close = ClusterService.dissolve, ClusterService.close

    async def dissolve_and_be_late(service: ClusterService) -> None:
        await dissolve(service)
        await closing.wait()

    async def close_slowly(service: ClusterService) -> None:
        closing.set()
        await go.wait()
        await close(service)

    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            await directory.create_cluster(NewCluster(name="blue"))
            monkeypatch.setattr(ClusterService, "dissolve", dissolve_and_be_late)
            monkeypatch.setattr(ClusterService, "close", close_slowly)
            deleting = asyncio.create_task(directory.delete_cluster("blue"))
            done, _ = await asyncio.wait({deleting}, timeout=1)
            assert not done and closing.is_set()
            go.set()
            await deleting
            assert await store.get(keys.Keys("blue").leader) is None

    asyncio.run(scenario())


def test_what_another_server_makes_and_deletes_is_followed(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as one, serving(etcd.url, server="s2") as other:

            async def on_both(wanted: list[str]) -> None:
                async with asyncio.timeout(10):
                    while not names(one) == names(other) == wanted:
                        await asyncio.sleep(0.01)

            async def leader() -> Directory | None:
                led = (each for each in (one, other) if each.cluster("blue").leading)
                return next(led, None)

            for _ in range(3):
                await one.create_cluster(NewCluster(name="blue"))
                await on_both(["blue"])
                await (await until(leader)).delete_cluster("blue")
                await on_both([])
            with pytest.raises(Problem, match="there is no cluster blue"):
                other.cluster("blue")

    asyncio.run(scenario())
