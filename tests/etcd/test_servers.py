"""Several servers of one etcd: one leads, the others follow, and nobody is turned away."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from functools import partial

import pytest

from ipam_server.client import Client
from lab.etcd import Etcd
from lab.server import Server, until
from netspace import messages as m
from netspace.problems import Problem

Make = Callable[..., Server]


@pytest.fixture
def servers(etcd: Etcd, make_server: Make) -> list[Server]:
    """Three, of which the first leads cluster east with a network and a pool."""
    first, *others = (make_server(etcd.url, name=f"s{number}") for number in (1, 2, 3))
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
            except Problem:
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


def test_a_follower_passes_writes_on_and_answers_reads(servers: list[Server]) -> None:
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
            await asyncio.sleep(0.2)
            assert (await second.pool("east", "web")).size == "4"
            (entry,) = (await third.addresses("east", pod="p1")).items
            assert entry.generation == given.generation
            assert (await second.release("east", release(1, given.generation))).released

    asyncio.run(run())
    status = asyncio.run(_status(servers[2]))
    assert [server.name for server in status.servers] == ["s1", "s2", "s3"]
    assert [server.clusters[0].leading for server in status.servers] == [True, False, False]
    assert len({server.clusters[0].revision for server in status.servers}) == 1, "nobody lags"


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
        await asyncio.gather(*(self._client(number, until) for number in range(clients)))

    async def _client(self, number: int, over: Callable[[], bool]) -> None:
        turn = 0
        urls = self.urls[number % 3 :] + self.urls[: number % 3]
        async with Client(urls) as client:
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_no_request_fails_when_the_leader_goes(servers: list[Server], number: int) -> None:
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
    assert load.longest < (1 if number == signal.SIGTERM else 4)
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


def test_a_server_that_comes_back_follows(servers: list[Server]) -> None:
    assert servers[0].end() == 0
    until(lambda: _leader(servers) is not None, "another leads")
    servers[0].start()
    until(lambda: _follows(servers[0]), "it follows")
    leader = _leader(servers)
    assert leader is not None
    assert leader is not servers[0]
