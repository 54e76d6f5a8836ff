"""JSON objects from outside, refused wherever two readers could understand different things.

Standard library only: a refusal must not wait for anything larger to be imported.
"""

from __future__ import annotations

import codecs
import json
from typing import Any, Final, NoReturn

MAX_DEPTH: Final = 32
"""Levels of nesting; a result inside a network configuration needs six."""


def decode(text: bytes) -> dict[str, Any]:
    """The object in the bytes. `ValueError`, with the reason: invalid UTF-8, a key that stands
    twice, NaN and numbers out of range, halves of surrogate pairs, more than `MAX_DEPTH` levels,
    anything but an object."""
    if text.startswith(codecs.BOM_UTF8):
        raise ValueError("it begins with a byte order mark (BOM)")
    try:
        value = _DECODER.decode(text.decode("utf-8"))
    except RecursionError:
        raise ValueError(f"it has more than {MAX_DEPTH} levels") from None
    _check(value)
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    return value


def is_text(text: str) -> bool:
    """Whether the string can be written as UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:60]!r} stands there twice")
            seen.add(key)
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is out of range")
    return number


def _check(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not is_text(item):
                raise ValueError("it has half of a surrogate pair in it")
        if not below:
            return
        level = below
    raise ValueError(f"it has more than {MAX_DEPTH} levels")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_float=_finite
)
