"""Says on pods who has the address that they ask for in vain: once for each pod and holder, as long
as the API keeps an event.

What it begins from are the nodes' events; `taken.py` has the rule.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import monotonic

from ipam_server.client import Client
from kube_controller import events, taken
from kube_controller.kinds import PODS, Pod, PodEvent
from kube_controller.taken import Look
from netspace.kube_api import ApiError, KubeApi
from netspace.problems import Problem

log = logging.getLogger(__name__)


class Holders:
    """`found`: the nodes' events that the API has, by their keys. `look` raises `Problem` and
    `ApiError` where server or API cannot be asked; what was not looked at is in the next turn."""

    def __init__(
        self,
        client: Client,
        cluster: str,
        api: KubeApi,
        found: Callable[[], Mapping[str, PodEvent]],
    ) -> None:
        self._client, self._cluster, self._api = client, cluster, api
        self._found = found
        self._looks: dict[str, Look] = {}
        self._said: dict[str, float] = {}

    async def look(self) -> None:
        """Looks at what is new and what has changed."""
        found, now = dict(self._found()), monotonic()
        self._looks = {key: look for key, look in self._looks.items() if key in found}
        self._said = {name: until for name, until in self._said.items() if now < until}
        for key in taken.due(found, self._looks, now):
            event = found[key]
            try:
                await self._tell(event)
            except (Problem, ApiError) as error:
                if _away(error):
                    raise
                log.info("an address's holder is not told: %s", error, extra={"event": key})
            self._looks[key] = Look(event.metadata.resource_version, monotonic())

    async def _tell(self, event: PodEvent) -> None:
        where = PODS.within(event.metadata.namespace, event.involved_object.name)
        pod = await self._api.get(where, Pod)
        selection = taken.wish(event, pod)
        if selection is None:
            return
        client, cluster = self._client, self._cluster
        named = taken.pool_of(selection)
        network = (await client.pool(cluster, named)).network if named else None
        address = selection.ip[0]
        entry = await client.address(cluster, address, network)
        pool = await client.pool(cluster, entry.pool) if entry.pool else None
        seen = taken.sight(pod, selection, entry, pool)
        if seen is None:
            return
        began = None
        if seen == "ours":
            history = await client.address_history(cluster, address, entry.network)
            began = taken.since(entry, history)
        message = taken.message(seen, pod, selection, entry, began)
        said = events.holder(pod, message, datetime.now(UTC))
        name = said["metadata"]["name"]
        if name not in self._said:
            await events.post(self._api, said)
            self._said[name] = monotonic() + events.AGAIN


def _away(error: Problem | ApiError) -> bool:
    """Whether it is the server's or the API's failure and not this one event's."""
    if isinstance(error, Problem):
        return error.again
    return error.status in (0, 429) or error.status >= 500
