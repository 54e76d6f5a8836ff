"""Configuration files: YAML, read into a pydantic model, with all faults named at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from netspace import documents
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
        contents = documents.read(data)
    except documents.DocumentError as error:
        raise _faulty(path, [str(error)]) from None
    if len(contents) > 1:
        raise _faulty(path, ["it must be a single document"])
    content = contents[0] if contents else None
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
