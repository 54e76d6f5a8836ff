"""Addresses held, by the hundred thousand: written straight into etcd, as the server writes them.

Every record comes from the server's own rules (`choose`, `allocation`), so that what is measured is
what a server would have stored. Many changes go into one transaction, several of which are under
way at once, from as many processes as are worth it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from itertools import pairwise

from bench import attachments
from ipam_server import networks, pools
from ipam_server.allocator import Choice, choose
from ipam_server.changes import Change, allocation
from ipam_server.keys import Keys, catalogue
from ipam_server.records import ClusterRecord
from ipam_server.state import ClusterState
from lab import programs
from lab.processes import bound
from netspace import messages as m
from statestore import Event, Put, Store, Txn

NETWORK, POOL = "blue", "all"
NESTED, ALLOCATIONS = 12, 50
"""Transactions nested in one, and allocations in each of those: siblings share etcd's allowance of
operations, and together they stay below its limit of bytes."""

AT_ONCE = 4
"""Transactions that one process has under way."""

BIG = m.NewNetwork(name=NETWORK, vlan=910, ipv4="10.0.0.0/8", ipv6="fd00:10::/64")
"""Where a million pods fit, with room for what the benches allocate."""

GIVEN = 1_750_000_000
"""When the addresses were given, for people: Unix seconds."""

UID = "5f0c9a52-0000-4000-8000-000000000000"


def shape(name: str, network: m.NewNetwork = BIG) -> tuple[ClusterState, list[Put]]:
    """A cluster with one default pool over all of a network, and what is stored of it."""
    state = ClusterState(name)
    record = networks.declare(network, UID)
    puts = [Put(state.keys.network(network.name), attachments.encode(record))]
    state.apply(1, [_event(puts[0])])
    size = str(state.networks[network.name].total.size)
    asked = m.NewPool(name=POOL, kind="default", network=network.name, size=size, cooldown=0)
    puts.append(Put(state.keys.pool(POOL), attachments.encode(pools.carve(state, asked, 0))))
    state.apply(2, [_event(puts[1])])
    return state, puts


def change(state: ClusterState, keys: Keys, tag: str, number: int) -> Change:
    """What a server writes for a tag's `number`-th request when all before it were new as well."""
    choice = choose(state, attachments.request(tag, number), 0)
    assert isinstance(choice, Choice)
    network, index = choice.slot
    choice = Choice((network, index + number), choice.holder, choice.how)
    return allocation(keys, choice.stamped(0, GIVEN), 0)


async def cluster(
    url: str, name: str, held: int = 0, tag: str = "f1110000", network: m.NewNetwork = BIG
) -> None:
    """Makes a cluster in etcd that holds this many addresses. Servers hear of it last, so that the
    first one finds it whole."""
    _, puts = shape(name, network)
    async with Store([url]) as store:
        await store.txn(Txn(then=tuple(puts)))
        if held:
            await _fill(url, name, held, tag)
        entry = attachments.encode(ClusterRecord(name=name))
        await store.txn(Txn(then=(Put(catalogue(name), entry),)))


async def _fill(url: str, name: str, held: int, tag: str) -> None:
    parts = min(len(os.sched_getaffinity(0)), 4) if held > 10_000 else 1
    edges = [held * part // parts for part in range(parts + 1)]
    writers = [
        await asyncio.create_subprocess_exec(
            *bound(), sys.executable, "-m", "bench.fill", url, name, tag, str(first), str(end),
            cwd=programs.CLONE,
        )
        for first, end in pairwise(edges)
    ]  # fmt: skip
    try:
        ends = await asyncio.gather(*(writer.wait() for writer in writers))
    finally:
        for writer in writers:
            if writer.returncode is None:
                writer.kill()
                await writer.wait()
    if any(ends):
        raise RuntimeError(f"filling cluster {name} failed")


async def write(url: str, name: str, tag: str, first: int, end: int) -> None:
    """Writes the requests `first` to `end`, the latter not included."""
    work = _transactions(name, tag, first, end)

    async def writer(store: Store) -> None:
        for txn in work:
            await store.txn(txn)

    async with Store([url], timeout=30) as store, asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(writer(store))


def _transactions(name: str, tag: str, first: int, end: int) -> Iterator[Txn]:
    state, _ = shape(name)
    each = NESTED * ALLOCATIONS
    for start in range(first, end, each):
        stop = min(start + each, end)
        yield Txn(
            then=tuple(
                _nested(state, tag, at, min(at + ALLOCATIONS, stop))
                for at in range(start, stop, ALLOCATIONS)
            )
        )


def _nested(state: ClusterState, tag: str, first: int, end: int) -> Txn:
    changes = (change(state, state.keys, tag, number) for number in range(first, end))
    # What they delete is not there.
    return Txn(then=tuple(op for each in changes for op in each.then if isinstance(op, Put)))


def _event(put: Put) -> Event:
    return Event("put", put.key, put.value, 1, 1)


if __name__ == "__main__":
    url, name, tag, first, end = sys.argv[1:]
    asyncio.run(write(url, name, tag, int(first), int(end)))
