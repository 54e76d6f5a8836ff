"""Values of a plan file as fields of the API's messages, whatever fields those have, and back.

A file may write a number where the API wants decimal text (`size: 64`) and a duration where it
wants seconds (`cooldown: 5m`). Every fault is noted with its place, and reading goes on.
"""

from __future__ import annotations

import typing
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from netspace.names import in_words
from netspacectl.text import duration, parse_duration, printable

Message = type[msgspec.Struct]


class Faults(list[str]):
    """The faults of a document, each with the document's name and its place in front."""

    def __init__(self, document: str = "") -> None:
        super().__init__()
        self.document = document

    def place(self, place: str) -> str:
        """The place as it stands in front of a fault."""
        return ": ".join(part for part in (self.document, place) if part)

    def note(self, place: str, reason: object) -> None:
        self.append(f"{self.place(place)}: {reason}")


def read_fields(
    message: Message,
    content: Mapping[Any, Any],
    place: str,
    faults: Faults,
    *,
    without: Collection[str] = (),
    besides: Collection[str] = (),
) -> dict[str, Any]:
    """The message's fields that the content has, except those of `without`; keys of `besides` are
    left to the caller, and all others are faults."""
    known = {info.name: info for info in msgspec.structs.fields(message)}
    allowed = [name for name in known if name not in without] + list(besides)
    found = {}
    for key, value in content.items():
        if key not in allowed:
            faults.note(under(place, key), f"there is no such key: use {', '.join(allowed)}")
        elif key in known:
            before = len(faults)
            read = _read(value, known[key].type, under(place, key), faults)
            if len(faults) == before:
                found[key] = read
    for info in known.values():
        if info.required and info.name in allowed and info.name not in content:
            faults.note(under(place, info.name), "it is missing")
    return found


def under(place: str, key: object) -> str:
    """The place of a key below another place."""
    text = " ".join(str(key).split())[:80]
    return f"{place}.{text}" if place else text


def _read(value: Any, kind: Any, place: str, faults: Faults) -> Any:
    inner = _message_in(kind)
    if inner is not None and isinstance(value, Mapping):
        before = len(faults)
        fields = read_fields(inner, value, place, faults)
        return inner(**fields) if len(faults) == before else None
    if isinstance(value, list):
        before = len(faults)
        items = [_one([item], kind, f"{place}[{at}]", faults)[0] for at, item in enumerate(value)]
        return _one(items, kind, place, faults) if len(faults) == before else None
    return _one(value, kind, place, faults)


def _one(value: Any, kind: Any, place: str, faults: Faults) -> Any:
    """The value as it is, else as the person meant it."""
    reason = ""
    for tried in (value, _meant(value, kind)):
        if tried is None and value is not None:
            continue
        try:
            return msgspec.convert(tried, kind)
        except msgspec.ValidationError as error:
            reason = _reason(error)
    if isinstance(value, str) and _takes(0.5, kind):
        reason = f"{value[:60]!r} is no duration: use seconds, or something like 30s, 5m, 1h30m"
    faults.note(place, reason)
    return value


def _meant(value: Any, kind: Any) -> Any:
    if isinstance(value, list) and len(value) == 1:
        inner = _meant(value[0], _item(kind))
        return None if inner is None else [inner]
    if isinstance(value, int) and not isinstance(value, bool) and _takes("1", kind):
        return str(value)
    if isinstance(value, str) and _takes(0.5, kind):
        try:
            return parse_duration(value)
        except ValueError:
            return None
    return None


def _takes(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _reason(error: Exception) -> str:
    text = in_words(str(error)).partition(" - at `$")[0]
    return text[:1].lower() + text[1:]


def _parts(kind: Any) -> list[Any]:
    """What a type annotation is made of, unions and `Annotated` opened."""
    if typing.get_origin(kind) is typing.Annotated:
        return _parts(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (list, tuple, dict) or not typing.get_args(kind):
        return [kind]
    if typing.get_origin(kind) is typing.Literal:
        return [kind]
    return [part for inner in typing.get_args(kind) for part in _parts(inner)]


def _message_in(kind: Any) -> Message | None:
    for part in _parts(kind):
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            return part
    return None


def _item(kind: Any) -> Any:
    for part in _parts(kind):
        if typing.get_origin(part) is list:
            return typing.get_args(part)[0]
    return Any


def plain(message: msgspec.Struct, *, without: Collection[str] = ()) -> dict[str, Any]:
    """The message's fields as a file has them: defaults left out, decimal text as numbers, seconds
    as durations."""
    written = {}
    for info in msgspec.structs.fields(message):
        value = getattr(message, info.name)
        if info.name not in without and value != default_of(info):
            written[info.name] = _plain(value)
    return written


def default_of(info: msgspec.structs.FieldInfo) -> Any:
    """A field's default; `NODEFAULT` where it must be given."""
    if info.default_factory is not msgspec.NODEFAULT:
        return info.default_factory()
    return info.default


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return plain(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, str) and value.isascii() and value.isdigit() and str(int(value)) == value:
        return int(value)
    if isinstance(value, float):
        text = duration(value)
        return text if parse_duration(text) == value else value
    return value


def as_new(message: Message, answer: msgspec.Struct, **changed: Any) -> Any:
    """What would have to be asked for to get what the answer shows."""
    names = {info.name for info in msgspec.structs.fields(message)}
    given = {
        name: msgspec.to_builtins(getattr(answer, name))
        for name in answer.__struct_fields__
        if name in names and name not in changed
    }
    return msgspec.convert(given | changed, message)


def shown(value: Any) -> str:
    """A field's value for people: durations as such, `none` for nothing."""
    if isinstance(value, msgspec.Struct):
        fields = value.__struct_fields__
        return ", ".join(f"{name} {shown(getattr(value, name))}" for name in fields)
    if isinstance(value, (list, tuple)):
        return ", ".join(shown(item) for item in value) or "none"
    if isinstance(value, float):
        return duration(value)
    return "none" if value is None or value == "" else printable(str(value))
