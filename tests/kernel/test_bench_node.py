"""The bench of the node, a few calls of each kind: every row is measured, nothing is left."""

from __future__ import annotations

from typing import Any

import pytest

from bench.figures import Figures
from bench.node_figures import NODE_ROWS
from lab import programs
from tests.benches import quick_bench

SECONDS = 150.0


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a quick bench wrote; what it printed is under `printed`."""
    if programs.cni_dir() is None:
        pytest.skip("needs the reference CNI plugins: ./run setup brings them")
    return quick_bench("bench.node", tmp_path_factory.mktemp("bench"), SECONDS)


def test_every_row_is_measured_and_printed(quick: dict[str, Any]) -> None:
    for row in NODE_ROWS:
        assert quick[row.name] > 0, row.name
        assert quick["rounds"][row.name], row.name
        assert f"| {row.name} " in quick["printed"]


def test_a_quick_run_judges_nothing(quick: dict[str, Any]) -> None:
    assert quick["quick"] is True
    assert quick["missed"] == []


def test_two_families_cost_no_more_than_a_fraction_of_the_references(quick: dict[str, Any]) -> None:
    assert quick["our_add_dual_ms"] < quick["ref_add_dual_ms"] / 3


def missed(**medians: float) -> list[str]:
    found = Figures({}, judged=True, rows=NODE_ROWS)
    for name, value in medians.items():
        found.add(name, value)
    return found.missed


@pytest.mark.parametrize(
    ("medians", "expected"),
    [
        ({"ref_add_v4_ms": 10, "our_add_v4_ms": 10}, []),
        ({"ref_add_v4_ms": 10, "our_add_v4_ms": 10.1}, ["our_add_v4_ms"]),
        ({"ref_add_dual_ms": 2000, "our_add_dual_ms": 41}, ["our_add_dual_ms"]),
        ({"our_add_v4_ms": 10, "our_add_dual_ms": 12.1}, ["our_add_dual_ms"]),
        ({"our_add_v4_ms": 10, "our_add_dual_ms": 12}, []),
        ({"our_add_v4_ms": 10, "our_add_v4_ms_held_200": 13}, ["our_add_v4_ms_held_200"]),
        ({"pod_to_pod_mbit_our_to_ref": 0.96}, ["pod_to_pod_mbit_our_to_ref"]),
        ({"pod_to_pod_rtt_us_our_to_ref": 1.03}, []),
        ({"our_agent_rss_mib_200": 60, "our_agent_rss_mib_1000": 70}, ["our_agent_rss_mib_1000"]),
        ({"our_agent_rss_mib_200": 91}, ["our_agent_rss_mib_200"]),
    ],
)
def test_goals_hold_ours_against_the_reference(
    medians: dict[str, float], expected: list[str]
) -> None:
    assert missed(**medians) == expected
