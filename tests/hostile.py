"""The cases of tests/data/hostile_inputs.yaml: what is sent, and the reason for its refusal."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

FILE: Final = Path(__file__).parent / "data" / "hostile_inputs.yaml"
_DROP: Final = object()
_REPEATED: Final = re.compile(r"<<(.+?)\*(\d+)>>", re.DOTALL)


@dataclass(frozen=True)
class Case:
    """One input. `data` is the body, standard input or file; None where there is none. `more` is
    what else the section has: line, headers, raw, plugin, env."""

    name: str
    data: bytes | None
    code: str | int
    why: str
    more: dict[str, Any]

    def __str__(self) -> str:
        return self.name


@cache
def _sections() -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(FILE.read_text(), Loader=_Loader)
    return found


def cases(section: str) -> list[Case]:
    """All cases of a section of the file."""
    content = _sections()[section]
    return [_case(section, case, content["good"]) for case in content["cases"]]


def good(section: str) -> list[Case]:
    """The inputs that the cases differ from: nobody may refuse them."""
    content = _sections()[section]["good"]
    return [_case(section, {"name": name, "to": name}, content) for name in content]


def _case(section: str, case: dict[str, Any], good: dict[str, Any]) -> Case:
    base = good[case.get("to", next(iter(good)))]
    more = {key: copy.deepcopy(base[key]) for key in ("line", "env") if key in base}
    document = copy.deepcopy(base.get("json"))
    if section == "cni":
        more["env"].update(case.get("env", {}))
        if "args" in case:
            more["env"]["CNI_ARGS"] = case["args"]
        if "annotations" in case:
            [key] = document["runtimeConfig"]
            document["runtimeConfig"][key] = case["annotations"]
    for place, value in case.get("with", {}).items():
        _put(document, place, value)
    if "line" in case and "to" not in case:
        document = None
    data = None if document is None else json.dumps(document).encode()
    if "text" in case:
        data = repeated(case["text"]).encode()
    elif "bytes" in case:
        data = repeated(case["bytes"]).encode("latin-1")
    elif data is not None:
        data = repeated(data.decode()).encode()
    more |= {key: case[key] for key in ("line", "headers", "raw", "plugin") if key in case}
    return Case(case["name"], data, case.get("code", "invalid"), case.get("why", ""), more)


def repeated(text: str) -> str:
    """The text with what stands in it as `<<x*5>>`."""
    return _REPEATED.sub(lambda found: found[1] * int(found[2]), text)


def _put(document: Any, place: str, value: Any) -> None:
    *parts, last = _parts(document, place)
    for part in parts:
        document = document[part]
    if value is _DROP:
        del document[last]
    else:
        document[last] = value


def _parts(document: Any, place: str) -> list[Any]:
    if not isinstance(document, dict) or "/" in place:
        return [place]
    return [int(part) if part.isdigit() else part for part in place.split(".")]


class _Loader(yaml.SafeLoader):
    """YAML with `!drop`."""


_Loader.add_constructor("!drop", lambda loader, node: _DROP)
