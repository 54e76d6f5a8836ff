"""A controller's lease as the API stores it, whatever answer was waited for."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from kube_controller.election import Election, Terms
from kube_controller.kinds import Metadata
from kube_controller.leasing import Lease, LeaseSpec
from netspace.kube_api import ApiError


class Api:
    """One lease, compared by its version as the API does. `stuck`: it stores what comes and does
    not answer."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.stuck = asyncio.Event()
        self.stored = asyncio.Event()

    async def get(self, path: str, kind: type[Lease]) -> Lease:
        if self.lease is None:
            raise ApiError(404, "not found")
        return self.lease

    async def create(self, folder: str, body: dict[str, Any], kind: type[Lease]) -> Lease:
        return self._keep(body)

    async def replace(self, path: str, body: dict[str, Any], kind: type[Lease]) -> Lease:
        assert self.lease is not None
        if body["metadata"]["resourceVersion"] != self.lease.metadata.resource_version:
            raise ApiError(409, "it was changed")
        found = self._keep(body)
        if self.stuck.is_set():
            self.stuck.clear()
            self.stored.set()
            await asyncio.Event().wait()
        return found

    def _keep(self, body: dict[str, Any]) -> Lease:
        before = int(self.lease.metadata.resource_version) if self.lease else 0
        metadata = Metadata(name=body["metadata"]["name"], resource_version=str(before + 1))
        self.lease = Lease(metadata, msgspec.convert(body["spec"], LeaseSpec))
        return self.lease


def test_a_lease_is_given_up_though_a_renewal_was_under_way() -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    async def run() -> str:
        api = Api()
        election = Election(api, Terms("kube-system", "netspace", "one", pause=0.01))  # type: ignore[arg-type]
        running = asyncio.create_task(election.run(work))
        async with asyncio.timeout(10):
            while not election.leading:
                await asyncio.sleep(0.01)
            api.stuck.set()
            await api.stored.wait()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert api.lease is not None
        return api.lease.holder

    assert asyncio.run(run()) == ""
