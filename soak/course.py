"""The course of a soak: everything starts, clients and nemesis run, all is mended, all is released.

Returns the history; what it means is the checker's to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import get_args

from ipam_server.client import Client
from lab.etcd import EtcdError
from netspace.messages import ChangePool, NewCluster
from netspace.problems import Problem
from soak import ground
from soak.admin import Admin
from soak.clients import Worker
from soak.ground import CLUSTER
from soak.history import History, Kind, Look, Setting
from soak.links import CLIENTS as CLIENTS_PLACE
from soak.links import Links, laid
from soak.looking import look
from soak.nemesis import Nemesis
from soak.world import MODULE, World, member_name, server_name, standing
from statestore import Store, StoreError

CLIENTS = 32
WAITING = 12
"""Changes that a server queues: fewer than there are clients, so that it says "busy"."""

RECOVERY = 60.0
"""Seconds in which everything has to work again after the last fault."""

SETTLING = 9.0
"""Seconds in which whatever is under way after the last fault has come to an end: more than a
server lets a request take."""

LOOKING, SAYING = 2.0, 5.0
"""Seconds between two looks at etcd, and between two lines of progress."""

TO_FILL = ("tiny", "db", "team", "rest", "inner", "flex", "kept", "crew")
"""Pools that are filled at the end, to see that each of their addresses can be had; those that grow
by themselves up to their maximum."""

Say = Callable[[str], None]


class Stuck(RuntimeError):
    """The system did not recover; says what was waited for, and what it said last."""


async def run(
    history: History, folder: Path, say: Say, *, module: str = MODULE, faults: bool = True
) -> None:
    """Fills the history. `folder` gets data and logs; `module` is run as the servers. Raises
    `Stuck` and `EtcdError`; what happened until then is in the history."""
    setting = history.setting
    names = [
        *(server_name(number) for number in range(setting.servers)),
        *(member_name(number) for number in range(setting.members)),
        CLIENTS_PLACE,
    ]
    with laid(names) as (links, reason), contextlib.ExitStack() as stack:
        say(f"soak: {where(links, reason)}")
        if links is not None:
            # All that this process asks, and the threads that it starts from now on: an older one,
            # such as gRPC's, would ask the machine's network.
            if (threads := len(list(Path("/proc/self/task").iterdir()))) > 1:
                raise Stuck(f"this process has {threads} threads: a soak needs a fresh one")
            stack.enter_context(links.inside(CLIENTS_PLACE))
        async with standing(
            folder, setting.servers, setting.members, WAITING, module, links
        ) as world:
            async with Client(world.endpoints, 5) as client:
                await _within(RECOVERY, lambda: _prepare(client), "the networks and pools are made")
            await _course(history, world, say, faults)


def where(links: Links | None, reason: str) -> str:
    """Which way it runs, in words; `reason`: why not in namespaces."""
    if links is None:
        return f"on loopback, with proxies ({reason}: no network namespaces)"
    slow = "links are pulled" + (
        " and made slow" if links.slow else "; the proxies delay (no netem)"
    )
    return f"in network namespaces of its own on a bridge; {slow}"


async def _course(history: History, world: World, say: Say, faults: bool) -> None:
    setting = history.setting
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store(world.store_urls, timeout=2))
        workers = [
            await stack.enter_async_context(Worker(number, world.endpoints, history, setting.seed))
            for number in range(CLIENTS)
        ]
        admin = await stack.enter_async_context(
            Admin(CLIENTS, world.endpoints, history, setting.seed)
        )
        everybody: tuple[Worker | Admin, ...] = (*workers, admin)
        stop, calm = asyncio.Event(), asyncio.Event()
        nemesis = Nemesis(world, history, setting.seed, calm)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(_watch(history, world, store, say))
            running = [group.create_task(worker.run(stop)) for worker in everybody]
            haunting = group.create_task(nemesis.run()) if faults else None
            await asyncio.sleep(setting.minutes * 60)
            calm.set()
            if haunting is not None:
                await haunting
            await world.heal()
            if faults:
                await nemesis.mend()
            stop.set()
            await asyncio.wait(running)
            watching.cancel()
        say("soak: no more faults; everything has to come to rest")
        await _recovered(world, workers)
        if faults:
            await asyncio.sleep(SETTLING)
        await _within(RECOVERY, lambda: _inspect(world, store, history), "the state is audited")
        await _settle(everybody)
        await _within(RECOVERY, lambda: look(store, history, last=True), "etcd can be read")
        say("soak: every pool that grew by itself has to give back what it does not need")
        await _within(RECOVERY, lambda: _shrunk(store, history), "all pools are small again")
        say("soak: every address of the small pools has to be there to be given")
        await asyncio.sleep(1 + max(ground.BY_NAME[name].cooldown for name in TO_FILL))
        for name in TO_FILL:
            await workers[0].fill(ground.BY_NAME[name])
        await _settle(workers)
        await _within(RECOVERY, lambda: _inspect(world, store, history), "the state is audited")


async def _prepare(client: Client) -> None:
    """Makes what is not there yet: an attempt before may have come some way."""
    if CLUSTER not in [each.name for each in await client.clusters()]:
        await client.create_cluster(NewCluster(name=CLUSTER))
    networks = {each.name for each in await client.networks(CLUSTER)}
    for network in ground.NETWORKS:
        if network.name not in networks:
            await client.create_network(CLUSTER, network.new)
    pools = {each.name: each for each in await client.pools(CLUSTER)}
    for pool in ground.POOLS:
        if pool.name not in pools:
            await client.create_pool(CLUSTER, pool.new)
        if pool.replicas and (pool.name not in pools or pools[pool.name].replicas is None):
            follow = ChangePool(replicas=ground.REPLICAS, surplus=ground.SURPLUS)
            await client.change_pool(CLUSTER, pool.name, follow)


async def _watch(history: History, world: World, store: Store, say: Say) -> None:
    """Looks at etcd again and again, and says how it goes."""
    began = said = time.monotonic()
    while True:
        with contextlib.suppress(StoreError):
            world.leader = (await look(store, history)).leader
        await asyncio.sleep(LOOKING)
        if time.monotonic() - said >= SAYING:
            said = time.monotonic()
            say(
                f"soak: {said - began:4.0f} s  {len(history.operations)} operations,"
                f" {len(history.faults)} faults, {world.leader or 'nobody'} leads"
            )


async def _recovered(world: World, workers: list[Worker]) -> None:
    """Returns once an address was given and released through every server."""

    async def through(endpoint: str) -> None:
        async with Client([endpoint], 3) as client:
            await client.pools(CLUSTER)

    for endpoint in world.endpoints:
        await _within(RECOVERY, partial(through, endpoint), f"{endpoint} answers")
    deadline = time.monotonic() + RECOVERY
    while not await workers[0].probe():
        if time.monotonic() > deadline:
            raise Stuck(f"no address was given within {RECOVERY:.0f} s after the last fault")
        await asyncio.sleep(0.2)


async def _inspect(world: World, store: Store, history: History) -> Look:
    """A look with what the servers' audit of the whole state finds, as `netspacectl audit` does."""
    async with Client(world.endpoints, 20) as client:
        found = await client.inspect(CLUSTER)
    findings = tuple(
        f"{each.code}: {each.what} ({', '.join(each.keys)})" for each in found.findings
    )
    return await look(store, history, findings=findings)


async def _shrunk(store: Store, history: History) -> None:
    """Raises `Stuck` where a pool is larger than it need be with nothing in use."""
    seen = await look(store, history)
    for stored in seen.pools:
        pool = ground.BY_NAME[stored.name]
        if pool.elastic is None and not pool.replicas:
            continue
        wanted = max(stored.needs, pool.minimum)
        if stored.size > wanted:
            raise Stuck(f"pool {stored.name} has {stored.size} addresses still, not {wanted}")


async def _settle(workers: Sequence[Worker | Admin]) -> None:
    try:
        async with asyncio.timeout(RECOVERY), asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker.settle())
    except TimeoutError:
        clients = [worker for worker in workers if isinstance(worker, Worker)]
        owed = sum(len(each.owed) for each in clients)
        lost = sum(len(each.lost) for each in clients)
        raise Stuck(
            f"{owed} releases were not acknowledged and {lost} pods that were lost not reclaimed"
            f" within {RECOVERY:.0f} s"
        ) from None


async def _within(seconds: float, attempt: Callable[[], Awaitable[object]], what: str) -> None:
    """Tries until it raises nothing that may pass."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            await attempt()
            return
        except (Problem, StoreError, EtcdError, Stuck) as error:
            if time.monotonic() > deadline:
                raise Stuck(f"waited in vain for {seconds:.0f} s until {what}: {error}") from error
        await asyncio.sleep(0.2)


def counts(history: History) -> list[str]:
    """What was asked, how it ended, and what went wrong meanwhile, in lines."""
    outcomes = Counter((each.kind, each.outcome) for each in history.operations)
    lines = []
    for kind in get_args(Kind):
        parts = [
            f"{outcomes[kind, outcome]} {outcome}"
            for outcome in ("ok", "refused", "failed", "unknown")
            if outcomes[kind, outcome]
        ]
        lines.append(f"  {kind:<9} {', '.join(parts)}")
    ways = Counter(
        each.answer.how for each in history.operations if each.answer and each.kind == "allocate"
    )
    lines.append("  given     " + ", ".join(f"{n} {how}" for how, n in ways.most_common()))
    codes = Counter(each.code for each in history.operations if each.code)
    lines.append("  problems  " + ", ".join(f"{n} {code}" for code, n in codes.most_common()))
    faults = Counter(fault.what.partition(":")[0] for fault in history.faults)
    lines.append("  faults    " + ", ".join(f"{n} {what}" for what, n in faults.most_common()))
    sizes: dict[str, set[int]] = defaultdict(set)
    for seen in history.looks:
        for pool in seen.pools:
            sizes[pool.name].add(pool.size)
    moved = [
        f"{name} {min(each)} to {max(each)}"
        for name, each in sorted(sizes.items())
        if len(each) > 1
    ]
    lines.append("  pools     " + ", ".join(moved))
    reclaimed = sum(len(each.freed) for each in history.operations)
    lines.append(f"  reclaimed {reclaimed} by a word of the admin")
    leaders = [each.leader for each in history.looks if each.leader]
    changes = sum(one != two for one, two in pairwise(leaders))
    lines.append(f"  leaders   {changes} changes seen in {len(history.looks)} looks at etcd")
    return lines


def new_history(seed: int, minutes: float, servers: int = 3, members: int = 3) -> History:
    return History(Setting(seed=seed, servers=servers, members=members, minutes=minutes))
