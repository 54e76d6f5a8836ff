"""How answers are written: as the API's messages in JSON or YAML, or as text for people.

Lists are arrays, written while their pages come in. A list that an error cuts off is not closed, so
that no program takes it for a whole one.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
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
    if output in ("json", "yaml"):
        dump(output, answer)
    else:
        for text in details(answer):
            click.echo(text)


def dump(output: Output, value: Any, to: str | None = None) -> None:
    """Writes a value for programs, into the file if one is named."""
    save(_json(value) + "\n" if output == "json" else _yaml(value), to)


def save(text: str, to: str | None) -> None:
    """Writes a text, into the file if one is named: all of it, or the file stays as it was."""
    if to is None:
        click.echo(text, nl=False)
        return
    path = Path(to)
    beside = path.with_name(f"{path.name}.new")
    try:
        beside.write_text(text)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


into_file = click.option(
    "--to",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="The file to write.  [default: the output]",
)


def ask_person(question: str) -> bool:
    """Asks on stderr, so that the output stays the answer's. The end of the input is a no."""
    click.echo(f"{question} [y/N] ", nl=False, err=True)
    answer = sys.stdin.readline()
    if not sys.stdin.isatty():  # nobody's Return key has ended the line
        click.echo(err=True)
    return answer.strip().lower() in ("y", "yes")


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
