"""What is measured, what it is held against, and how it is told: medians, ratios, goals, a table,
JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

Medians = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for a figure, or for what it is beside another one. `value` gives what is held
    against the bound, None where a figure that it needs was not measured."""

    words: str
    value: Callable[[Medians], float | None]
    least: float | None = None
    most: float | None = None

    def reached(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: its name, unit, the digits after the point, and its goals."""

    name: str
    unit: str
    digits: int = 0
    goals: tuple[Goal, ...] = ()


def most(name: str, bound: float, unit: str) -> Goal:
    """The figure itself is held against the bound."""
    return Goal(f"at most {bound:,g} {unit}", lambda found: found.get(name), most=bound)


def of(name: str, other: str) -> Callable[[Medians], float | None]:
    """`name` as a multiple of `other`."""
    return lambda found: found[name] / found[other] if {name, other} <= found.keys() else None


def _held(size: int) -> Row:
    name = f"alloc_per_s_held_{size}"
    goal = Goal("empty at most 1.2 of it", of("alloc_per_s_64", name), most=1.2)
    return Row(name, "1/s", 0, (goal,))


SHAPES = ("slash24", "slash8", "slash64")


def _shape(shape: str) -> Row:
    name = f"alloc_ms_1_{shape}"

    def value(found: Medians) -> float | None:
        every = [found.get(f"alloc_ms_1_{each}") for each in SHAPES]
        known = [each for each in every if each is not None]
        return found[name] / min(known) if len(known) == len(SHAPES) else None

    return Row(name, "ms", 3, (Goal("at most 1.15 of the least", value, most=1.15),))


HELD = (2_000, 100_000, 1_000_000)

ROWS = (
    Row("raw_puts_per_s", "1/s"),
    Row(
        "alloc_per_s_64",
        "1/s",
        0,
        (
            Goal("at least 0.5 of raw puts", of("alloc_per_s_64", "raw_puts_per_s"), least=0.5),
            Goal("at least 2,500 1/s", lambda found: found.get("alloc_per_s_64"), least=2500),
        ),
    ),
    Row(
        "alloc_per_s_64_mtls",
        "1/s",
        0,
        (
            Goal(
                "at least 0.6 of that without TLS",
                of("alloc_per_s_64_mtls", "alloc_per_s_64"),
                least=0.6,
            ),
        ),
    ),
    *(_held(size) for size in HELD),
    Row("alloc_per_s_batches", "1/s"),
    Row("alloc_cpu_us_64", "µs"),
    Row("alloc_cpu_us_batches", "µs"),
    Row("raw_txn_ms", "ms", 3),
    Row(
        "alloc_ms_1",
        "ms",
        3,
        (Goal("at most 2.5 of a raw transaction", of("alloc_ms_1", "raw_txn_ms"), most=2.5),),
    ),
    *(_shape(shape) for shape in SHAPES),
    Row("leader_gap_s_empty", "s", 2, (most("leader_gap_s_empty", 3, "s"),)),
    Row("leader_gap_s_held_1000000", "s", 2, (most("leader_gap_s_held_1000000", 3, "s"),)),
    Row("cold_start_s_held_1000000", "s", 1, (most("cold_start_s_held_1000000", 20, "s"),)),
    Row("rss_mib_held_1000000", "MiB", 0, (most("rss_mib_held_1000000", 1200, "MiB"),)),
    Row("etcd_bytes_per_address", "bytes", 0, (most("etcd_bytes_per_address", 700, "bytes"),)),
    Row("rss_mib_idle", "MiB", 0, (most("rss_mib_idle", 80, "MiB"),)),
)
NAMES = tuple(row.name for row in ROWS)


@dataclass
class Figures:
    """The rounds of every figure. `machine` describes where they come from, `besides` is what is
    told with them and has no goal; `judged` False where the sizes are not those of the goals;
    `rows` are what can be measured, in the order of the table."""

    machine: Mapping[str, object]
    judged: bool
    rounds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    besides: dict[str, float] = field(default_factory=dict)
    rows: Sequence[Row] = ROWS

    def add(self, name: str, value: float) -> None:
        self.rounds[name].append(value)

    @property
    def medians(self) -> dict[str, float]:
        return {row.name: median(self.rounds[row.name]) for row in self._measured}

    @property
    def missed(self) -> list[str]:
        """The figures that miss a goal."""
        return [row.name for row in self.rows if self.judged and False in self._verdicts(row)]

    @property
    def _measured(self) -> list[Row]:
        return [row for row in self.rows if self.rounds.get(row.name)]

    def _verdicts(self, row: Row) -> list[bool | None]:
        values = [goal.value(self.medians) for goal in row.goals]
        return [
            None if value is None else goal.reached(value)
            for goal, value in zip(row.goals, values, strict=True)
        ]

    def lines(self) -> list[list[str]]:
        """The table: a head, then a line for each goal of each figure that was measured."""
        table = [["figure", "median", "least to most", "rounds", "goal", "is", "reached"]]
        medians = self.medians
        for row in self._measured:
            rounds = self.rounds[row.name]
            start = [
                row.name,
                f"{medians[row.name]:,.{row.digits}f} {row.unit}",
                f"{min(rounds):,.{row.digits}f} to {max(rounds):,.{row.digits}f}",
                str(len(rounds)),
            ]
            for goal, verdict in zip(row.goals, self._verdicts(row), strict=True):
                value = goal.value(medians)
                shown = "" if value is None else f"{value:,.2f}".rstrip("0").rstrip(".")
                table.append([*start, goal.words, shown, _word(verdict if self.judged else None)])
                start = [""] * 4
            if not row.goals:
                table.append([*start, "", "", ""])
        return table

    def write(self, path: Path) -> None:
        """One object: every figure's median under its name, its rounds under `rounds`."""
        told: dict[str, Any] = {
            **self.medians,
            "rounds": {row.name: self.rounds[row.name] for row in self._measured},
            "besides": self.besides,
            "machine": self.machine,
            "quick": not self.judged,
            "missed": self.missed,
        }
        path.write_text(json.dumps(told, indent=1) + "\n")


def _word(verdict: bool | None) -> str:
    return {True: "yes", False: "NO", None: ""}[verdict]


def aligned(table: Sequence[Sequence[str]]) -> str:
    """The table as text for a terminal, which is Markdown as well."""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width for width in widths]
    return "\n".join([line(table[0]), line(rule), *map(line, table[1:])])
