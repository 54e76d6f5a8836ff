"""What the bench of federations holds its figures against."""

from __future__ import annotations

import pytest

from bench.federation_figures import FEDERATION_ROWS


@pytest.mark.parametrize(
    ("two", "reached"), [(7.2, True), (6.84, True), (6.5, False), (3.6, False)]
)
def test_two_gateways_carry_nearly_twice_what_one_does(two: float, reached: bool) -> None:
    [goal] = next(row for row in FEDERATION_ROWS if row.name == "throughput_2_gateways_mbit").goals
    value = goal.value({"throughput_1_gateway_mbit": 3.6, "throughput_2_gateways_mbit": two})
    assert value is not None
    assert goal.reached(value) is reached
