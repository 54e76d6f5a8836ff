"""The queues of a pool's free slots against a plain set and a plain sorted list."""

from __future__ import annotations

import random
import time

from hypothesis import given
from hypothesis import strategies as st

from ipam_server.queues import NeverUsed, Order, ReleaseQueue
from netspace.ranges import Ranges

OPERATIONS = st.lists(st.tuples(st.sampled_from(["add", "discard"]), st.integers(0, 40)))
ORDERS = st.tuples(st.integers(1, 6), st.integers(1, 4))
PUTS = st.lists(
    st.tuples(st.sampled_from(["put", "put", "discard", "read"]), st.integers(0, 12), ORDERS)
)


@given(st.sets(st.integers(0, 40)), OPERATIONS)
def test_never_used_slots_are_a_set_that_is_read_from_its_front(
    members: set[int], operations: list[tuple[str, int]]
) -> None:
    never = NeverUsed(Ranges((index, index) for index in members))
    for operation, index in operations:
        getattr(never, operation)(index)
        getattr(members, operation)(index)
        assert never.first() == min(members, default=None)
        assert never.count == len(members)
        assert (index in never) == (index in members)
        # Equal as intervals too: what touches was joined.
        assert never.ranges() == Ranges((member, member) for member in members)


@given(PUTS)
def test_released_slots_come_by_revision_then_sequence(
    operations: list[tuple[str, int, Order]],
) -> None:
    queue = ReleaseQueue()
    orders: dict[int, Order] = {}
    for operation, index, order in operations:
        if operation == "put" and order not in orders.values():
            queue.put(index, order)
            orders[index] = order
        elif operation == "discard":
            queue.discard(index)
            orders.pop(index, None)
        elif operation == "read":
            assert queue.longest() == min(orders, key=orders.__getitem__, default=None)
            assert queue.last() == max(orders, key=orders.__getitem__, default=None)
        assert len(queue) == len(orders)
        assert (index in queue) == (index in orders)
    emptied = []
    while (index_out := queue.longest()) is not None:
        emptied.append(index_out)
        queue.discard(index_out)
    assert emptied == sorted(orders, key=orders.__getitem__)


def test_taking_and_giving_back_the_longest_released_does_not_sort_a_large_queue() -> None:
    queue = ReleaseQueue()
    for index in range(200_000):
        queue.put(index, (index + 1, 1))
    began = time.process_time()
    for _ in range(1000):
        index_out = queue.longest()
        assert index_out == 0
        queue.discard(index_out)
        queue.put(index_out, (1, 1))
    # Sorting each time would be minutes.
    assert time.process_time() - began < 2


def test_scattered_slots_leave_a_large_pool_in_the_order_of_their_index_quickly() -> None:
    gone = sorted(random.Random(1).sample(range(1 << 40), 50_000))
    never = NeverUsed(Ranges(((0, (1 << 40) - 1),)))
    began = time.process_time()
    for index in gone:
        never.discard(index)
    assert time.process_time() - began < 2
    assert never.count == (1 << 40) - len(gone)
    assert gone[0] not in never
