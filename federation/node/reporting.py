"""What the node says of itself to its cluster's server: a `NodeWord` made of what is known. Pure,
but for `Speaker`, which says it every few seconds and at once when it is another one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from federation.desired import Path
from federation.node.facts import Facts
from federation.node.findings import Finding, told
from netspace.messages.federation import Capability, FederatedNode, NodeWord, PathWord
from netspace.problems import Problem

logger = logging.getLogger(__name__)

MOST_PATHS: Final = 4096
MOST_FINDINGS: Final = 100
LONGEST_WHY: Final = 500
CHANGES: Final = 0.2
"""Seconds between two words at least, however often something changes."""


@dataclass(frozen=True, slots=True)
class PathHealth:
    """A path as it is measured. `usable`: flows take it."""

    state: Literal["up", "connecting", "down"]
    usable: bool = False
    loss: float = 0.0
    rtt: float | None = None
    mtu: int | None = None
    why: str = ""


def node_of(name: str, facts: Facts, capabilities: Iterable[Capability]) -> FederatedNode:
    """The node as the others need it."""
    return FederatedNode(
        name=name,
        addresses=list(facts.addresses),
        ranges=list(facts.ranges),
        gateway=facts.gateway,
        capabilities=sorted(capabilities),
    )


def word_of(
    name: str,
    facts: Facts,
    capabilities: Iterable[Capability],
    paths: Mapping[Path, PathHealth],
    findings: Iterable[Finding],
) -> NodeWord:
    """The word. Where there are more paths than it may have, the worst are told."""
    worst = sorted(paths.items(), key=lambda item: (_RANK[item[1].state], -item[1].loss, item[0]))
    shown = sorted(worst[:MOST_PATHS], key=lambda item: item[0])
    return NodeWord(
        node=node_of(name, facts, capabilities),
        cni=facts.cni or None,
        paths=[
            PathWord(
                federation=path.federation,
                cluster=path.cluster,
                node=path.node,
                state=health.state,
                loss=round(health.loss, 3),
                rtt=None if health.rtt is None else round(health.rtt, 6),
                mtu=health.mtu,
                why=health.why[:LONGEST_WHY],
            )
            for path, health in shown
        ],
        findings=told(findings)[:MOST_FINDINGS],
    )


_RANK: Final = {"down": 0, "connecting": 1, "up": 2}


def urgent(before: NodeWord | None, now: NodeWord) -> bool:
    """Whether it is to be said at once: figures alone can wait for their turn."""
    if before is None or (before.node, before.cni) != (now.node, now.cni):
        return True
    return _wrong(before) != _wrong(now) or _states(before) != _states(now)


def _wrong(word: NodeWord) -> list[tuple[str, str]]:
    return [(each.cause, each.subject) for each in word.findings if each.verdict == "fault"]


def _states(word: NodeWord) -> dict[tuple[str, str, str], str]:
    return {(each.federation, each.cluster, each.node): each.state for each in word.paths}


class Speaker:
    """Says the word every `interval` seconds and when `look` is told of a change that is urgent;
    nothing while there is none. `why` the last was not taken, empty where it was."""

    def __init__(
        self,
        make: Callable[[], NodeWord | None],
        say: Callable[[NodeWord], Awaitable[None]],
        interval: float,
    ) -> None:
        self._make, self._say, self._interval = make, say, interval
        self._woken = asyncio.Event()
        self._said: NodeWord | None = None
        self.why = ""

    def look(self) -> None:
        """Something may have changed."""
        word = self._make()
        if word is not None and urgent(self._said, word):
            self._woken.set()

    async def run(self) -> None:
        while True:
            self._woken.clear()
            if (word := self._make()) is not None:
                try:
                    await self._say(word)
                except Problem as problem:
                    self._said = None
                    self.why = str(problem)
                else:
                    self._said, self.why = word, ""
            await asyncio.sleep(CHANGES)
            try:
                async with asyncio.timeout(self._interval - CHANGES):
                    await self._woken.wait()
            except TimeoutError:
                pass
