"""Tables in pipes and on terminals of any width: aligned, and nothing cut off."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from netspacectl import tables
from netspacectl.tables import Table
from netspacectl.views import Column


@dataclass
class Thing:
    name: str = "a"
    count: int = 0
    tags: list[str] = field(default_factory=list)


COLUMNS = (
    Column[Thing]("NAME", lambda thing: thing.name),
    Column[Thing]("COUNT", lambda thing: thing.count, right=True),
    Column[Thing]("TAGS", lambda thing: thing.tags, wraps=True),
)
WORDS = st.text(alphabet="abcdefghijklmnop-.:0123456789[]漢", min_size=1, max_size=30)
THINGS = st.builds(Thing, WORDS, st.integers(0, 2**40), st.lists(WORDS, max_size=6))
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def drawn(things: list[Thing], limit: int | None) -> list[str]:
    before = tables.terminal_width
    tables.terminal_width = lambda: limit
    try:
        return [ESCAPES.sub("", line) for line in Table(COLUMNS).lines(things)]
    finally:
        tables.terminal_width = before


@given(st.lists(THINGS, max_size=5))
def test_in_a_pipe_every_thing_is_one_whole_line(things: list[Thing]) -> None:
    lines = drawn(things, None)
    assert len(lines) == len(things) + 1
    for thing, line in zip(things, lines[1:], strict=True):
        assert line.split() == [thing.name, str(thing.count), *", ".join(thing.tags or "-").split()]


@given(st.lists(THINGS, min_size=1, max_size=5), st.integers(10, 200))
def test_on_a_terminal_no_word_is_lost_however_narrow_it_is(
    things: list[Thing], limit: int
) -> None:
    shown = " ".join(drawn(things, limit)).split()
    for thing in things:
        for word in (thing.name, str(thing.count), *thing.tags):
            assert any(word == cell.removesuffix(",") for cell in shown), (word, shown)


@given(st.lists(THINGS, min_size=1, max_size=5), st.integers(90, 200))
def test_a_table_that_fits_stays_inside_the_terminal(things: list[Thing], limit: int) -> None:
    lines = drawn(things, limit)
    assert all(cell_len(line) <= limit for line in lines)
    assert lines[0].split() == ["NAME", "COUNT", "TAGS"]


def test_columns_stand_below_each_other_and_numbers_end_together() -> None:
    assert drawn([Thing("long-name", 7), Thing("b", 1234, ["x", "y"])], None) == [
        "NAME       COUNT  TAGS",
        "long-name      7  -",
        "b           1234  x, y",
    ]


def test_later_pages_keep_the_widths_and_have_no_header() -> None:
    table = Table(COLUMNS)
    assert len(table.lines([Thing("long-name", 7)])) == 2
    assert table.lines([Thing("b", 8)]) == ["b              8  -"]


def test_too_narrow_a_terminal_shows_each_thing_by_lines() -> None:
    assert drawn([Thing("long-name", 7), Thing("b", 8, ["x", "y"])], 15) == [
        "name   long-name",
        "count  7",
        "tags   -",
        "",
        "name   b",
        "count  8",
        "tags   x, y",
    ]


def test_a_header_is_marked_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(tables, "terminal_width", lambda: 80)
    assert "\x1b[1m" in Table(COLUMNS).lines([Thing()])[0]
    monkeypatch.setattr(tables, "terminal_width", lambda: None)
    assert "\x1b" not in "".join(Table(COLUMNS).lines([Thing()]))


def test_markup_in_a_value_is_text() -> None:
    assert drawn([Thing("[red]x[/red]", 1, [":smile:"])], None)[1] == "[red]x[/red]      1  :smile:"


def test_a_pipe_needs_no_rich() -> None:
    program = (
        "import sys\nfrom netspacectl.tables import Table\nfrom netspacectl.views import Column\n"
        "table = Table([Column('N', lambda item: item)])\ntable.add([1, 2])\ntable.close()\n"
        "assert 'rich' not in sys.modules"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert (ended.stdout, ended.stderr) == ("N\n1\n2\n", "")
