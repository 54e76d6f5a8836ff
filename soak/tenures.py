"""Tenures, and the operations by what they can have done to them.

A *tenure* is one holding of a slot: network, slot and generation name it. Whoever saw it (an answer
to its attachment, a look at etcd) proves that it had begun by then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf

from soak import ground
from soak.history import Live, Operation

TOLERANCE = 0.05
"""Seconds by which a cool-down may seem too short: milliseconds are rounded, requests take time."""

Slot = tuple[str, str]
Attachment = tuple[str, str]


@dataclass
class Tenure:
    """`known`: the tick by which it had begun, `seconds` the same as a time; `seen`: by what.
    `node`: whose it is, empty for a reservation."""

    slot: Slot
    generation: int
    attachment: Attachment
    claim: str
    known: int
    seconds: float
    seen: list[int] = field(default_factory=list)
    pool: str = ""
    node: str = ""

    def __str__(self) -> str:
        network, slot = self.slot
        return (
            f"{network}/{slot} at generation {self.generation}"
            f" by {'/'.join(self.attachment)} (claim {self.claim[:8] or '?'})"
        )


class Index:
    """The operations, by what they can have done to whom."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.allocations: dict[Attachment, list[Operation]] = defaultdict(list)
        self.releases: dict[Attachment, list[Operation]] = defaultdict(list)
        self.removals: dict[str, list[Operation]] = defaultdict(list)
        self.identities: dict[Attachment, tuple[str, str, str] | None] = {}
        self.named: dict[tuple[str, str, str], list[Operation]] = defaultdict(list)
        self.reports: dict[str, list[Operation]] = defaultdict(list)
        self._proofs: dict[tuple[Slot, int], Operation | None] = {}
        for each in operations:
            if each.kind == "allocate":
                self.allocations[each.attachment].append(each)
                self.identities[each.attachment] = each.identity
                if each.identity is not None:
                    self.named[each.identity].append(each)
                for container in each.removed:
                    self.removals[container].append(each)
            elif each.kind in ("release", "operator", "unreserve"):
                self.releases[each.attachment].append(each)
            elif each.kind == "report" and each.outcome != "failed":
                self.reports[each.node].append(each)

    def makers(self, attachment: Attachment, claim: str) -> list[Operation]:
        """What may have begun a tenure."""
        return [each for each in self.allocations.get(attachment, ()) if each.claim == claim]

    def freeing(self, tenure: Tenure) -> list[Operation]:
        """What may have ended a tenure and freed its slot: releases, and the first report that
        proves it gone together with an earlier one."""
        proof = self.proof(tenure)
        return [
            *([proof] if proof else []),
            *self._released(tenure),
        ]

    def proof(self, tenure: Tenure) -> Operation | None:
        """The first report of its node with which a tenure may be reclaimed: an earlier one, the
        grace period before, misses it too, and none that came between them has it."""
        key = tenure.slot, tenure.generation
        if key not in self._proofs:
            self._proofs[key] = self._proof(tenure)
        return self._proofs[key]

    def _proof(self, tenure: Tenure) -> Operation | None:
        missing: list[Operation] = []
        for each in self.reports.get(tenure.node, ()):
            if not each.since < tenure.generation <= each.seen:
                continue
            if any(_is(live, tenure) for live in each.live):
                if each.outcome == "ok":
                    # What came before this one proves nothing more; what is under way still may.
                    missing = [one for one in missing if not 0 < one.completed < each.invoked]
                continue
            ended = each.ended if each.outcome == "ok" else inf
            if any(ended - one.began >= ground.GRACE - TOLERANCE for one in missing):
                return each
            missing.append(each)
        return None

    def _released(self, tenure: Tenure) -> list[Operation]:
        return [
            each
            for each in self.releases.get(tenure.attachment, ())
            if each.generation == tenure.generation
            or (each.generation is None and tenure.claim in ("", each.claim))
        ]

    def ending(self, tenure: Tenure) -> Iterator[Operation]:
        """All that may have ended a tenure. A younger claim of the same attachment may; an older
        one, repeated late, must not."""
        yield from self.freeing(tenure)
        yield from self.removals.get(tenure.attachment[0], ())
        yield from self._younger(tenure)

    def freeing_unseen(self, tenure: Tenure) -> list[Operation]:
        """What may have freed a tenure's slot after a younger claim of its attachment had got it:
        if that answer was lost, nobody has seen the generation in between."""
        claims = {each.claim for each in self._younger(tenure) if each.outcome != "failed"}
        releases = self.releases.get(tenure.attachment, ())
        return [each for each in releases if each.claim in claims]

    def _younger(self, tenure: Tenure) -> Iterator[Operation]:
        asked = self.makers(tenure.attachment, tenure.claim)
        begun = min((each.invoked for each in asked), default=0)
        for each in self.allocations.get(tenure.attachment, ()):
            if each.claim != tenure.claim and each.invoked > begun:
                yield each


def _is(live: Live, tenure: Tenure) -> bool:
    return (live.container, live.ifname) == tenure.attachment and live.generation in (
        0,
        tenure.generation,
    )
