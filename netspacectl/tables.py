"""Lists as tables, page by page, each column as wide as its widest cell so far.

Into a pipe or a file a table is as wide as it has to be; that needs padding only, and a list may be
long, so `rich` is not even imported. On a terminal that is too narrow, columns that may wrap do;
where that is not enough, each item is shown by lines of its own. Nothing is ever cut off.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

import click

from netspacectl.text import aligned
from netspacectl.views import Column

T = TypeVar("T")
GAP: Final = 2


def terminal_width() -> int | None:
    """Columns of the terminal that the output goes to; None for a pipe or a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


class Table(Generic[T]):
    """A table of items, written as they come."""

    def __init__(self, columns: Sequence[Column[T]]) -> None:
        self._columns = columns
        self._limit = terminal_width()
        self._measure = len if self._limit is None else _cells()
        self._widths = [len(column.title) for column in columns]
        self._begun = False
        self._apart = False

    def add(self, items: Sequence[T]) -> None:
        """Writes the next items."""
        if items:
            for line in self.lines(items):
                click.echo(line)

    def close(self) -> None:
        """Writes the header of a table that stayed empty."""
        if not self._begun:
            for line in self.lines(()):
                click.echo(line)

    def lines(self, items: Sequence[T]) -> list[str]:
        """The next items' lines, with the header before the first ones."""
        rows = [[column.text(item) for column in self._columns] for item in items]
        self._widths = [
            max(width, *(self._measure(row[at]) for row in rows), 0)
            for at, width in enumerate(self._widths)
        ]
        if self._limit is None:
            lines = self._padded(rows)
        else:
            self._apart = self._apart or self._narrowest(rows) > self._limit
            lines = self._blocks(rows) if self._apart else self._drawn(rows, self._limit)
        self._begun = True
        return lines

    def _narrowest(self, rows: list[list[str]]) -> int:
        """How wide the table is when every column that may wrap does so at every word."""
        least = list(self._widths)
        for at, column in enumerate(self._columns):
            if column.wraps:
                words = [word for row in rows for word in row[at].split()]
                least[at] = max(self._measure(word) for word in (column.title, *words))
        return sum(least) + GAP * (len(least) - 1)

    def _padded(self, rows: list[list[str]]) -> list[str]:
        header = [] if self._begun else [[column.title for column in self._columns]]
        return [
            (" " * GAP)
            .join(
                text.rjust(width) if column.right else text.ljust(width)
                for text, column, width in zip(row, self._columns, self._widths, strict=True)
            )
            .rstrip()
            for row in header + rows
        ]

    def _blocks(self, rows: list[list[str]]) -> list[str]:
        lines: list[str] = []
        for row in rows:
            if self._begun or lines:
                lines.append("")
            fields = [
                (column.title.lower(), text)
                for column, text in zip(self._columns, row, strict=True)
            ]
            lines += aligned(fields)
        return lines

    def _drawn(self, rows: list[list[str]], limit: int) -> list[str]:
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(
            box=None,
            pad_edge=False,
            padding=(0, GAP, 0, 0),
            show_header=not self._begun,
            header_style="bold",
        )
        for column, width in zip(self._columns, self._widths, strict=True):
            table.add_column(
                column.title,
                justify="right" if column.right else "left",
                no_wrap=not column.wraps,
                min_width=None if column.wraps else width,
                overflow="fold",
            )
        for row in rows:
            table.add_row(*(Text(text) for text in row))
        console = Console(width=limit, force_terminal=True, highlight=False)
        with console.capture() as captured:
            console.print(table)
        return [line.rstrip() for line in captured.get().splitlines()]


def _cells() -> Callable[[str], int]:
    """How many columns of a terminal a text takes: two for a wide character."""
    from rich.cells import cell_len

    return cell_len
