"""What an exit status of `netspacectl` means, and the one line that goes with it."""

from __future__ import annotations

from typing import Final

from netspace.problems import KINDS, Problem
from netspacectl.text import duration, printable

DONE: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
AGAIN: Final = 4
DIFFERS: Final = 5
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

MEANINGS: Final[dict[int, str]] = {
    DONE: "Done.",
    REFUSED: "Refused, or failed: the line on stderr says which thing and why.",
    USAGE: "The command cannot be understood, or a value in it is not acceptable.",
    NOT_FOUND: "There is no such thing: cluster, network, pool, address, node.",
    AGAIN: "The server cannot be reached or is not ready: the same command may succeed later.",
    DIFFERS: "Nothing failed: `apply --dry-run` or `import` found something to do; `audit`, or"
    " `federation status`, `verify`, `diagnose` or `bench`, something wrong.",
    INTERRUPTED: "Interrupted with Ctrl-C.",
    PIPE_CLOSED: "Whoever read the output went away before its end (`| head`).",
}

_NOT_FOUND_CODES: Final = {"not-found", "pool-unknown"}
_USAGE_CODES: Final = {"bad-request", "invalid"}


def status_of_code(code: str) -> int:
    """The exit status for a problem's code, a key of `netspace.problems.KINDS`."""
    if code in _NOT_FOUND_CODES:
        return NOT_FOUND
    if code in _USAGE_CODES:
        return USAGE
    return AGAIN if KINDS[code].again else REFUSED


def line_of(problem: Problem) -> str:
    """What, which, why and what to do, in one line without control characters."""
    parts = [problem.detail, *problem.errors]
    text = "; ".join(part for part in parts if part)
    if problem.do:
        text = f"{text}: {problem.do}"
    if problem.retry_after is not None:
        text = f"{text} (retry after {duration(problem.retry_after)})"
    return printable(text)
