"""Asking the servers: every request, and what came of it, goes into the history."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, Self, TypeVar

from ipam_server.client import Client
from netspace import messages as m
from netspace.problems import Problem
from netspace.upkeep import AttachmentsReport, LiveAttachment
from soak.ground import CLUSTER
from soak.history import Answer, History, Kind, Live, Operation, Outcome
from soak.pods import Pod

T = TypeVar("T")

TIMEOUT = 4.0
"""Seconds that a request may take, on all servers together."""

SURELY = frozenset({"unavailable", "not-leader", "busy", "state-unavailable"})
"""Problems after which nothing was done, in the client's own words."""

PERHAPS = frozenset({"outcome-unknown", "internal"})


class Asker:
    """Somebody who asks. Used in `async with`; `seed` is for what is chosen."""

    def __init__(self, number: int, endpoints: Sequence[str], history: History, seed: str) -> None:
        self.number = number
        self._history = history
        self._random = Random(seed)
        # Every client begins with a server of its own.
        turn = number % len(endpoints)
        self._client = Client([*endpoints[turn:], *endpoints[:turn]], TIMEOUT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    async def _allocate(
        self, pod: Pod, removed: tuple[str, ...] = (), must: bool = False
    ) -> Pod | None:
        """The pod with what it got; None if it got no answer or a refusal."""
        asked = self._begin("allocate", pod)
        asked.removed, asked.must = removed, must
        answer = await self._end(
            asked, self._client.allocate(CLUSTER, pod.request(removed)), allocated
        )
        if answer is None:
            return None
        return held(pod, answer)

    async def _release(self, pod: Pod, generation: int | None) -> bool:
        """Whether the release was acknowledged, something being held or not."""
        asked = self._begin("release", pod)
        asked.generation = generation
        request = pod.release(generation)
        return await self._end(asked, self._client.release(CLUSTER, request), released) is not None

    async def _ask(self, pod: Pod) -> bool | None:
        """Whether an attachment holds something; None if nobody said."""
        asked = self._begin("ask", pod)
        request = self._client.held(CLUSTER, pod.attachment)
        if await self._end(asked, request, allocated) is not None:
            return True
        return False if asked.code == "not-found" else None

    async def _allocate_batch(self, pods: Sequence[Pod]) -> list[Pod | None]:
        """As `_allocate`, of each."""
        asked = [self._begin("allocate", pod) for pod in pods]
        requests = [pod.request(()) for pod in pods]
        answers = await self._end_batch(
            asked, self._client.allocate_batch(CLUSTER, requests), allocated
        )
        return [
            None if answer is None else held(pod, answer)
            for pod, answer in zip(pods, answers, strict=True)
        ]

    async def _release_batch(self, pods: Sequence[Pod]) -> list[bool]:
        """As `_release`, of each."""
        asked = [self._begin("release", pod) for pod in pods]
        for each, pod in zip(asked, pods, strict=True):
            each.generation = pod.generation
        requests = [pod.release(pod.generation) for pod in pods]
        answers = await self._end_batch(
            asked, self._client.release_batch(CLUSTER, requests), released
        )
        return [answer is not None for answer in answers]

    async def _seen(self, node: str) -> int | None:
        """What a node's next look at itself comes after."""
        try:
            return (await self._client.node_attachments(CLUSTER, node)).revision
        except Problem:
            return None

    async def _tell(self, node: str, seen: int, live: tuple[Live, ...]) -> None:
        """A node's report."""
        asked = self._begin_bare("report", node=node)
        asked.seen, asked.live = seen, live
        report = AttachmentsReport(
            seen=seen,
            since=0,
            attachments=[
                LiveAttachment(
                    container=one.container, ifname=one.ifname, generation=one.generation
                )
                for one in live
            ],
        )
        await self._end(
            asked, self._client.report_attachments(CLUSTER, node, report), lambda _: Answer()
        )

    def _begin(self, kind: Kind, pod: Pod) -> Operation:
        pool = pod.pool
        return self._begin_bare(
            kind,
            container=pod.container,
            ifname=pod.ifname,
            claim=pod.claim,
            node=pod.node,
            namespace=pod.namespace,
            pod=pod.name,
            uid=pod.uid,
            pool="" if pool is None or pool.kind == "default" else pool.name,
            ip=pod.ip,
            families=pod.families,
        )

    def _begin_bare(self, kind: Kind, **asked: Any) -> Operation:
        """An operation begins; no pod needs to be concerned."""
        fields = {"container": "", "ifname": "", "claim": ""} | asked
        operation = Operation(number=0, client=self.number, kind=kind, invoked=0, began=0, **fields)
        return self._history.begin(operation)

    async def _end(
        self, asked: Operation, request: Awaitable[T], told: Callable[[T], Answer]
    ) -> Answer | None:
        try:
            answer = told(await request)
        except Problem as problem:
            self._history.end(asked, outcome_of(problem), code=problem.code)
            return None
        self._history.end(asked, "ok", answer)
        return answer

    async def _end_batch(
        self,
        asked: Sequence[Operation],
        request: Awaitable[Sequence[T | Problem]],
        told: Callable[[T], Answer],
    ) -> list[Answer | None]:
        """Ends each operation with what its item was answered."""
        answers: Sequence[T | Problem]
        refused = False
        try:
            answers = await request
        except Problem as problem:
            answers, refused = [problem] * len(asked), True
        found: list[Answer | None] = []
        for each, answer in zip(asked, answers, strict=True):
            if isinstance(answer, Problem):
                outcome = outcome_of(answer)
                # Of an item nobody says whether a copy of the batch came before whose answer was
                # lost: only a refusal of the whole tells that nothing was done.
                if outcome == "failed" and not refused:
                    outcome = "unknown"
                self._history.end(each, outcome, code=answer.code)
                found.append(None)
            else:
                found.append(told(answer))
                self._history.end(each, "ok", found[-1])
        return found

    async def _breathe(self) -> None:
        """A little time before the next attempt after one that failed."""
        await asyncio.sleep(self._random.uniform(0.05, 0.3))


def held(pod: Pod, answer: Answer) -> Pod:
    """The pod with what it was given."""
    address = answer.ipv4 or answer.ipv6 or ""
    return dataclasses.replace(pod, generation=answer.generation, address=address)


def outcome_of(problem: Problem) -> Outcome:
    """What a client knows after a problem."""
    if problem.code in SURELY:
        return "failed"
    return "unknown" if problem.code in PERHAPS else "refused"


def allocated(answer: m.Allocation) -> Answer:
    """What of an answer goes into the history."""
    return Answer(
        pool=answer.pool,
        network=answer.network.name,
        slot=answer.slot,
        generation=answer.generation,
        ipv4=answer.ipv4,
        ipv6=answer.ipv6,
        how=answer.how,
    )


def released(answer: m.Released) -> Answer:
    """As `allocated`."""
    return Answer(released=answer.released)
