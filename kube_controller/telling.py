"""What people see of a round: the objects' statuses, and events on namespaces."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import Final, TypeVar

from kube_controller import events, statuses
from kube_controller.declared import OWNER
from kube_controller.kinds import NETWORKS, POOLS, Custom, Namespace, Resource
from kube_controller.metrics import Metrics
from kube_controller.statuses import Status
from netspace.kube_api import ApiError, KubeApi
from netspace.messages import Network, Pool
from netspace.problems import Problem

log = logging.getLogger(__name__)

FIGURES_AT_ONCE: Final = 100
"""Statuses of a kind of which only numbers changed, that are written in one round."""

Planned = TypeVar("Planned", Network, Pool)
Refused = Mapping[tuple[str, str], Problem]
"""Why an object, by its kind's plural and its name, is not as it is declared."""


class Teller:
    """Writes what differs from what stands there. An object that cannot be written has its turn in
    the next round."""

    def __init__(self, api: KubeApi, metrics: Metrics) -> None:
        self._api, self._metrics = api, metrics
        self._warned: dict[str, tuple[str, float]] = {}

    async def networks(
        self, customs: Mapping[str, Custom], found: Mapping[str, Network], refused: Refused
    ) -> None:
        await self._tell(NETWORKS, customs, found, refused, statuses.network_status)

    async def pools(
        self, customs: Mapping[str, Custom], found: Mapping[str, Pool], refused: Refused
    ) -> None:
        await self._tell(POOLS, customs, found, refused, statuses.pool_status)

    async def unknown(
        self, networks: Mapping[str, Custom], pools: Mapping[str, Custom], problem: Problem
    ) -> None:
        """The server could not be asked."""
        now = datetime.now(UTC)
        for resource, customs in ((NETWORKS, networks), (POOLS, pools)):
            told = {
                name: statuses.unknown(custom, problem, now) for name, custom in customs.items()
            }
            await self.write(resource, customs, told)

    async def patch(
        self, resource: Resource[Custom], custom: Custom, change: object, part: str = ""
    ) -> None:
        """Merges the change into an object, unless it is gone or was changed meanwhile."""
        try:
            await self._api.patch(resource.of(custom.name, part), change)
        except ApiError as error:
            if error.status not in (404, 409):
                log.warning(
                    "an object could not be written",
                    extra={"kind": resource.plural, "object": custom.name, "why": error.why},
                )

    async def warn(self, known: Mapping[str, Namespace], wrong: Mapping[str, Problem]) -> None:
        """Says on namespaces what is wrong with their annotations, now and then."""
        self._metrics.wrong_namespaces.set(len(wrong))
        for name in [name for name in self._warned if name not in wrong]:
            del self._warned[name]
        for name, problem in wrong.items():
            said, due = self._warned.get(name, ("", 0.0))
            if said == str(problem) and monotonic() < due:
                continue
            log.warning("namespace %s: %s", name, problem, extra={"namespace": name})
            self._warned[name] = (str(problem), monotonic() + events.AGAIN)
            try:
                await events.post(self._api, events.event(known[name], problem, datetime.now(UTC)))
            except ApiError as error:
                log.warning("an event could not be posted", extra={"why": error.why})

    async def _tell(
        self,
        resource: Resource[Custom],
        customs: Mapping[str, Custom],
        found: Mapping[str, Planned],
        refused: Refused,
        status: Callable[[Custom, Planned | None, Problem | None, datetime], Status],
    ) -> None:
        now = datetime.now(UTC)
        told = {
            name: status(custom, _ours(found.get(name)), refused.get((resource.plural, name)), now)
            for name, custom in customs.items()
        }
        await self.write(resource, customs, told)

    async def write(
        self, resource: Resource[Custom], customs: Mapping[str, Custom], told: Mapping[str, Status]
    ) -> None:
        """Writes these statuses, by name."""
        figures = 0
        # In any order, so that nobody's figures wait for ever where there are too many at once.
        for name, status in random.sample([*told.items()], len(told)):
            custom = customs[name]
            patch = statuses.change(custom, status)
            if patch is None or (custom.going and not custom.held):
                continue
            if statuses.only_figures(patch):
                figures += 1
                if figures > FIGURES_AT_ONCE:
                    continue
            self._metrics.status_writes.labels(resource.plural).inc()
            await self.patch(resource, custom, patch, "/status")


def _ours(found: Planned | None) -> Planned | None:
    return found if found is not None and found.owner == OWNER else None
