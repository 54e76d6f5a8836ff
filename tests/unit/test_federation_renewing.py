"""New keys for tunnels that are up and silent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from federation.desired import Path
from federation.node.renewing import MOST, SILENT, Renewing
from federation.plan.paths import PathState

PATH, OTHER = Path("f", "b", "one"), Path("f", "b", "other")
SILENT_UP, WELL = PathState(up=True, lost=5), PathState(up=True, usable=True)


def test_a_tunnel_that_is_silent_for_long_gets_new_keys_again_and_again_ever_more_seldom() -> None:
    renewing = Renewing()
    at = [now for now in range(200) if renewing.due({PATH: SILENT_UP, OTHER: WELL}, now)]
    assert at == [10, 30, 70, 150]


def test_a_single_answer_begins_anew() -> None:
    renewing = Renewing()
    assert not any(renewing.due({PATH: SILENT_UP}, now) for now in range(10))
    assert renewing.due({PATH: WELL}, 10) == []
    assert [now for now in range(11, 40) if renewing.due({PATH: SILENT_UP}, now)] == [21]


def test_a_tunnel_that_is_down_is_its_drivers_alone() -> None:
    renewing, down = Renewing(), PathState(up=False, lost=100)
    assert not any(renewing.due({PATH: down}, now) for now in range(100))


@given(st.lists(st.floats(0.1, 1000), max_size=200))
def test_there_is_always_a_pause_and_it_is_never_given_up(pauses: list[float]) -> None:
    renewing, now, asked = Renewing(), 0.0, []
    renewing.due({PATH: SILENT_UP}, now)
    for pause in pauses:
        now += pause
        if renewing.due({PATH: SILENT_UP}, now):
            asked.append(now)
    for one, other in zip([0.0, *asked], asked, strict=False):
        assert other - one >= SILENT
    assert len(asked) >= sum(pause >= MOST for pause in pauses)
