"""Sets of indices as intervals: the same answers as Python's own sets give."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netspace.ranges import Ranges

SETS = st.sets(st.integers(0, 60), max_size=40)


def spread(members: set[int], base: int = 0) -> Ranges:
    """The set as single intervals, in whatever order the set has."""
    return Ranges((base + member, base + member) for member in members)


@given(SETS, SETS)
def test_union_intersection_and_difference_are_those_of_sets(a: set[int], b: set[int]) -> None:
    # Far up, where no array of the indices could be made.
    base = 1 << 100
    mine, theirs = spread(a, base), spread(b, base)
    assert mine | theirs == spread(a | b, base)
    assert mine & theirs == spread(a & b, base)
    assert mine - theirs == spread(a - b, base)
    assert mine.issubset(theirs) == (a <= b)
    assert (mine == theirs) == (a == b)
    assert hash(mine) != hash(theirs) or a == b


@given(SETS)
def test_members_come_in_order_and_are_counted(members: set[int]) -> None:
    ranges = spread(members)
    assert list(ranges) == sorted(members)
    assert ranges.size == len(members)
    assert bool(ranges) == bool(members)
    assert [index for index in range(-2, 63) if index in ranges] == sorted(members)
    if members:
        assert (ranges.first, ranges.last) == (min(members), max(members))


@given(SETS)
def test_intervals_are_disjoint_sorted_and_never_touch(members: set[int]) -> None:
    intervals = spread(members).intervals
    for (_, last), (first, _) in itertools.pairwise(intervals):
        assert last + 1 < first


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 10))))
def test_overlapping_intervals_in_any_order_are_one_set(spans: list[tuple[int, int]]) -> None:
    ranges = Ranges((first, first + length) for first, length in spans)
    members = {n for first, length in spans for n in range(first, first + length + 1)}
    assert ranges == spread(members)


@given(SETS, st.integers(0, 45))
def test_head_and_tail_are_the_lowest_and_the_highest(members: set[int], count: int) -> None:
    ranges, ordered = spread(members), sorted(members)
    assert list(ranges.head(count)) == ordered[:count]
    assert list(ranges.tail(count)) == (ordered[-count:] if count else [])


@given(SETS, st.integers(1, 8))
def test_a_block_is_the_lowest_run_in_one_piece(members: set[int], count: int) -> None:
    runs = [at for at in range(61) if set(range(at, at + count)) <= members]
    block = spread(members).block(count)
    assert list(block) == (list(range(runs[0], runs[0] + count)) if runs else [])


def test_a_whole_ipv6_subnet_costs_what_a_small_one_costs() -> None:
    whole = Ranges(((0, (1 << 64) - 1),))
    left = whole - Ranges.single(1 << 63)
    assert left.size == (1 << 64) - 1
    assert len(left.intervals) == 2
    assert 1 << 63 not in left
    assert left.tail(1).first == (1 << 64) - 1


@pytest.mark.parametrize("interval", [(-1, 0), (3, 2)])
def test_what_is_no_interval_is_refused(interval: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="is not an interval"):
        Ranges((interval,))


def test_only_numbers_can_be_members() -> None:
    assert "1" not in Ranges.single(1)
    assert Ranges.single(1) != {1}
    with pytest.raises(IndexError):
        _ = Ranges().first
