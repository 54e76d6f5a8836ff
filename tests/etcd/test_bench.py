"""The bench of the server, at a scale of seconds: every row is measured, what is told is true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.figures import NAMES, Figures
from tests.benches import quick_bench

SECONDS = 120.0


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a quick bench wrote; what it printed is under `printed`."""
    return quick_bench("bench.server", tmp_path_factory.mktemp("bench"), SECONDS)


def test_every_row_is_measured_and_printed(quick: dict[str, Any]) -> None:
    for name in NAMES:
        assert quick[name] > 0, name
        assert quick["rounds"][name], name
        assert f"| {name} " in quick["printed"]


def test_a_quick_run_judges_nothing(quick: dict[str, Any]) -> None:
    assert quick["quick"] is True
    assert quick["missed"] == []
    assert "NO" not in quick["printed"].split()


def test_what_a_generator_can_do_alone_is_told_and_is_more_than_the_server_did(
    quick: dict[str, Any],
) -> None:
    for generator in ("wrk_alone_per_s", "own_generator_alone_per_s"):
        assert quick["besides"][generator] > quick["alloc_per_s_64"]


def measured(**medians: float) -> Figures:
    found = Figures({}, judged=True)
    for name, value in medians.items():
        for round_of_it in (value * 0.5, value, value * 3):
            found.add(name, round_of_it)
    return found


@pytest.mark.parametrize(
    ("medians", "missed"),
    [
        ({"raw_puts_per_s": 6000, "alloc_per_s_64": 3000}, []),
        ({"raw_puts_per_s": 6100, "alloc_per_s_64": 3000}, ["alloc_per_s_64"]),
        ({"raw_puts_per_s": 4000, "alloc_per_s_64": 2400}, ["alloc_per_s_64"]),
        ({"alloc_per_s_64": 3000, "alloc_per_s_64_mtls": 1800}, []),
        ({"alloc_per_s_64": 3000, "alloc_per_s_64_mtls": 1700}, ["alloc_per_s_64_mtls"]),
        ({"alloc_per_s_64": 3000, "alloc_per_s_held_2000": 2500}, []),
        ({"alloc_per_s_64": 3000, "alloc_per_s_held_2000": 2400}, ["alloc_per_s_held_2000"]),
        ({"raw_txn_ms": 0.4, "alloc_ms_1": 1}, []),
        ({"raw_txn_ms": 0.4, "alloc_ms_1": 1.1}, ["alloc_ms_1"]),
        ({"rss_mib_idle": 81}, ["rss_mib_idle"]),
        ({"leader_gap_s_empty": 3.0, "leader_gap_s_held_1000000": 3.1},
         ["leader_gap_s_held_1000000"]),
    ],
)  # fmt: skip
def test_goals_are_judged_from_the_medians(medians: dict[str, float], missed: list[str]) -> None:
    assert measured(**medians).missed == missed


def test_pools_of_three_sizes_are_held_against_the_fastest_of_them() -> None:
    sizes = {"alloc_ms_1_slash24": 1.0, "alloc_ms_1_slash8": 1.15, "alloc_ms_1_slash64": 1.16}
    assert measured(**sizes).missed == ["alloc_ms_1_slash64"]
    del sizes["alloc_ms_1_slash24"]
    assert measured(**sizes).missed == []


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    table = measured(alloc_per_s_64=3000).lines()
    assert [line[-1] for line in table[1:]] == ["", "yes"]


def test_the_file_has_the_median_of_every_figure_and_its_rounds(tmp_path: Path) -> None:
    measured(rss_mib_idle=60).write(tmp_path / "figures.json")
    told = json.loads((tmp_path / "figures.json").read_text())
    assert told["rss_mib_idle"] == 60
    assert told["rounds"] == {"rss_mib_idle": [30, 60, 180]}
