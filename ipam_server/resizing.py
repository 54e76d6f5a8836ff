"""What a pool's new ranges mean for its queues: only what comes and goes is looked at, so that a
pool grows by a few addresses without a pause, however many are held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipam_server.records import PoolRecord, ranges_of

if TYPE_CHECKING:
    from ipam_server.inventory import PoolState
    from ipam_server.state import ClusterState


def resize(state: ClusterState, pool: PoolState, record: PoolRecord, revision: int) -> None:
    """Takes over a record that differs in its ranges. What the pool gains leaves the pools that it
    is nested in, and what it loses returns to them; without any it comes from no pool and goes to
    none. Pools that grow at once, one in the other, may come in any order."""
    network = state.networks[record.network]
    pool.record, pool.revision, pool.ranges = record, revision, ranges_of(record)
    gains = []
    for each in (*reversed(state.outer(pool)), pool):
        own = (each.ranges & network.total) - state.nested(each.name)
        lost = each.own - own
        gains.append((each, own - each.own))
        each.own, each.size = own, own.size
        for first, last in lost.intervals:
            each.never.discard_all(first, last)
        for index in network.touched(lost):
            each.used -= index in network.held
            each.depart(index)
    network.own(known for known in state.pools.values() if known.record.network == record.network)
    for each, gained in gains:
        for first, last in gained.intervals:
            each.never.add_all(first, last)
        for index in network.touched(gained):
            each.used += index in network.held
            state.place((record.network, index))
        for slot in (*state.taken, *state.disputed):
            if slot[0] == record.network and slot[1] in gained:
                state.place(slot)
