"""How answers are written: as the API's messages in JSON or YAML, or as text for people.

Lists are arrays, written while their pages come in. A list that an error cuts off is not closed, so
that no program takes it for a whole one.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import click
import msgspec

from netspacectl.app import Output
from netspacectl.views import Column, details

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Listing(Protocol[T_contra]):
    """A list that is being written."""

    def add(self, items: Sequence[T_contra]) -> None:
        """Writes the next items."""

    def close(self) -> None:
        """Writes what comes after the last item."""


def listing(output: Output, columns: Sequence[Column[T]]) -> Listing[T]:
    """Begins a list."""
    if output == "json":
        return JsonList()
    if output == "yaml":
        return YamlList()
    from netspacectl.tables import Table

    return Table(columns)


def write_list(output: Output, columns: Sequence[Column[T]], items: Sequence[T]) -> None:
    """Writes a list that is all there."""
    written = listing(output, columns)
    written.add(items)
    written.close()


def write(output: Output, answer: msgspec.Struct) -> None:
    """Writes one answer."""
    if output == "json":
        click.echo(_json(answer))
    elif output == "yaml":
        click.echo(_yaml(answer), nl=False)
    else:
        for text in details(answer):
            click.echo(text)


def say(output: Output, text: str) -> None:
    """A line for people about what was done, where the API answers nothing."""
    if output == "table":
        click.echo(text)


class JsonList:
    """An array, its items indented as `_json` would."""

    def __init__(self) -> None:
        self._before = "["

    def add(self, items: Sequence[Any]) -> None:
        for item in items:
            click.echo(f"{self._before}\n{textwrap.indent(_json(item), '  ')}", nl=False)
            self._before = ","

    def close(self) -> None:
        click.echo("[]" if self._before == "[" else "\n]")


class YamlList:
    """A sequence of mappings."""

    def __init__(self) -> None:
        self._empty = True

    def add(self, items: Sequence[Any]) -> None:
        if items:
            self._empty = False
            click.echo(_yaml(items), nl=False)

    def close(self) -> None:
        if self._empty:
            click.echo("[]")


def _json(answer: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(answer), indent=2).decode()


def _yaml(answer: Any) -> str:
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(
        msgspec.to_builtins(answer), Dumper=dumper, sort_keys=False, allow_unicode=True
    )
    return text
