"""What a request brings, checked: parameters in its path, its query, its body.

Everything is decoded to the types of a row, by msgspec; each refusal says what and why.
"""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from netspace.http_requests import Head
from netspace.names import in_words
from netspace.problems import Problem, invalid

JSON: Final = "application/json"
_JSON_TYPES: Final = frozenset({JSON, f"{JSON}; charset=utf-8", f"{JSON};charset=utf-8"})
_ENCODER: Final = msgspec.json.Encoder()


def parameter(name: str, text: str, kind: Any) -> Any:
    """A parameter in a path, as its type; `Problem` invalid."""
    try:
        return msgspec.convert(text, kind)
    except msgspec.ValidationError as error:
        raise invalid(f"{name} {text[:80]!r} in the path", in_words(str(error))) from None


def parse_query(text: str, kind: type[msgspec.Struct] | None) -> Any:
    """A query's values; None where a row has none. `Problem` bad-request or invalid."""
    if not text:
        return None if kind is None else kind()
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError as error:
        raise Problem("bad-request", f"the query cannot be read: {error}") from None
    known = () if kind is None else kind.__struct_fields__
    values: dict[str, str] = {}
    for key, value in pairs:
        if key not in known:
            has = f"use {', '.join(known)}" if known else "ask without a query"
            raise invalid(f"query parameter {key[:80]!r}", "there is no such parameter", do=has)
        if key in values:
            raise invalid(f"query parameter {key!r}", "it stands twice")
        values[key] = value
    assert kind is not None
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid("query", in_words(str(error))) from None


def check_media(head: Head) -> None:
    """`Problem` bad-request unless the header announces plain JSON."""
    media = head.fields.get("content-type", "none")
    if media.lower() not in _JSON_TYPES:
        raise Problem(
            "bad-request", f"the content type is {media[:80]}", do=f"send {JSON} (in UTF-8)"
        )
    if "content-encoding" in head.fields:
        raise Problem("bad-request", "the body is compressed", do="send it as it is")


def decode(body: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """The value in a body; `Problem` for what is no JSON, has a key twice, or is no such value."""
    try:
        value = decoder.decode(body)
        # What our own client sends is what the value would be written as: no key stands twice.
        if _ENCODER.encode(value) != body:
            _UNIQUE.decode(body.decode())
    except msgspec.ValidationError as error:
        raise invalid("body", in_words(str(error))) from None
    except UnicodeDecodeError:
        raise Problem("bad-request", "the body is not UTF-8") from None
    except ValueError as error:
        why = error if body else "it is empty"
        raise Problem("bad-request", f"the body is not JSON: {why}") from None
    return value


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Problem("bad-request", f"the body has the key {twice[:80]!r} twice in one object")


_UNIQUE: Final = json.JSONDecoder(object_pairs_hook=_once)
"""msgspec takes the last of two equal keys; whoever read the first would see another request."""
