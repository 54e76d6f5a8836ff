"""Messages of looking after a cluster's state: what is wrong with it, and what was mended."""

from __future__ import annotations

from netspace.messages import Answer


class Finding(Answer):
    """Something that is not as it must be. `code` names the rule, `mend` says what would put it
    right; `safe`: `--repair` does that by itself, since no address can be given twice by it."""

    code: str
    keys: list[str]
    what: str
    why: str
    mend: str
    safe: bool


class Inspection(Answer):
    """The stored state at one revision. `keys`: how many were looked at; `more`: findings beyond
    those listed."""

    cluster: str
    revision: int
    keys: int
    findings: list[Finding]
    more: int


class Mended(Answer):
    """A finding that was to be mended. `why` says why it was not."""

    code: str
    keys: list[str]
    what: str
    done: bool
    why: str = ""


class Repair(Answer):
    """What was done, and what a look at the state finds after it."""

    mended: list[Mended]
    left: Inspection
