"""Values as people write and read them: durations, counts, nothing, text from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

NOTHING: Final = "-"
_UNITS: Final = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
_DURATION: Final = re.compile(
    r"(?:(?P<d>\d{1,9})d)?(?:(?P<h>\d{1,9})h)?(?:(?P<m>\d{1,9})m)?"
    r"(?:(?P<s>\d{1,9}(?:\.\d{1,9})?)s?)?",
    re.ASCII,
)


def duration(seconds: float) -> str:
    """`90.0` as `1m30s`; parts of a second are kept to three digits."""
    whole = int(seconds)
    rest = round(seconds - whole, 3)
    if rest >= 1:
        whole, rest = whole + 1, 0.0
    parts = []
    for unit, length in _UNITS[:-1]:
        count, whole = divmod(whole, length)
        if count:
            parts.append(f"{count}{unit}")
    if whole or rest or not parts:
        parts.append(f"{whole + rest:g}s" if rest else f"{whole}s")
    return "".join(parts)


def parse_duration(text: str) -> float:
    """Seconds of `30s`, `5m`, `2h`, `1h30m`, `7d`, or of a bare number; `ValueError` for others."""
    found = _DURATION.fullmatch(text)
    if found is None or not any(found.groups()):
        raise ValueError(f"{text[:60]!r} is no duration")
    return sum(float(found[unit]) * length for unit, length in _UNITS if found[unit])


def printable(text: str) -> str:
    """The text in one line, with everything that could steer a terminal replaced."""
    return "".join(char if char.isprintable() else "�" for char in " ".join(text.split()))


def listed(items: Iterable[str]) -> str:
    """Items separated by a comma and a space; `-` for none."""
    return ", ".join(items) or NOTHING


def cell(value: object) -> str:
    """A message's value in a table: `-` for what is not there, `yes` or `no`, lists in a row."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return printable(listed(str(item) for item in value))
    return printable(str(value))


def aligned(fields: Sequence[tuple[str, str]], indent: str = "") -> list[str]:
    """Lines of a label and a value, the values below each other."""
    width = max((len(label) for label, _ in fields), default=0)
    return [f"{indent}{label:<{width}}  {value}" for label, value in fields]
