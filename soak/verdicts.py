"""The rules that a history can break, and how what is found is counted and said.

double  `two-holders`       one generation of a slot given to two
        `held-while-given`  a slot given while its holder had not been asked to let go
        `order`             a younger generation was seen before an older one was asked for
        `overlap`           an address that lies in two pools, or in a nested one alone
lost    `missing`           a tenure that nobody asked to end is not in etcd
        `other-answer`      a repeat was answered differently
        `reclaimed-alive`   reclaimed though its node had not reported twice that it was gone
        `late-release`      a release of what had been reclaimed freed something
        `taken-away`        an address left its pool while it was used, in cool-down or retained
leaked  `came-back`         a claim holds a slot though its release was acknowledged before
        `left`              something is held after everything was released
        `refused-but-done`  what surely was not done was done
        `torn`              slots, attachments and releases in etcd contradict one another
        `not-given`         an address that nobody holds is not to be had
        `flawed`            the server's own audit of the state found something
wrong   `outside`, `forbidden`, `other-pool`, `other-address`, `families`, `cooling`,
        `retained`          given to another while it was kept for a name
        `not-returned`      the name that it was kept for got another one, or none
        `bounds`            a pool below its minimum or above its maximum
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from soak.history import Operation

SORTS: Final = {
    "two-holders": "double",
    "held-while-given": "double",
    "order": "double",
    "overlap": "double",
    "missing": "lost",
    "other-answer": "lost",
    "reclaimed-alive": "lost",
    "late-release": "lost",
    "taken-away": "lost",
    "came-back": "leaked",
    "left": "leaked",
    "refused-but-done": "leaked",
    "torn": "leaked",
    "not-given": "leaked",
    "flawed": "leaked",
    "outside": "wrong",
    "forbidden": "wrong",
    "other-pool": "wrong",
    "other-address": "wrong",
    "families": "wrong",
    "cooling": "wrong",
    "retained": "wrong",
    "not-returned": "wrong",
    "bounds": "wrong",
}


@dataclass(frozen=True)
class Verdict:
    """A rule that does not hold. `operations`: the numbers of those concerned."""

    rule: str
    says: str
    operations: tuple[int, ...] = ()

    @property
    def sort(self) -> str:
        return SORTS[self.rule]


def summary(operations: Sequence[Operation], verdicts: Sequence[Verdict]) -> str:
    """The last line of a soak."""
    found = Counter(verdict.sort for verdict in verdicts)
    counts = [f"{found[sort]} {sort}" for sort in ("double", "lost", "leaked")]
    if found["wrong"]:
        counts.append(f"{found['wrong']} wrong")
    return f"soak: {len(operations)} operations, {', '.join(counts)}"
