"""The rules of list and watch: what an event means, and what to do after a failure.

Pure. Source: API concepts, "Efficient detection of changes",
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes.
"""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import urlencode

GONE: Final = 410
"""What the watch is to begin at, or the rest of a list, is not kept any more."""
PAGE: Final = 500
"""Objects in a page of a list."""
FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 10.0
BRIEF: Final = 1.0
"""Seconds: a watch that ends sooner without a word has failed."""

Kind = Literal["put", "remove", "mark"]
_KINDS: Final[dict[str, Kind]] = {
    "ADDED": "put",
    "MODIFIED": "put",
    "DELETED": "remove",
    "BOOKMARK": "mark",
}


def meaning(kind: str) -> Kind | None:
    """What an event of this type says; None for one that is not known here."""
    return _KINDS.get(kind)


def lost(status: int) -> bool:
    """Whether everything must be listed anew after this failure; else the watch goes on from where
    it was."""
    return status == GONE


def pause(failures: int, chance: float) -> float:
    """Seconds to wait after so many failures in a row (1 and more). `chance`, 0 to 1, spreads those
    who failed at once: between half and all of it."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 20))
    return longest * (0.5 + chance / 2)


def list_query(following: str, limit: int = PAGE, fields: str = "") -> str:
    """For one page, of the newest state there is (no resourceVersion); `following` is what the page
    before said, `fields` a field selector."""
    asked = {"limit": limit, **({"continue": following} if following else {}), **_of(fields)}
    return "?" + urlencode(asked)


def watch_query(version: str, seconds: int, fields: str = "") -> str:
    """For what comes after the version; the API ends the watch after so many seconds."""
    asked = {
        **_of(fields),
        "watch": "true",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": seconds,
    }
    return "?" + urlencode(asked)


def _of(fields: str) -> dict[str, str]:
    return {"fieldSelector": fields} if fields else {}
