"""A set of indices in order, against Python's own."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam_server import indices
from ipam_server.indices import SortedIndices

CHANGES = st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=200)


@given(changes=CHANGES, start=st.integers(-1, 61))
def test_it_has_what_was_added_and_not_taken_out_in_order(
    changes: list[tuple[bool, int]], start: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indices, "ROOM", 4)
        found, model = SortedIndices(), set[int]()
        for adds, index in changes:
            (found.add if adds else found.discard)(index)
            (model.add if adds else model.discard)(index)
        assert list(found.after(start)) == sorted(index for index in model if index > start)
        assert len(found) == len(model)


def test_the_next_ones_cost_the_same_however_many_there_are() -> None:
    def seconds(size: int) -> float:
        known = SortedIndices()
        for index in range(size):
            known.add(index * 2)
        began = time.process_time()
        for start in range(0, 2 * size, size // 100):
            behind = known.after(start)
            assert next(behind, start + 1) > start
            known.add(start + 1)
            known.discard(start + 1)
        return time.process_time() - began

    assert seconds(300_000) < 10 * seconds(3000) + 0.01
