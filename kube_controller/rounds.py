"""One round after the other: what is declared is compared with what the server has, and brought
there.

Nothing is remembered of an earlier round but when a refused object is tried again; whatever is
missed in one is found in the next. Resources and the server are read whole each time: that costs
two requests for all pools.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from ipam_server.client import Client
from kube_controller import declared, differences, namespaces, statuses
from kube_controller.declared import OWNER, WantedPool
from kube_controller.differences import Grow, Shrink, Step
from kube_controller.kinds import (
    NETWORKS,
    POOLS,
    Custom,
    Namespace,
    Resource,
    Workload,
)
from kube_controller.metrics import Metrics
from kube_controller.objects import Attempts, hold, let_go
from kube_controller.replicas import replicas_of
from kube_controller.telling import Teller
from netspace.kube_api import KubeApi
from netspace.messages import ChangePool, Network, NewNetwork, NewPool, Pool
from netspace.problems import Problem

log = logging.getLogger(__name__)

_SHOWN_PODS: Final = 5


@dataclass
class Declared:
    """What Kubernetes has, by name or key; kept up to date by somebody else."""

    networks: Mapping[str, Custom] = field(default_factory=dict)
    pools: Mapping[str, Custom] = field(default_factory=dict)
    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    workloads: Callable[[], Iterable[Workload]] = lambda: ()


@dataclass
class _Server:
    networks: dict[str, Network]
    pools: dict[str, Pool]

    @property
    def version(self) -> int:
        """Grows with whatever changes in the plan."""
        known: list[Network | Pool] = [*self.networks.values(), *self.pools.values()]
        return sum(each.revision for each in known) + len(known)


class Rounds:
    """`await round()` whenever something changed, and every few seconds. A `Problem` of it is the
    server's as a whole; an object's own ends in its status."""

    def __init__(
        self, client: Client, cluster: str, api: KubeApi, known: Declared, metrics: Metrics
    ) -> None:
        self._client, self._cluster, self._api = client, cluster, api
        self._known, self._metrics = known, metrics
        self._attempts = Attempts(metrics)
        self._teller = Teller(api, metrics)
        self._asked = 0

    async def round(self) -> None:
        known, asked = self._known, self._asked
        networks, pools = dict(known.networks), dict(known.pools)
        try:
            server = await self._read()
        except Problem as problem:
            await self._teller.unknown(networks, pools, problem)
            raise
        await self._remove(server, networks, pools)
        for name, custom in sorted(networks.items()):
            if not custom.going:
                await self._network(server, name, custom)
        await self._pools(server, pools)
        await self._namespaces(known.namespaces)
        self._attempts.forget_but({**networks, **pools})
        if self._asked != asked:
            # What was asked for changes more than what it was asked of.
            server = await self._read()
        refused = self._attempts.problems
        await self._teller.networks(networks, server.networks, refused)
        await self._teller.pools(pools, server.pools, refused)
        self._metrics.orphans.labels("networks").set(_orphans(server.networks, networks))
        self._metrics.orphans.labels("pools").set(_orphans(server.pools, pools))

    def next_due(self) -> float:
        """Seconds until the next object that was refused is to be tried again."""
        return self._attempts.next_due()

    async def _read(self) -> _Server:
        networks = await self._client.networks(self._cluster)
        pools = await self._client.pools(self._cluster)
        return _Server({each.name: each for each in networks}, {each.name: each for each in pools})

    # What is to go: nested pools, then pools, then networks.

    async def _remove(
        self, server: _Server, networks: Mapping[str, Custom], pools: Mapping[str, Custom]
    ) -> None:
        nested = {name for name, pool in server.pools.items() if pool.parent is not None}
        going = [name for name, custom in pools.items() if custom.going]
        for name in sorted(going, key=lambda name: (name not in nested, name)):

            async def end_pool(name: str = name) -> None:
                found = server.pools.get(name)
                if found is not None and found.owner == OWNER:
                    await self._delete_pool(name)
                    del server.pools[name]

            await self._end(server, POOLS, pools[name], end_pool)
        for name, custom in sorted(networks.items()):
            if custom.going:

                async def end_network(name: str = name) -> None:
                    found = server.networks.get(name)
                    if found is not None and found.owner == OWNER:
                        await self._client.delete_network(self._cluster, name, OWNER)
                        self._did("delete", "network", name)
                        del server.networks[name]

                await self._end(server, NETWORKS, custom, end_network)

    async def _end(
        self,
        server: _Server,
        resource: Resource[Custom],
        custom: Custom,
        end: Callable[[], Awaitable[None]],
    ) -> None:
        """Lets an object go once the server has let go of what it stood for."""
        if not custom.held:
            return
        # Pods end without a word to us: so there is no waiting for a change.
        if await self._attempt(server, resource, custom, None, end, patient=False):
            await let_go(self._teller, resource, custom)

    async def _delete_pool(self, name: str) -> None:
        try:
            await self._client.delete_pool(self._cluster, name, OWNER)
            self._did("delete", "pool", name)
        except Problem as problem:
            if problem.code == "not-found":
                return
            if problem.code != "in-use":
                raise
            page = await self._client.addresses(
                self._cluster, pool=name, state="used", limit=_SHOWN_PODS
            )
            raise statuses.held_by(problem, page.items, page.next is not None) from None

    # What is to be: networks, then pools, those that others are nested in first.

    async def _network(self, server: _Server, name: str, custom: Custom) -> None:
        async def bring() -> None:
            wanted = declared.network(custom)
            await hold(self._api, NETWORKS, custom)
            step = differences.network_step(wanted, server.networks.get(name))
            if isinstance(step, NewNetwork):
                made = await self._client.create_network(self._cluster, step)
            elif step is not None:
                made = await self._client.change_network(self._cluster, name, step)
            else:
                return
            self._did(type(step).__name__, "network", name)
            server.networks[name] = made

        await self._attempt(server, NETWORKS, custom, None, bring)

    async def _pools(self, server: _Server, customs: Mapping[str, Custom]) -> None:
        wanted: dict[str, WantedPool] = {}
        for name, custom in customs.items():
            if not custom.going:

                async def understand(name: str = name, custom: Custom = custom) -> None:
                    wanted[name] = declared.pool(custom)

                await self._attempt(server, POOLS, custom, "understand", understand)
        workloads = list(self._known.workloads())
        for name in differences.upsert_order(wanted):
            outer = _outer(wanted[name], wanted, server.pools)
            namespaces_ = wanted[name].new.namespaces or outer
            replicas = replicas_of(name, namespaces_, workloads) if wanted[name].follows else 0
            inputs = (replicas, tuple(outer))

            async def bring(name: str = name, outer: Any = outer, replicas: int = replicas) -> None:
                await hold(self._api, POOLS, customs[name])
                network = server.networks.get(wanted[name].new.network)
                steps = differences.pool_steps(
                    wanted[name], server.pools.get(name), network, replicas, outer
                )
                for step in steps:
                    server.pools[name] = await self._ask(name, step, server.pools.get(name))

            await self._attempt(server, POOLS, customs[name], inputs, bring)

    async def _ask(self, name: str, step: Step, found: Pool | None) -> Pool:
        client, cluster = self._client, self._cluster
        self._did(type(step).__name__, "pool", name)
        if isinstance(step, NewPool):
            return await client.create_pool(cluster, step)
        assert found is not None
        if isinstance(step, ChangePool):
            change = msgspec.structs.replace(step, revision=found.revision)
            return await client.change_pool(cluster, name, change)
        resize = msgspec.structs.replace(step.request, revision=found.revision)
        match step:
            case Grow():
                return await client.grow_pool(cluster, name, resize)
            case Shrink():
                return await client.shrink_pool(cluster, name, resize)

    async def _attempt(
        self,
        server: _Server,
        resource: Resource[Custom],
        custom: Custom,
        inputs: object,
        work: Callable[[], Awaitable[None]],
        *,
        patient: bool = True,
    ) -> bool:
        """Whether it is done. What was refused before is also tried when anything in the plan has
        changed."""
        asked = (inputs, server.version if patient else 0)
        whole = inputs != "understand"
        return await self._attempts.attempt(resource, custom, asked, work, whole=whole)

    # What namespaces choose.

    async def _namespaces(self, known: Mapping[str, Namespace]) -> None:
        stored = await self._client.namespaces(self._cluster)
        steps = namespaces.steps(known.values(), stored)
        wrong = dict(steps.wrong)
        for name, selection in steps.chosen.items():
            try:
                await self._client.set_namespace(self._cluster, name, selection)
                self._did("set", "namespace", name)
            except Problem as refusal:
                if refusal.again:
                    raise
                wrong[name] = refusal
        for name in steps.unset:
            await self._client.unset_namespace(self._cluster, name)
            self._did("unset", "namespace", name)
        await self._teller.warn(known, wrong)

    def _did(self, step: str, kind: str, name: str) -> None:
        self._asked += 1
        self._metrics.changes.labels(kind).inc()
        log.info("asked the server", extra={"step": step, "kind": kind, "object": name})


def _outer(
    pool: WantedPool, wanted: Mapping[str, WantedPool], found: Mapping[str, Pool]
) -> list[str]:
    """The namespaces of the pool that one is nested in: as they are declared, so that the inner one
    can become narrower before the outer one does."""
    parent = pool.new.parent
    if parent is None:
        return []
    if parent in wanted:
        return wanted[parent].new.namespaces
    return found[parent].namespaces if parent in found else []


def _orphans(found: Mapping[str, Network | Pool], customs: Mapping[str, Custom]) -> int:
    """How many the server has for Kubernetes that Kubernetes has not."""
    return sum(each.owner == OWNER and name not in customs for name, each in found.items())
