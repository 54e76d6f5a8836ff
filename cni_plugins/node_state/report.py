"""What a look at the node came to: what was changed and why, and what could not be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cni_plugins.records import Key
from hostnet import Link


@dataclass(frozen=True, slots=True)
class Change:
    """Something that was put right. `subject`: as in "bond bond0"; `found`: what was wrong with
    it; `done`: what was done."""

    subject: str
    found: str
    done: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.found}; {self.done}"


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that is not as it should be and could not be put right, with the reason."""

    subject: str
    why: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.why}"


@dataclass(slots=True)
class Report:
    """Of one pass. `again`: something was being worked on by another call, look again soon.
    `links`: the host's, by name, at the end of it. `lowered`: the MTUs, by name, that were too
    low and took those of the pods' interfaces with them; `passed`: whether a pod was left to the
    call that is at work on it; `mended`: whose interfaces were."""

    changes: list[Change] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    again: bool = False
    links: dict[str, Link] = field(default_factory=dict)
    lowered: dict[str, set[int]] = field(default_factory=dict)
    passed: bool = False
    mended: list[Key] = field(default_factory=list)

    def of(self, subject: str) -> str:
        """What there is to say of the subject, failures first; empty where nothing was done."""
        told: Iterable[str] = (
            *(failure.why for failure in self.failures if failure.subject == subject),
            *(f"{c.found}; {c.done}" for c in self.changes if c.subject == subject),
        )
        return "; ".join(told)

    def failed(self, subject: str) -> bool:
        return any(failure.subject == subject for failure in self.failures)
