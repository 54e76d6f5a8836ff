"""How far a page of keys is asked for: about as far as the last one reached, never back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statestore.reads import ahead

NUMBERS = st.integers(min_value=0, max_value=16**8 - 1)


def key(number: int) -> bytes:
    return b"/slots/blue/%08x" % number


def test_as_far_as_the_last_page_reached_and_a_quarter_more() -> None:
    assert ahead(key(100), key(500), key(500), b"\0") == key(1001)
    assert ahead(key(100), key(500), key(700), b"/slots0") == key(1201)


@given(numbers=st.tuples(NUMBERS, NUMBERS, NUMBERS), end=st.integers(0, 16**8))
def test_always_behind_what_was_read_and_never_behind_the_end(
    numbers: tuple[int, int, int], end: int
) -> None:
    first, last, behind = sorted(numbers)
    until = key(max(end, behind + 1)) if behind < 16**8 - 1 else b"/slots0"
    assert key(behind) < ahead(key(first), key(last), key(behind), until) <= until


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (b"/nodes/x", b"/nodes/y"),
        (b"/slots/blue/00", b"/slots/red/00"),
        (b"/slots/blue/0", b"/slots/blue/00"),
        (b"/slots/blue/0z", b"/slots/blue/00"),
        (b"/slots/blue/fe", b"/slots/blue/ff"),
    ],
    ids=["no number", "two prefixes", "two lengths", "no number at first", "no number is left"],
)
def test_to_the_end_where_the_keys_do_not_tell(first: bytes, last: bytes) -> None:
    assert ahead(first, last, last, b"/z") == b"/z"
