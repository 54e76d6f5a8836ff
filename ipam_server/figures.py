"""What is counted while requests are answered: plain numbers, since every allocation pays for them.
`metrics` turns them into what Prometheus reads.

Only the server's one event loop counts, so nothing is locked.
"""

from __future__ import annotations

from typing import Final, Literal

from ipam_server.changes import Change
from netspace.problems import KINDS
from netspace.tally import SECONDS, Tally

CHANGES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Upper bounds: changes that go in one transaction."""

Phase = Literal["wait", "decision", "queue", "commit"]
PHASES: Final[tuple[Phase, ...]] = ("wait", "decision", "queue", "commit")
"""Where an allocation's time goes. `wait`: for its attachment's turn and for pools that are being
reshaped. `decision`: choosing the slot. `queue`: until a transaction takes the change. `commit`:
until etcd has answered."""

Cause = Literal["release", "reclaim", "fencing", "operator"]
CAUSES: Final[tuple[Cause, ...]] = ("release", "reclaim", "fencing", "operator")
"""Why an address was freed: its node asked, its node's reports missed it, Kubernetes said that its
pod is gone from a fenced node, an admin said so."""

Entry = Literal["history", "audit", "claim"]
ENTRIES: Final[tuple[Entry, ...]] = ("history", "audit", "claim")
"""What is forgotten in time: past holders, remembered changes, released claims."""


class Figures:
    """What one server has counted of one cluster since it began to look after it."""

    __slots__ = ("allocation", "batch", "forgotten", "freed", "phases", "problems")

    def __init__(self) -> None:
        self.allocation = Tally(SECONDS)
        self.phases: dict[Phase, Tally] = {phase: Tally(SECONDS) for phase in PHASES}
        self.batch = Tally(CHANGES)
        # All of them from the beginning: what first appears as 1 is no increase to Prometheus.
        self.problems = dict.fromkeys(KINDS, 0)
        self.freed: dict[Cause, int] = dict.fromkeys(CAUSES, 0)
        self.forgotten: dict[Entry, int] = dict.fromkeys(ENTRIES, 0)

    def decided(self, began: float, asked: float, chosen: float) -> None:
        """An allocation was chosen; three moments of the monotonic clock."""
        self.phases["wait"].add(asked - began)
        self.phases["decision"].add(chosen - asked)

    def sent(self, changes: list[tuple[Change, float]], at: float, answered: float) -> None:
        """One transaction was answered: its changes, each with the moment it was queued."""
        if not changes:
            return
        self.batch.add(len(changes))
        queue, commit, took = self.phases["queue"], self.phases["commit"], answered - at
        for change, since in changes:
            if change.allocates:
                queue.add(at - since)
                commit.add(took)

    def refused(self, code: str) -> None:
        """An allocation ended with this problem."""
        self.problems[code] += 1
