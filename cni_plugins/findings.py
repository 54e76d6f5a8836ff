"""What `netspace-agent diagnose` says: findings, each with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "fault"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of a subject, and what to do about it (empty where all is well). A `fault`
    keeps pods from working, or soon will; a `warning` does not."""

    verdict: Verdict
    subject: str
    found: str
    do: str = ""

    def __str__(self) -> str:
        mark = self.verdict if self.verdict == "ok" else self.verdict.upper()
        return f"{mark:8}{self.subject}: {self.found}" + (f" -> {self.do}" if self.do else "")


def told(findings: Iterable[Finding], say: Callable[[str], None]) -> bool:
    """Says all findings; whether any is a fault."""
    faults = warnings = 0
    for finding in findings:
        faults += finding.verdict == "fault"
        warnings += finding.verdict == "warning"
        say(str(finding))
    say(f"{faults} faults, {warnings} warnings")
    return faults > 0
