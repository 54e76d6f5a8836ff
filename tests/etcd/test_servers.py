"""Several servers of one etcd: one leads, the others follow, and nobody is turned away."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from functools import partial

import msgspec
import pytest

from ipam_server.client import Client
from lab.etcd import Etcd
from lab.proxy import Proxy
from lab.server import Server, until
from netspace import messages as m
from netspace.batches import MAX_ITEMS, AllocationAnswers, AllocationBatch, opened
from netspace.callers import HEADER, Caller
from netspace.http_client import HttpClient
from netspace.problems import Problem
from statestore import Store
from tests.etcd.service_world import holders
from tests.etcd.service_world import until as _until

Make = Callable[..., Server]


@pytest.fixture
def servers(etcd: Etcd, make_server: Make) -> list[Server]:
    return three(etcd, make_server, leader_ttl=2)


def three(etcd: Etcd, make_server: Make, leader_ttl: int) -> list[Server]:
    """Three servers, of which the first leads cluster east with a network and a pool."""
    first, *others = (
        make_server(etcd.url, name=f"s{number}", leader_ttl=leader_ttl) for number in (1, 2, 3)
    )
    first.start()
    asyncio.run(_declare(first))
    for server in others:
        server.start()
    until(lambda: len(asyncio.run(_status(first)).servers) == 3, "all have registered")
    for server in others:
        until(partial(_follows, server), "it follows")
    return [first, *others]


async def _declare(server: Server) -> None:
    async with Client([server.url]) as client:
        deadline = time.monotonic() + 15
        while True:
            try:
                await client.create_cluster(m.NewCluster(name="east"))
                break
            except Problem as problem:
                if problem.code == "exists":
                    break
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
        await client.create_network("east", m.NewNetwork(name="red", ipv4="10.0.0.0/16"))
        await client.create_pool(
            "east", m.NewPool(name="all", kind="default", network="red", size="60000", cooldown=0)
        )


async def _status(server: Server) -> m.Status:
    async with Client([server.url]) as client:
        return await client.status()


def _follows(server: Server) -> bool:
    try:
        status = asyncio.run(_status(server))
    except Problem:
        return False
    own = [each for each in status.servers if each.endpoint == server.url]
    return bool(own and own[0].clusters) and own[0].clusters[0].pools == 1


def _leader(servers: list[Server]) -> Server | None:
    """The running server that says it leads."""
    for server in servers:
        if server.running:
            for each in asyncio.run(_status(server)).servers:
                if any(cluster.leading for cluster in each.clusters):
                    return next(s for s in servers if s.url == each.endpoint)
    return None


def request(number: int) -> m.AllocateRequest:
    return m.AllocateRequest(
        attachment=m.AttachmentId(container=f"c{number}", ifname="eth0"),
        claim=f"{number:032x}",
        node="node-1",
        pod=m.Pod(namespace="team", name=f"p{number}", uid=f"u{number}"),
    )


def release(number: int, generation: int | None) -> m.ReleaseRequest:
    return m.ReleaseRequest(
        attachment=m.AttachmentId(container=f"c{number}", ifname="eth0"),
        node="node-1",
        claim=f"{number:032x}",
        generation=generation,
    )


def test_a_follower_passes_writes_on_and_answers_reads(etcd: Etcd, make_server: Make) -> None:
    servers = three(etcd, make_server, leader_ttl=10)

    async def run() -> None:
        async with Client([servers[1].url]) as second, Client([servers[2].url]) as third:
            given = await second.allocate("east", request(1))
            assert (await third.allocate("east", request(1))).generation == given.generation
            assert (await third.held("east", request(1).attachment)).ipv4 == given.ipv4
            await third.create_pool(
                "east", m.NewPool(name="web", kind="netspace", network="red", size="4")
            )
            with pytest.raises(Problem) as refused:
                await second.create_pool(
                    "east", m.NewPool(name="web", kind="netspace", network="red", size="4")
                )
            assert refused.value.code == "exists"
            assert (await _until(partial(_found, second, "web"))).size == "4"

            async def heard_of() -> list[m.AddressEntry]:
                return (await third.addresses("east", pod="p1")).items

            (entry,) = await _until(heard_of)
            assert entry.generation == given.generation
            assert (await second.release("east", release(1, given.generation))).released

    asyncio.run(run())

    def told() -> list[m.ServerStatus]:
        return asyncio.run(_status(servers[2])).servers

    def revisions() -> list[int]:
        return [cluster.revision for each in told() for cluster in each.clusters]

    until(lambda: len(revisions()) == 3 and len(set(revisions())) == 1, "nobody lags")
    assert [server.name for server in told()] == ["s1", "s2", "s3"]
    assert [server.clusters[0].leading for server in told()] == [True, False, False]


def test_a_request_that_was_passed_on_goes_no_further(servers: list[Server]) -> None:
    async def run() -> None:
        from netspace.http_client import HttpClient

        client = HttpClient([servers[1].url])
        try:
            with pytest.raises(Problem) as refused:
                await client.request(
                    "DELETE",
                    "/v1/clusters/east/pools/all",
                    headers=[("Netspace-Passed-On", "s3")],
                )
            assert refused.value.code == "not-leader"
        finally:
            await client.close()

    asyncio.run(run())


class Load:
    """Clients that know all servers, allocate and release, and count what fails."""

    def __init__(self, servers: list[Server]) -> None:
        self.urls = [server.url for server in servers]
        self.failures: list[str] = []
        self.done = 0
        self.held: dict[int, str] = {}
        self.longest = 0.0

    async def run(self, clients: int, until: Callable[[], bool]) -> None:
        await asyncio.gather(
            *(self._client(number, until) for number in range(clients)),
            *(self._batches(clients + number, until) for number in range(2)),
        )

    async def _batches(self, number: int, over: Callable[[], bool]) -> None:
        """The same by 20 at once."""
        first = number * 100_000
        async with Client(self.urls, 30) as client:
            while not over():
                first += 20
                many = range(first, first + 20)
                began = time.monotonic()
                try:
                    given = await client.allocate_batch("east", [request(one) for one in many])
                    freed = await client.release_batch("east", [release(one, None) for one in many])
                except Problem as problem:
                    given, freed = [problem], []
                self.failures += [
                    f"{each.code}: {each}" for each in (*given, *freed) if isinstance(each, Problem)
                ]
                self.done += len(freed)
                self.longest = max(self.longest, (time.monotonic() - began) / 2)

    async def _client(self, number: int, over: Callable[[], bool]) -> None:
        turn = 0
        urls = self.urls[number % 3 :] + self.urls[: number % 3]
        async with Client(urls, 30) as client:
            while not over():
                turn += 1
                one = number * 100_000 + turn
                began = time.monotonic()
                try:
                    given = await client.allocate("east", request(one))
                    self.held[one] = given.slot
                    if turn % 2:
                        await client.release("east", release(one, given.generation))
                        del self.held[one]
                    self.done += 1
                except Problem as problem:
                    self.failures.append(f"{problem.code}: {problem}")
                    self.held.pop(one, None)
                self.longest = max(self.longest, time.monotonic() - began)


@pytest.mark.parametrize(
    ("number", "leader_ttl", "longest"),
    [(signal.SIGTERM, 30, 15), (signal.SIGKILL, 2, 25)],
    ids=["SIGTERM", "SIGKILL"],
)
def test_no_request_fails_when_the_leader_goes(
    etcd: Etcd, make_server: Make, number: int, leader_ttl: int, longest: float
) -> None:
    """Told to go it leaves its place at once; killed, another one waits for its lease."""
    servers = three(etcd, make_server, leader_ttl)
    load = Load(servers)

    async def run() -> None:
        stop = time.monotonic() + 4
        going = asyncio.create_task(load.run(8, lambda: time.monotonic() > stop))
        await asyncio.sleep(1)
        assert servers[0].process is not None
        servers[0].process.send_signal(number)
        await going

    asyncio.run(run())
    assert not load.failures
    assert load.done > 100
    assert load.longest < longest
    assert servers[0].process is not None
    servers[0].process.wait(10)

    until(lambda: _leader(servers[1:]) is not None, "another leads")
    leader = _leader(servers[1:])
    assert leader is not None

    async def check() -> None:
        async with Client([leader.url]) as client:
            found: dict[str, str] = {}
            after = None
            while True:
                page = await client.addresses("east", state="used", limit=1000, after=after)
                found |= {str(entry.container): entry.slot for entry in page.items}
                after = page.next
                if after is None:
                    break
            assert found == {f"c{one}": slot for one, slot in load.held.items()}

    asyncio.run(check())


def test_a_follower_passes_a_batch_on_whole_in_the_callers_name(servers: list[Server]) -> None:
    async def run() -> None:
        node = Caller("node", "east", "node-1")
        items = [request(1), msgspec.structs.replace(request(2), node="node-2"), request(3)]
        batch = msgspec.json.encode(AllocationBatch(items=items))
        async with Client([servers[2].url]) as third:
            client = HttpClient([servers[1].url])
            try:
                got = await client.request(
                    "POST",
                    "/v1/clusters/east/allocation-batches",
                    batch,
                    headers=[(HEADER, node.encode())],
                )
            finally:
                await client.close()
            answers = opened(msgspec.json.decode(got, type=AllocationAnswers).items, m.Allocation)
            one, refused, three = answers
            assert isinstance(refused, Problem)
            assert refused.code == "forbidden"
            assert isinstance(one, m.Allocation)
            assert isinstance(three, m.Allocation)
            asked = [release(1, one.generation), release(3, three.generation)]
            freed = await third.release_batch("east", asked)
            assert freed == [m.Released(released=True, why="released")] * 2

    asyncio.run(run())


def test_a_leader_change_in_mid_batch_gives_no_item_twice_and_loses_none(
    etcd: Etcd, make_server: Make
) -> None:
    """The leader is slow to reach etcd, and is killed when a part of the batch is committed."""

    async def run() -> None:
        async with Proxy(etcd.host, etcd.client_port) as proxy, Store([etcd.url]) as store:
            first = make_server(proxy.url, name="s1", leader_ttl=3).start()
            await _declare(first)
            second = make_server(etcd.url, name="s2", leader_ttl=3).start()
            await _until(partial(_knows, second))
            asked = [request(number) for number in range(MAX_ITEMS)]
            proxy.delay = 0.15
            async with Client([first.url], 5) as old, Client([second.url], 5) as new:
                batch = asyncio.create_task(old.allocate_batch("east", asked))
                async with asyncio.timeout(10):
                    while not await holders(store, "east"):
                        await asyncio.sleep(0.01)
                assert first.end(signal.SIGKILL) == -signal.SIGKILL
                with pytest.raises(Problem) as unknown:
                    await batch
                assert unknown.value.code == "outcome-unknown"
                proxy.cut()
                earlier = {
                    holder.container: (str(index), revision)
                    for (_, index), (holder, revision) in (await holders(store, "east")).items()
                }
                assert 0 < len(earlier) < MAX_ITEMS, "it was in the middle"

                async def repeated() -> list[m.Allocation] | None:
                    found = await new.allocate_batch("east", asked)
                    given = [each for each in found if isinstance(each, m.Allocation)]
                    return given if len(given) == MAX_ITEMS else None

                given = await _until(repeated, 20) or []
            assert len({each.slot for each in given}) == MAX_ITEMS
            for one, answer in zip(asked, given, strict=True):
                now = answer.slot, answer.generation
                assert earlier.get(one.attachment.container, now) == now
            stored = await holders(store, "east")
            assert {
                (holder.container, str(index), revision)
                for (_, index), (holder, revision) in stored.items()
            } == {
                (one.attachment.container, answer.slot, answer.generation)
                for one, answer in zip(asked, given, strict=True)
            }

    asyncio.run(run())


async def _found(client: Client, pool: str) -> m.Pool | None:
    """A pool, once the server asked has heard of it."""
    try:
        return await client.pool("east", pool)
    except Problem as problem:
        if problem.code != "not-found":
            raise
        return None


async def _knows(server: Server) -> bool:
    """Whether the server has read the pool."""
    async with Client([server.url]) as client:
        return bool(await client.pools("east"))


def test_a_server_that_comes_back_follows(servers: list[Server]) -> None:
    assert servers[0].end() == 0
    until(lambda: _leader(servers) is not None, "another leads")
    servers[0].start()
    until(lambda: _follows(servers[0]), "it follows")
    leader = _leader(servers)
    assert leader is not None
    assert leader is not servers[0]


def test_a_leader_that_stood_still_for_longer_than_its_lease_loses_only_its_leadership(
    servers: list[Server],
) -> None:
    stalled, other, _ = servers

    async def give(server: Server, *numbers: int) -> list[m.Allocation]:
        async with Client([server.url], 10) as client:
            return [await client.allocate("east", request(number)) for number in numbers]

    before = asyncio.run(give(stalled, 1, 2, 3))
    assert stalled.process is not None
    stalled.process.send_signal(signal.SIGSTOP)
    try:
        until(lambda: _leader(servers[1:]) is not None, "another leads")
        (between,) = asyncio.run(give(other, 4))
    finally:
        stalled.process.send_signal(signal.SIGCONT)
    # What it had given is its pods' still, it gives nothing twice, and it goes on as a follower.
    again = asyncio.run(give(stalled, 1, 2, 3, 4, 5))
    assert [answer.generation for answer in again[:4]] == [
        *(answer.generation for answer in before),
        between.generation,
    ]
    assert len({answer.slot for answer in again}) == 5
    until(lambda: _follows(stalled), "it follows")
    assert stalled.running
    assert not [line for line in stalled.log if line["level"] in ("error", "critical")]


def test_a_server_alone_that_stood_still_leads_again_by_itself(
    etcd: Etcd, make_server: Make
) -> None:
    server = make_server(etcd.url, leader_ttl=2).start()
    asyncio.run(_declare(server))

    async def give(number: int) -> m.Allocation:
        async with Client([server.url], 10) as client:
            return await client.allocate("east", request(number))

    before = asyncio.run(give(1))
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    server.process.send_signal(signal.SIGCONT)

    def served() -> bool:
        try:
            return asyncio.run(give(2)).slot != before.slot
        except Problem as problem:
            assert problem.again, problem
            return False

    until(served, "it gives addresses again")
    assert asyncio.run(give(1)).generation == before.generation
    assert server.running
