"""A kind's objects as the API has them, kept up to date; and the same by a fresh, consistent list.

A watch that ends goes on from the last version that was heard, which bookmarks bring forward where
nothing happens. What the API does not keep any more is listed anew, and so is everything every
`RELIST` seconds: a state that was restored from a backup counts from an earlier version on.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import aclosing
from time import monotonic
from typing import Final, Generic, TypeVar

import msgspec

from kube_controller import watching
from kube_controller.kinds import Kept, Metadata, Resource, matter
from netspace.kube_api import ApiError, KubeApi

log = logging.getLogger(__name__)

WATCH: Final = (240, 360)
"""Seconds after which the API ends a watch: not all of them at once."""
QUIET: Final = 15.0
"""Seconds beyond that without a word from the API."""
RELIST: Final = 900.0
_AGAIN: Final = 3
"""How often a list is begun anew whose rest is not kept any more."""

T = TypeVar("T", bound=Kept)


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    following: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct, Generic[T]):
    metadata: _ListMeta
    items: list[T] | None = None


class _Head(msgspec.Struct):
    metadata: Metadata


async def fresh(
    api: KubeApi, resource: Resource[T], limit: int = watching.PAGE
) -> tuple[dict[str, T], str]:
    """All objects by their key as they were at one moment after this was called, and the version of
    that moment. Raises `ApiError`."""
    for attempt in range(_AGAIN):
        found: dict[str, T] = {}
        following = ""
        try:
            while True:
                path = resource.path + watching.list_query(following, limit, resource.fields)
                page = await api.get(path, _Page[resource.kind])  # type: ignore[name-defined]
                for each in page.items or ():
                    found[each.metadata.key] = each
                following = page.metadata.following
                if not following:
                    return found, page.metadata.resource_version
        except ApiError as error:
            if not watching.lost(error.status) or attempt == _AGAIN - 1:
                raise
    raise AssertionError("unreachable")


class Informer(Generic[T]):
    """`objects` by their key once `listed` is set. `changed` is called after anything that matters
    in them; `told` with what the informer does, `list`, `watch` or `failure`, for the metrics.
    `relist`: seconds."""

    def __init__(
        self,
        api: KubeApi,
        resource: Resource[T],
        changed: Callable[[], None],
        told: Callable[[str], None] = lambda what: None,
        relist: float = RELIST,
        limit: int = watching.PAGE,
    ) -> None:
        self._api, self._changed, self._told = api, changed, told
        self._relist, self._limit = relist, limit
        self._version = ""
        self._failures = 0
        self.resource = resource
        self.objects: dict[str, T] = {}
        self.listed = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled."""
        listed = 0.0
        while True:
            began = monotonic()
            try:
                if not self._version or began - listed > self._relist:
                    await self._list()
                    listed = began = monotonic()
                await self._watch()
            except ApiError as error:
                self._failed(error)
            else:
                if monotonic() - began >= watching.BRIEF:
                    self._failures = 0
                    continue
                # Whoever ends every watch at once would be asked without a pause.
                self._failures += 1
            await asyncio.sleep(watching.pause(self._failures, random.random()))

    def _failed(self, error: ApiError) -> None:
        self._failures += 1
        self._told("failure")
        if watching.lost(error.status):
            self._version = ""
        level = logging.INFO if self._failures == 1 else logging.WARNING
        log.log(
            level,
            "watching %s: trying on", self.resource.plural,
            extra={"why": error.why, "status": error.status, "failures": self._failures},
        )  # fmt: skip

    async def _list(self) -> None:
        found, version = await fresh(self._api, self.resource, self._limit)
        self._told("list")
        before, self.objects, self._version = self.objects, found, version
        first = not self.listed.is_set()
        self.listed.set()
        if first or before.keys() != found.keys() or any(
            matter(found[key]) != matter(before[key]) for key in found
        ):  # fmt: skip
            self._changed()

    async def _watch(self) -> None:
        seconds = random.randint(*WATCH)
        query = watching.watch_query(self._version, seconds, self.resource.fields)
        path = self.resource.path + query
        self._told("watch")
        async with aclosing(self._api.watch(path, seconds + QUIET)) as events:
            async for event in events:
                kind = watching.meaning(event.type)
                try:
                    if kind == "put":
                        seen = msgspec.json.decode(event.object, type=self.resource.kind)
                        version = self._put(seen)
                    else:
                        head = msgspec.json.decode(event.object, type=_Head).metadata
                        version = head.resource_version
                        if kind == "remove" and self.objects.pop(head.key, None) is not None:
                            self._changed()
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    # Whatever it was, it is known only by another list.
                    why = f"an event of {self.resource.plural} cannot be read: {error}"
                    raise ApiError(watching.GONE, why) from None
                self._version = version or self._version
                self._failures = 0

    def _put(self, seen: T) -> str:
        metadata = seen.metadata
        before = self.objects.get(metadata.key)
        self.objects[metadata.key] = seen
        if before is None or matter(before) != matter(seen):
            self._changed()
        return metadata.resource_version
