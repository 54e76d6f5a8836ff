"""A server over a real etcd, without HTTP: opened, asked, and compared with what etcd holds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

import msgspec

from ipam_server.directory import Directory
from ipam_server.keys import Keys, SlotId, slot_id
from ipam_server.records import Holder, slot_of
from ipam_server.service import ClusterService
from ipam_server.state import ClusterState
from ipam_server.term import Limits, Term
from lab.etcd import Etcd
from netspace.messages import Allocation, NewCluster, NewNetwork, NewPool
from netspace.problems import Problem
from statestore import Event, Put, Store, Txn
from statestore.leases import Lease
from tests.unit.cluster_world import ask, summary

T = TypeVar("T")

__all__ = ["ask"]


@contextlib.asynccontextmanager
async def serving(
    *urls: str,
    limits: Limits | None = None,
    ttl: int = 10,
    timeout: float = 5.0,
    server: str = "s1",
) -> AsyncIterator[Directory]:
    """A server as `netspace-server` opens it; no task of it is left afterwards."""
    before = asyncio.all_tasks()
    async with Store(urls, timeout=timeout) as store:
        directory = await Directory.open(store, server, ttl, limits or Limits(timeout=5.0))
        try:
            yield directory
        finally:
            await directory.close()
    # Where another server is open as well, its tasks come and go.
    if not any(task.get_name() == "catalogue" for task in before):
        async with asyncio.timeout(10):
            while _left(before):
                await asyncio.sleep(0.01)


def _left(before: set[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    """The tasks begun since; a proxy's end with their connections, etcd's streams a bit later."""
    return [task for task in asyncio.all_tasks() - before if "Proxy" not in repr(task)]


async def make(
    directory: Directory,
    name: str = "blue",
    ipv4: str | None = "10.0.0.0/16",
    ipv6: str | None = "fd00::/64",
    size: int = 1000,
    cooldown: float = 0,
) -> ClusterService:
    """A cluster with network `red` and its default pool `main`."""
    await directory.create_cluster(NewCluster(name=name))
    service = directory.cluster(name)
    await service.wait_until_leading()
    await service.create_network(NewNetwork(name="red", vlan=910, ipv4=ipv4, ipv6=ipv6))
    await service.create_pool(
        NewPool(name="main", kind="default", network="red", size=str(size), cooldown=cooldown)
    )
    return service


def term_of(service: ClusterService) -> Term:
    """The term under way, or the last one."""
    assert service._term is not None
    return service._term


async def find(directory: Directory, name: str = "blue") -> ClusterService:
    """The service of a cluster that exists, once it leads."""
    async with asyncio.timeout(15):
        while True:
            with contextlib.suppress(Problem):
                service = directory.cluster(name)
                await service.wait_until_leading()
                return service
            await asyncio.sleep(0.02)


async def until(what: Callable[[], Awaitable[T | None]], seconds: float = 10.0) -> T:
    """What comes of it once it is true and raises no problem that may go away by itself."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                if answer := await what():
                    return answer
            except Problem as problem:
                if not problem.again:
                    raise
            await asyncio.sleep(0.02)


async def load(store: Store, name: str) -> ClusterState:
    """A cluster's state as it stands in etcd, read in pages."""
    state = ClusterState(name)
    async with contextlib.aclosing(store.pages(state.keys.prefix)) as pages:
        async for page in pages:
            revision = page.revision
            events = [
                Event("put", kv.key, kv.value, kv.create_revision, kv.mod_revision)
                for kv in page.items
            ]
            state.apply(revision, events, more=True)
    state.apply(revision, ())
    return state


async def put_all(store: Store, items: Iterable[tuple[bytes, bytes]]) -> None:
    """Writes the keys, a hundred in a transaction."""
    puts = [Put(key, value) for key, value in items]
    for at in range(0, len(puts), 100):
        await store.txn(Txn(then=tuple(puts[at : at + 100])))


async def renewed(lease: Lease) -> None:
    """Returns once etcd has let a lease live on from now."""
    until = lease._until
    async with asyncio.timeout(lease.ttl):
        while lease._until == until:
            await asyncio.sleep(0.05)


def lease_of(etcd: Etcd, key: bytes) -> str:
    """The lease a key hangs on."""
    kv = etcd.request("kv/range", {"key": msgspec.json.encode(key).decode().strip('"')})
    return str(kv["kvs"][0]["lease"])


async def holders(store: Store, cluster: str = "blue") -> dict[SlotId, tuple[Holder, int]]:
    """Who holds what in etcd, and since which revision. Every holder has exactly one attachment,
    and every attachment its holder; nothing is held and released at once."""
    keys = Keys(cluster)
    held: dict[SlotId, tuple[Holder, int]] = {}
    released: set[SlotId] = set()
    attachments: dict[tuple[str, str], SlotId] = {}
    async with contextlib.aclosing(store.pages(keys.prefix)) as pages:
        async for page in pages:
            for kv in page.items:
                kind, names = keys.parse(kv.key)
                if kind == "slots":
                    holder = msgspec.json.decode(kv.value, type=Holder)
                    held[slot_id(names)] = holder, kv.mod_revision
                elif kind == "released":
                    released.add(slot_id(names))
                elif kind == "attachments":
                    attachments[names[0], names[1]] = slot_of(kv.value)
    assert attachments == {h.attachment: slot for slot, (h, _) in held.items() if not h.reserved}
    assert not released & held.keys()
    return held


async def check(store: Store, service: ClusterService, *answers: Allocation) -> None:
    """etcd holds exactly what was answered, and the memory is what a reload gives."""
    held = await holders(store, service.name)
    assert {(a.network.name, int(a.slot)): a.generation for a in answers} == {
        slot: generation for slot, (_, generation) in held.items()
    }
    state = term_of(service).state
    anew = await load(store, service.name)
    anew.revision = state.revision
    for each in (state, anew):
        for pool in each.pools.values():
            each.settle(pool, term_of(service).clock.now())
    assert summary(anew) == summary(state)
