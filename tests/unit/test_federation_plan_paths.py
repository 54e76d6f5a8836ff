"""When flows may take a path, and what a difference of two sets is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.desired import Path, Tunnel
from federation.plan.changes import changes
from federation.plan.paths import WELL_FOR, Event, PathState, follow, found, measured, observe

LOSSES = 3
EVENTS = st.lists(st.sampled_from(["up", "down", "answered", "lost"]), max_size=60)


def after(state: PathState, *events: tuple[float, Event]) -> PathState:
    for now, event in events:
        state = observe(state, event, now, LOSSES)
    return state


def test_a_new_path_is_usable_after_a_second_of_answered_probes() -> None:
    state = after(PathState(), (0.0, "up"), (10.0, "answered"), (10.9, "answered"))
    assert not state.usable
    assert observe(state, "answered", 11.0, LOSSES).usable


@pytest.mark.parametrize("losses", [1, 3, 7])
def test_a_path_goes_out_with_the_last_of_so_many_losses_in_a_row(losses: int) -> None:
    state = found(0.0, 1)
    for _ in range(losses - 1):
        state = observe(state, "lost", 1.0, losses)
        assert state.usable
    assert not observe(state, "lost", 1.0, losses).usable


def test_an_answer_in_between_begins_the_count_again() -> None:
    state = after(found(0.0, 1), (1.0, "lost"), (1.2, "lost"), (1.4, "answered"))
    state = after(state, (1.6, "lost"), (1.8, "lost"), (2.0, "answered"), (2.2, "lost"))
    assert state.usable


def test_a_path_that_was_out_needs_a_whole_second_without_a_loss() -> None:
    state = after(found(0.0, 1), (1.0, "lost"), (1.2, "lost"), (1.4, "lost"))
    state = after(state, (2.0, "answered"), (2.8, "answered"), (2.9, "lost"), (3.0, "answered"))
    assert not observe(state, "answered", 3.5, LOSSES).usable
    assert observe(state, "answered", 4.0, LOSSES).usable


def test_a_tunnel_that_goes_down_takes_the_path_out_at_once() -> None:
    assert not after(found(0.0, 1), (1.0, "down")).usable


def test_answers_without_a_tunnel_bring_nothing_back() -> None:
    state = after(found(0.0, 1), (1.0, "down"), (2.0, "answered"), (9.0, "answered"))
    assert not state.usable
    assert not after(state, (9.1, "up"), (9.2, "answered")).usable


def test_the_tunnel_told_up_again_changes_nothing() -> None:
    state = found(0.0, 1)
    assert observe(state, "up", 5.0, LOSSES) == state


@given(EVENTS, st.integers(1, 5))
def test_a_usable_path_has_its_tunnel_and_less_losses_than_take_it_out(
    events: list[Event], losses: int
) -> None:
    state = PathState()
    for place, event in enumerate(events):
        state = observe(state, event, place * 0.2, losses)
        assert not state.usable or (state.up and state.lost < losses)
        assert state.well is None or state.up


@given(EVENTS)
def test_a_path_comes_back_only_after_a_second_that_had_answers_alone(events: list[Event]) -> None:
    state = PathState()
    good = 0.0
    for place, event in enumerate(events):
        now = place * 0.2
        before, state = state, observe(state, event, now, LOSSES)
        good = good + 0.2 if event in ("answered", "up") else 0.0
        if state.usable and not before.usable:
            assert event == "answered"
            assert good >= WELL_FOR - 1e-9


def test_what_is_followed_are_the_tunnels_wanted_with_their_ordinals() -> None:
    kept, gone, new = (Path("f", "c1", name) for name in ("kept", "gone", "new"))
    paths = {kept: measured(found(0.0, 5), 1400), gone: found(0.0, 6)}
    wanted = [Tunnel(kept, "a", "b", 5, 1, True), Tunnel(new, "a", "c", 7, 1, False)]
    assert follow(paths, wanted) == {kept: paths[kept], new: PathState(ordinal=7)}


@given(
    st.dictionaries(st.integers(0, 9), st.integers()),
    st.dictionaries(st.integers(0, 9), st.integers()),
)
def test_changes_lead_from_before_to_after_and_name_nothing_twice(
    before: dict[int, int], after: dict[int, int]
) -> None:
    found = changes(before.items(), after.items(), key=lambda item: item[0])
    reached = dict(before)
    for key, _ in found.removed:
        del reached[key]
    for key, value in found.added:
        assert key not in before
        reached[key] = value
    for (key, old), (same, new) in found.changed:
        assert key == same and old == before[key] != new
        reached[key] = new
    assert reached == after
    assert bool(found) == (before != after)


def test_without_a_key_values_are_their_own() -> None:
    found = changes(["a", "b"], ["b", "c"])
    assert (found.removed, found.added, found.changed) == (("a",), ("c",), ())
