"""One controller of a cluster works, the others wait: by a Lease of Kubernetes' own API."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any
from urllib.parse import quote

import msgspec

from kube_controller import leasing
from kube_controller.leasing import Lease, LeaseSpec, Sight
from netspace.kube_api import ApiError, KubeApi

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Terms:
    """`name` of the Lease and its namespace; `identity`: who asks, other for every process.
    `duration`: seconds after which the silent holder is replaced; it stops working after two thirds
    of that without having renewed it, and asks every `pause` seconds."""

    namespace: str
    name: str
    identity: str
    duration: int = 15
    pause: float = 2.0

    @property
    def deadline(self) -> float:
        return self.duration * 2 / 3


class Election:
    """`leading` tells whether this process works."""

    def __init__(self, api: KubeApi, terms: Terms) -> None:
        self._api, self._terms = api, terms
        self._lease: Lease | None = None
        self._sight: Sight | None = None
        self.leading = False
        folder = f"/apis/coordination.k8s.io/v1/namespaces/{quote(terms.namespace, safe='')}/leases"
        self._folder, self._path = folder, f"{folder}/{quote(terms.name, safe='')}"

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Works whenever it leads, until it is cancelled; then the lease is given up. What `work`
        raises ends this, too: then another process had better try."""
        try:
            while True:
                await self._campaign()
                await self._lead(work)
        finally:
            self.leading = False
            with suppress(ApiError, TimeoutError):
                async with asyncio.timeout(2):
                    await self._give_up()

    async def _give_up(self) -> None:
        """Read anew each time: a renewal whose answer was not waited for may have been stored."""
        while True:
            self._lease = await self._api.get(self._path, Lease)
            if self._lease.holder != self._terms.identity:
                return
            spec = leasing.given_up(self._lease.spec, datetime.now(UTC))
            if await self._settled(self._write(spec)):
                return

    async def _campaign(self) -> None:
        said = ""
        while True:
            try:
                if await self._try():
                    log.info("leading", extra={"identity": self._terms.identity})
                    return
                why = f"{self._lease.holder if self._lease else 'another one'} leads"
            except ApiError as error:
                why = error.why
            if why != said:
                log.info("not leading", extra={"why": why})
            said = why
            await asyncio.sleep(self._terms.pause)

    async def _lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Works until the lease is lost."""
        self.leading = True
        working = asyncio.ensure_future(work())
        renewing = asyncio.create_task(self._renew())
        try:
            await asyncio.wait({working, renewing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.leading = False
            for task in (working, renewing):
                task.cancel()
            ended = await asyncio.gather(working, renewing, return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
                raise error

    async def _renew(self) -> None:
        """Until the lease is somebody else's, or could not be renewed in time."""
        renewed = monotonic()
        while True:
            await asyncio.sleep(self._terms.pause)
            left = self._terms.deadline - (monotonic() - renewed)
            why = "no answer in time"
            try:
                async with asyncio.timeout(max(0.1, left)):
                    if await self._try():
                        renewed = monotonic()
                        continue
                    log.warning("no longer leading: another one does")
                    return
            except ApiError as error:
                why = error.why
            except TimeoutError:
                pass
            log.warning("the lease could not be renewed", extra={"why": why})
            if monotonic() - renewed >= self._terms.deadline:
                log.warning("no longer leading: the lease may be over")
                return

    async def _try(self) -> bool:
        """Whether the lease is ours now."""
        terms = self._terms
        try:
            found = await self._api.get(self._path, Lease)
        except ApiError as error:
            if error.status != 404:
                raise
            spec = leasing.taken(LeaseSpec(), terms.identity, terms.duration, datetime.now(UTC))
            return await self._settled(self._api.create(self._folder, self._body(spec), Lease))
        now = monotonic()
        self._lease, self._sight = found, leasing.seen(self._sight, found, now)
        if not leasing.free(found, terms.identity, self._sight, now, terms.duration):
            return False
        spec = leasing.taken(found.spec, terms.identity, terms.duration, datetime.now(UTC))
        return await self._settled(self._write(spec))

    async def _settled(self, writing: Awaitable[Lease]) -> bool:
        try:
            self._lease = await writing
        except ApiError as error:
            if error.status == 409:
                return False
            raise
        return True

    async def _write(self, spec: LeaseSpec) -> Lease:
        assert self._lease is not None
        body = self._body(spec, self._lease.metadata.resource_version)
        return await self._api.replace(self._path, body, Lease)

    def _body(self, spec: LeaseSpec, version: str = "") -> dict[str, Any]:
        metadata = {"name": self._terms.name, "namespace": self._terms.namespace}
        if version:
            metadata["resourceVersion"] = version
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": msgspec.to_builtins(spec),
        }
