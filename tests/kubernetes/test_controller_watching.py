"""Lists and watches against the real API: pages, news, a place that is too old."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from kube_controller import watching
from kube_controller.informer import Informer, fresh
from kube_controller.kinds import NAMESPACES, Namespace
from netspace.kube_access import from_kubeconfig
from netspace.kube_api import ApiError, KubeApi
from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.controllers import namespace
from tests.unit.kube_script import until

MANY = 12


@pytest.fixture
def named(apiserver: ApiServer) -> Iterator[ApiServer]:
    """With some namespaces, which go with the test."""
    apiserver.apply(*(namespace(f"watch-{number}") for number in range(MANY)))
    yield apiserver
    for number in range(MANY):
        with contextlib.suppress(OSError):
            apiserver.ask("DELETE", f"/api/v1/namespaces/watch-{number}")


@contextlib.asynccontextmanager
async def asking(server: ApiServer) -> AsyncIterator[KubeApi]:
    api = KubeApi(lambda: from_kubeconfig(server.kubeconfig), 10)
    try:
        yield api
    finally:
        await api.close()


@contextlib.asynccontextmanager
async def informed(api: KubeApi) -> AsyncIterator[tuple[Informer[Namespace], Counter[str]]]:
    told = Counter[str]()
    known = Informer(api, NAMESPACES, lambda: None, lambda what: told.update([what]), limit=5)
    task = asyncio.create_task(known.run())
    try:
        await asyncio.wait_for(known.listed.wait(), 20)
        yield known, told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_list_in_pages_has_everything(named: ApiServer) -> None:
    async def scenario() -> None:
        async with asking(named) as api:
            found, version = await fresh(api, NAMESPACES, limit=5)
            assert {f"watch-{number}" for number in range(MANY)} <= found.keys()
            assert int(version) > 0

    asyncio.run(scenario())


def test_changes_are_heard(named: ApiServer) -> None:
    async def scenario() -> None:
        async with asking(named) as api, informed(api) as (known, told):
            named.apply(namespace("watch-0", netspace="x"))
            await until(lambda: known.objects["watch-0"].metadata.ours, "the annotation", 30)
            assert told["failure"] == 0

    asyncio.run(scenario())


def test_a_place_that_is_not_kept_any_more_is_410(named: ApiServer) -> None:
    async def scenario() -> None:
        async with asking(named) as api:
            path = NAMESPACES.path + watching.watch_query("1", 5)
            with pytest.raises(ApiError) as gone:
                async for _ in api.watch(path, 10):
                    pass
            assert watching.lost(gone.value.status)

    asyncio.run(scenario())
