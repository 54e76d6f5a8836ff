"""The agent's events on pods: noted when a call ends, posted one after the other beside all else.

Nobody waits for them. What cannot be posted is counted and dropped; while the API is away the
pauses grow, and what happens meanwhile waits, as much as the book takes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import quote

import msgspec

from cni_plugins.attachment import Host, key_of
from cni_plugins.hosts import Hosts, Kept
from cni_plugins.kubernetes import events
from cni_plugins.kubernetes.api import ApiError, KubeApi
from cni_plugins.kubernetes.events import Book, Happening, Post
from cni_plugins.netconf import pod_of
from cni_plugins.protocol import Invocation
from cni_plugins.records import Records
from cni_plugins.rounds import Backoff
from cni_plugins.serving import Witness
from netspace.problems import Problem

logger = logging.getLogger(__name__)

SETTLE: Final = 0.2
"""Seconds from a call's end to its event: its answer goes first, and bursts come together."""


class EventCounts(msgspec.Struct):
    """What became of events: `posted` to the API (repeats of one event each counted), `waiting`,
    `dropped` since too many waited, `failed` since the API did not take them, and why last."""

    posted: int = 0
    waiting: int = 0
    dropped: int = 0
    failed: int = 0
    why: str = ""


class _Ended(NamedTuple):
    """An ADD that has ended, and how. What it was given stands in its record."""

    at: float
    records: Records
    invocation: Invocation
    failure: BaseException | None


class Teller(Witness):
    """Posts to the API that the configuration at `path` names, as long as it wants events. Made in
    the event loop that runs it."""

    def __init__(
        self,
        hosts: Hosts,
        path: str,
        clock: Callable[[], float] = time.time,
        settle: float = SETTLE,
    ) -> None:
        self._hosts, self._path, self._clock, self._settle = hosts, path, clock, settle
        self._ended: list[_Ended] = []
        self._book = Book()
        self._counts = EventCounts()
        self._noted = asyncio.Event()

    @property
    def counts(self) -> EventCounts:
        return msgspec.structs.replace(
            self._counts,
            waiting=self._book.waiting + len(self._ended),
            dropped=self._counts.dropped + self._book.dropped,
        )

    def ended(self, host: Host, invocation: Invocation, failure: BaseException | None) -> None:
        pod = pod_of(invocation)
        if invocation.command != "ADD" or not pod.namespace or not pod.name:
            return
        if len(self._ended) >= events.MOST:
            self._counts.dropped += 1
            return
        self._ended.append(_Ended(self._clock(), host.records, invocation, failure))
        self._noted.set()

    async def run(self) -> None:
        """Posts until it is cancelled."""
        backoff = Backoff()
        while True:
            await self._noted.wait()
            self._noted.clear()
            await asyncio.sleep(self._settle)
            self._enter()
            while (due := self._book.next(self._clock())) is not None:
                if isinstance(due, float):
                    with suppress(TimeoutError):
                        async with asyncio.timeout(due):
                            await self._noted.wait()
                    self._noted.clear()
                elif await self._tell(due):
                    backoff.reset()
                else:
                    await asyncio.sleep(backoff.pause())
                self._enter()

    def _enter(self) -> None:
        """What ended becomes what is to be told, if anything is."""
        ended, self._ended = self._ended, []
        if not ended or not self._wanted():
            return
        for each in ended:
            happening = _happening(each)
            if happening is not None:
                self._book.note(happening, each.at)

    def _wanted(self) -> bool:
        try:
            with self._hosts.using(self._path) as kept:
                return _wanted(kept)
        except Problem:
            return False

    async def _tell(self, post: Post) -> bool:
        """Whether the API answered at all."""
        try:
            with self._hosts.using(self._path) as kept:
                if kept.api is None or not _wanted(kept):
                    return True
                name = await post_event(kept.api, post, kept.config.node_name)
        except (ApiError, Problem) as error:
            self._failed(post, str(error))
            return isinstance(error, ApiError) and error.status != 0
        except Exception as error:
            logger.exception("an event was not posted", exc_info=error)
            self._failed(post, type(error).__name__)
            return True
        self._counts.posted += 1
        self._book.posted(post, name, self._clock())
        return True

    def _failed(self, post: Post, why: str) -> None:
        self._counts.failed += 1
        if why != self._counts.why:
            logger.warning(
                "an event was not posted", extra={"reason": post.happening.reason, "why": why}
            )
        self._counts.why = why


def _happening(ended: _Ended) -> Happening | None:
    """None where the attachment is no more."""
    pod, ifname = pod_of(ended.invocation), ended.invocation.ifname
    if ended.failure is not None:
        return events.failed(pod, ifname, ended.failure)
    record = ended.records.load(key_of(ended.invocation))
    given = None if record is None else record.allocation
    if given is None:
        return None
    both = [text for text in (given.ipv4, given.ipv6) if text]
    return events.assigned(pod, ifname, given.pool, given.network.name, both)


class _Made(msgspec.Struct):
    """The answer, of which nothing is needed."""


async def post_event(api: KubeApi, post: Post, node: str) -> str:
    """Counts the event up, or makes it; its name."""
    pod = post.happening.pod
    path = f"/api/v1/namespaces/{quote(pod.namespace, '')}/events"
    if post.name is not None:
        try:
            await api.patch(f"{path}/{quote(post.name, '')}", events.repeated(post))
            return post.name
        except ApiError as error:
            if error.status != 404:
                raise
    name = events.named(pod, os.urandom(8).hex())
    try:
        await api.create(path, events.created(post, name, node), _Made)
    except ApiError as error:
        if error.status != 409:  # A repeat over a new connection, after an answer that was lost.
            raise
    return name


def _wanted(kept: Kept) -> bool:
    return kept.config.kubernetes is not None and kept.config.kubernetes.events
