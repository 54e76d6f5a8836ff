"""The rules of probing: packets, losses, intervals, the search for an MTU."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.node import mtu, probing
from federation.node.probing import Due, Mark, Window

NONCE = bytes(range(16))


def test_an_answer_has_the_probes_number_and_nonce_and_no_more_bytes() -> None:
    mark = Mark(7, NONCE)
    for size in (0, probing.SIZE, 1400):
        asked = probing.probe(mark, size)
        assert len(asked) == max(size, probing.SIZE)
        answer = probing.answer_to(asked)
        assert answer is not None and len(answer) <= len(asked)
        assert probing.mark_of(answer) == mark


@given(st.binary(max_size=64))
def test_what_is_no_probe_gets_no_answer(data: bytes) -> None:
    answer = probing.answer_to(data)
    assert answer is None or data.startswith(probing.PROBE)
    assert probing.answer_to(probing.ANSWER + data) is None


def test_an_answer_to_nothing_that_was_asked_is_passed_over() -> None:
    window = Window(0.2, 10)
    window.sent(Mark(1, NONCE), 0.0)
    assert window.answered(Mark(1, os.urandom(16)), 0.1) is None
    assert window.answered(Mark(1, NONCE), 0.1) == pytest.approx(0.1)


def test_losses_in_a_row_end_with_an_answer_also_with_a_late_one() -> None:
    window = Window(0.2, 10)
    marks = [Mark(number, NONCE) for number in range(3)]
    for at, mark in enumerate(marks):
        window.sent(mark, at * 0.2)
        assert window.lost(mark)
    assert (window.row, window.loss) == (3, 1.0)
    assert window.answered(marks[0], 0.9) == pytest.approx(0.9)
    assert window.row == 0
    assert not window.lost(marks[1]), "its time is over for the second time: forgotten"
    assert window.answered(marks[1], 5.0) is None


def test_a_slow_path_is_given_more_time_than_an_interval() -> None:
    window = Window(0.2, 10)
    assert window.timeout == 0.2
    for number in range(10):
        window.sent(Mark(number, NONCE), 0.0)
        window.answered(Mark(number, NONCE), 0.3)
    assert window.timeout == pytest.approx(1.2)
    assert window.rtt == pytest.approx(0.3)


def test_on_a_quick_path_a_probe_is_lost_before_the_next_is_due() -> None:
    window = Window(0.2, 10)
    for number, rtt in enumerate((0.001, 0.001, 0.15)):
        window.sent(Mark(number, NONCE), 0.0)
        window.answered(Mark(number, NONCE), rtt)
    assert window.timeout == pytest.approx(0.1), "half an interval at least"


@given(st.floats(0.05, 60), st.lists(st.floats(0.0001, 3), min_size=1, max_size=30))
def test_usual_answers_are_never_lost(interval: float, rtts: list[float]) -> None:
    """An answer that takes as long as the median did is in time, up to an interval."""
    window = Window(interval, 10)
    for number, rtt in enumerate(rtts):
        window.sent(Mark(number, NONCE), 0.0)
        window.answered(Mark(number, NONCE), rtt)
    assert window.rtt is not None
    assert window.timeout >= min(4 * window.rtt, max(interval, min(3 * interval, probing.SLOWEST)))
    assert interval / 2 <= window.timeout <= max(interval, probing.SLOWEST)


def test_a_probe_that_could_not_be_sent_is_lost() -> None:
    window = Window(0.2, 10)
    window.sent(Mark(1, NONCE), 0.0)
    window.failed(Mark(1, NONCE))
    assert (window.row, window.loss) == (1, 1.0)


def test_the_window_tells_of_the_last_probes_alone() -> None:
    window = Window(0.2, 4)
    for number in range(8):
        mark = Mark(number, NONCE)
        window.sent(mark, number)
        if number < 4:
            window.lost(mark)
        else:
            window.answered(mark, number + 0.01)
    assert window.loss == 0.0


@given(
    interval=st.floats(0.05, 60),
    late=st.lists(st.floats(0, 200), max_size=50),
)
def test_a_path_is_never_probed_more_often_than_it_should(
    interval: float, late: list[float]
) -> None:
    due, now = Due(interval, 0.0), 0.0
    sent = 0
    for pause in late:
        now = max(now, due.next) + pause
        sent += 1
        due.taken(now)
        assert due.next > now
    assert sent <= now / interval + 1


@given(st.floats(0.05, 60), st.integers(1, 20_000), st.floats(1, 5000))
def test_all_vxlan_probes_together_stay_below_their_rate(
    wanted: float, paths: int, rate: float
) -> None:
    interval = probing.vxlan_interval(wanted, paths, rate)
    assert paths / interval <= rate * 1.001
    assert interval >= wanted


@given(
    least=st.integers(68, 1500),
    more=st.integers(0, 8000),
    truth=st.integers(0, 10_000),
    guess=st.integers(0, 10_000),
)
def test_the_search_finds_the_largest_size_that_goes_through(
    least: int, more: int, truth: int, guess: int
) -> None:
    most = least + more
    trying, sent = mtu.Trying(least, most, guess), 0
    while trying.size is not None:
        assert least <= trying.size <= most
        sent += 1
        if trying.size <= truth:
            trying.through()
        else:
            trying.lost(surely=True)
    assert trying.result == (0 if truth < least else min(truth, most))
    assert sent <= 18


def test_an_mtu_that_stays_is_confirmed_with_two_sizes() -> None:
    trying = mtu.Trying(576, 1500, 1446)
    trying.through()
    assert trying.size == 1447
    for _ in range(mtu.TRIES):
        assert trying.result is None
        trying.lost()
    assert trying.result == 1446
