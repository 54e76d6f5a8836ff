"""What works while this process leads: the informers, the rounds, the witness, who tells pods
who has the address that they ask for, and the rounds of federations."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from time import monotonic
from typing import Any, Final

from federation.client import Client as FederationClient
from ipam_server.client import Client
from kube_controller import taken
from kube_controller.config import ControllerConfig
from kube_controller.federations import Federations
from kube_controller.holders import Holders
from kube_controller.informer import Informer
from kube_controller.kinds import (
    DEPLOYMENTS,
    FEDERATIONS,
    NAMESPACES,
    NETWORKS,
    NODES,
    POOLS,
    STATEFUL_SETS,
    TAKEN,
    Resource,
)
from kube_controller.metrics import Metrics
from kube_controller.rounds import Declared, Rounds
from kube_controller.witness import Witness
from netspace.kube_api import ApiError, KubeApi
from netspace.problems import Problem

log = logging.getLogger(__name__)

GATHER: Final = 0.05
"""Seconds in which further changes are waited for before a round begins."""
LEAST: Final = 0.25
"""Seconds between the beginnings of two rounds."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Whom a controller asks; None: no such server is configured."""

    addresses: Client | None
    federation: FederationClient | None


class Controller:
    """`run` works until it is cancelled; every turn at leading has a controller of its own, which
    begins with nothing. `namespace`: its own."""

    def __init__(
        self,
        config: ControllerConfig,
        servers: Servers,
        api: KubeApi,
        metrics: Metrics,
        namespace: str,
    ) -> None:
        self._config, self._servers, self._api, self._metrics = config, servers, api, metrics
        self._namespace = namespace

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            if self._servers.addresses is not None:
                addresses = _Addresses(
                    self._config, self._servers.addresses, self._api, self._metrics
                )
                group.create_task(addresses.run(), name="addresses")
            group.create_task(self._keep_federations(group), name="federations")

    async def _keep_federations(self, group: asyncio.TaskGroup) -> None:
        changed = asyncio.Event()
        informer = _informer(self._api, self._metrics, FEDERATIONS, changed)
        group.create_task(informer.run(), name=f"watch {FEDERATIONS.plural}")
        await informer.listed.wait()
        rounds = Federations(
            self._servers.federation, self._config.cluster, self._api, lambda: informer.objects,
            self._namespace, self._metrics,
        )  # fmt: skip
        while True:
            began = monotonic()
            changed.clear()
            await _guarded("a round of federations", rounds.round)
            await _until(changed, min(self._config.poll, rounds.next_due()))
            await asyncio.sleep(max(GATHER, LEAST - (monotonic() - began)))


def _informer(
    api: KubeApi, metrics: Metrics, resource: Resource[Any], news: asyncio.Event
) -> Informer[Any]:
    def told(what: str) -> None:
        metrics.watching.labels(resource.plural, what).inc()

    return Informer(api, resource, news.set, told)


class _Addresses:
    """What is done with the address server."""

    def __init__(
        self, config: ControllerConfig, client: Client, api: KubeApi, metrics: Metrics
    ) -> None:
        self._config, self._metrics = config, metrics
        self._changed, self._fenced, self._asked = (asyncio.Event() for _ in range(3))

        def informer(resource: Resource[Any], news: asyncio.Event) -> Informer[Any]:
            return _informer(api, metrics, resource, news)

        self._networks = informer(NETWORKS, self._changed)
        self._pools = informer(POOLS, self._changed)
        self._namespaces = informer(NAMESPACES, self._changed)
        self._workloads = [informer(each, self._changed) for each in (STATEFUL_SETS, DEPLOYMENTS)]
        self._nodes = informer(NODES, self._fenced)
        self._taken = informer(TAKEN, self._asked)
        self._known = Declared(
            workloads=lambda: chain.from_iterable(each.objects.values() for each in self._workloads)
        )
        self._rounds = Rounds(client, config.cluster, api, self._known, metrics)
        self._client, self._api = client, api

    async def run(self) -> None:
        informers: list[Informer[Any]] = [
            *(self._networks, self._pools, self._namespaces, self._nodes),
            *self._workloads,
        ]
        async with asyncio.TaskGroup() as group:
            for each in (*informers, self._taken):
                group.create_task(each.run(), name=f"watch {each.resource.plural}")
            group.create_task(self._keep_rounds(informers), name="rounds")
            group.create_task(self._keep_looking(), name="witness")
            group.create_task(self._keep_telling(), name="holders")

    async def _keep_rounds(self, informers: list[Informer[Any]]) -> None:
        # Half of what is declared is no plan: nothing is done before all is known.
        for each in informers:
            await each.listed.wait()
        while True:
            began = monotonic()
            self._changed.clear()
            known = self._known
            known.networks, known.pools = self._networks.objects, self._pools.objects
            known.namespaces = self._namespaces.objects
            await _guarded("a round", self._timed, self._metrics.rounds)
            await _until(self._changed, min(self._config.poll, self._rounds.next_due()))
            await asyncio.sleep(max(GATHER, LEAST - (monotonic() - began)))

    async def _timed(self) -> None:
        with self._metrics.round_seconds.time():
            await self._rounds.round()

    async def _keep_looking(self) -> None:
        await self._nodes.listed.wait()
        witness = Witness(
            self._client, self._config.cluster, self._api, lambda: self._nodes.objects,
            self._metrics,
        )  # fmt: skip
        while True:
            self._fenced.clear()
            await _guarded("looking at nodes", witness.look)
            await _until(self._fenced, self._config.observe)
            await asyncio.sleep(GATHER)

    async def _keep_telling(self) -> None:
        holders = Holders(
            self._client, self._config.cluster, self._api, lambda: self._taken.objects
        )
        while True:
            self._asked.clear()
            await _guarded("telling who has an address", holders.look)
            await _until(self._asked, taken.PAUSE)
            await asyncio.sleep(LEAST)


async def _guarded(
    what: str, work: Callable[[], Coroutine[Any, Any, None]], counted: Any = None
) -> None:
    """Does it; whatever goes wrong is tried again with the next turn."""
    result = "done"
    try:
        await work()
    except (Problem, ApiError) as error:
        result = "failed"
        log.warning("%s failed, trying on", what, extra={"why": str(error)})
    except Exception:
        result = "fault"
        log.exception("a fault in %s", what)
    if counted is not None:
        counted.labels(result).inc()


async def _until(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
