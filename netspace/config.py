"""Configuration files: YAML, read into a pydantic model, with all faults named at once."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from netspace.problems import Problem

MAX_SIZE: Final = 2**20
"""Bytes of a configuration file."""


class Settings(BaseModel):
    """What configuration models are made of: unknown keys are faults, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=BaseModel)


def load(path: Path, model: type[M]) -> M:
    """The configuration in the file; an empty file is all defaults.

    `Problem` invalid, with one entry in `errors` for each fault, like
    `server.yaml: etcd.endpoints[0]: Input should be a valid string`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise _faulty(path, [f"it cannot be read: {error.strerror}"]) from None
    if len(data) > MAX_SIZE:
        raise _faulty(path, [f"it is larger than {MAX_SIZE} bytes"])
    return parse(data, model, path)


def parse(data: bytes, model: type[M], path: Path) -> M:
    """As `load`; the path is for the errors."""
    try:
        content = yaml.load(data, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise _faulty(path, [f"{where}{error.problem}"]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _faulty(path, [f"it is not YAML: {' '.join(str(error).split())}"]) from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise _faulty(path, ["it must be a mapping of keys to values"])
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _faulty(
            path, [f"{_place(fault['loc'])}{_reason(fault)}" for fault in error.errors()]
        ) from None


def _faulty(path: Path, faults: list[str]) -> Problem:
    errors = tuple(f"{path.name}: {fault}" for fault in faults)
    return Problem(
        "invalid",
        errors[0] if len(errors) == 1 else f"{path} has {len(errors)} faults: {'; '.join(faults)}",
        do=f"correct {path}",
        errors=errors,
    )


def _place(location: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return f"{text.removeprefix('.')}: " if text else ""


def _reason(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return "there is no such key"
    message: str = fault["msg"]
    return message.removeprefix("Value error, ")


class _Loader(yaml.SafeLoader):
    """YAML's safe types; a key that stands twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)
