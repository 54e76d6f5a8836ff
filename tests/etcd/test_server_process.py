"""netspace-server as a process, over a real etcd: start, serve, survive, stop."""

from __future__ import annotations

import asyncio
import signal
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ipam_server.client import Client
from lab.etcd import Etcd
from lab.server import HASTY, PATIENCE, Server, until
from netspace import messages as m
from netspace.http_client import HttpClient
from netspace.problems import Problem


def probe(server: Server, target: str) -> str:
    """`ok`, or the code of the problem."""

    async def run() -> str:
        client = HttpClient([server.url], 5)
        try:
            await client.request("GET", target)
        except Problem as problem:
            return problem.code
        finally:
            await client.close()
        return "ok"

    return asyncio.run(run())


def wait_ready(server: Server) -> None:
    until(lambda: probe(server, "/readyz") == "ok", "the server is ready")


async def prepare(client: Client) -> None:
    """A cluster with one network and a default pool."""
    await client.create_cluster(m.NewCluster(name="east"))
    network = m.NewNetwork(
        name="blue", vlan=910, ipv4="10.9.0.0/24", ipv6="fd00:9::/64", gateway4="10.9.0.1"
    )
    await client.create_network("east", network)
    await client.create_pool(
        "east", m.NewPool(name="all", kind="default", network="blue", size="16", cooldown=0)
    )


def request(number: int) -> m.AllocateRequest:
    return m.AllocateRequest(
        attachment=m.AttachmentId(container=f"c{number}", ifname="eth0"),
        claim=f"{number:032x}",
        node="node-1",
        pod=m.Pod(namespace="a", name=f"web-{number}", uid=f"u{number}"),
    )


def release(number: int) -> m.ReleaseRequest:
    wanted = request(number)
    return m.ReleaseRequest(attachment=wanted.attachment, claim=wanted.claim, node="node-1")


def test_a_server_serves_and_ends_leaving_nothing(
    etcd: Etcd, make_server: Callable[..., Server]
) -> None:
    server = make_server(etcd.url).start()
    wait_ready(server)
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o600

    async def use() -> None:
        async with Client([server.url]) as client:
            await prepare(client)
            first = await client.allocate("east", request(1))
            assert (first.ipv4, first.ipv6) == ("10.9.0.2", "fd00:9::2")
            again = await client.allocate("east", request(1))
            assert (again.slot, again.generation, again.how) == (
                first.slot,
                first.generation,
                "repeated",
            )
            assert (await client.held("east", request(1).attachment)).slot == first.slot
            page = await client.addresses("east", state="used")
            assert [entry.pod for entry in page.items] == ["web-1"]
            entry = await client.address("east", "fd00:9::2")
            assert entry.ipv4 == "10.9.0.2"
            reserved = await client.reserve(
                "east", m.Reserve(network="blue", address="10.9.0.77", note="printer")
            )
            assert reserved.state == "reserved"
            await client.unreserve("east", "10.9.0.77", "blue")
            await client.report_node("east", "node-1", m.NodeReport(version="1"))
            assert [node.used for node in await client.nodes("east")] == [1]
            assert (await client.release("east", release(1))).released
            assert not (await client.release("east", release(1))).released
            grown = await client.grow_pool("east", "all", m.ResizePool(size="4"))
            assert grown.size == "20"
            await client.delete_pool("east", "all")
            await client.delete_network("east", "blue")
            await client.delete_cluster("east")
            assert await client.clusters() == []

    asyncio.run(use())
    assert server.end() == 0
    assert not server.socket.exists()
    assert server.said("stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_leadership_is_given_up_at_once_when_the_server_is_told_to_stop(
    etcd: Etcd, make_server: Callable[..., Server], number: int
) -> None:
    first = make_server(etcd.url, leader_ttl=60).start()
    wait_ready(first)

    async def create() -> None:
        async with Client([first.url]) as client:
            await client.create_cluster(m.NewCluster(name="east"))

    asyncio.run(create())
    assert first.end(number) == 0
    second = make_server(etcd.url, leader_ttl=60, name="s2").start()
    wait_ready(second)

    async def led() -> bool:
        async with Client([second.url]) as client:
            (east,) = (await client.status()).clusters
            return east.leader == "s2"

    until(lambda: asyncio.run(led()), "the second server leads, long before 60 s are over")


def test_a_server_waits_for_an_etcd_that_is_away(
    tmp_path: Path, make_server: Callable[..., Server]
) -> None:
    etcd = Etcd(tmp_path / "late")
    server = make_server(etcd.url, etcd={"endpoints": [etcd.url], "timeout": 1}).start()
    until(lambda: server.socket.exists() and server.said("not ready"), "it says what is missing")
    assert probe(server, "/healthz") == "ok"
    assert probe(server, "/readyz") in ("unavailable", "state-unavailable")
    assert probe(server, "/v1/clusters/east/pools") == "state-unavailable"
    try:
        etcd.start()
        wait_ready(server)
        until(lambda: server.said("ready"), "it says that it is ready")
        assert server.end() == 0
    finally:
        etcd.kill()


def test_while_etcd_is_away_allocations_fail_with_the_reason_and_afterwards_all_goes_on(
    etcd: Etcd, make_server: Callable[..., Server]
) -> None:
    hasty = {**HASTY, "etcd": {"endpoints": [etcd.url], "timeout": 1}}
    server = make_server(etcd.url, **hasty).start()
    wait_ready(server)

    async def before() -> str:
        async with Client([server.url]) as client:
            await prepare(client)
            return (await client.allocate("east", request(1))).slot

    async def meanwhile() -> str:
        async with Client([server.url]) as client:
            with pytest.raises(Problem) as caught:
                await client.allocate("east", request(2))
            assert caught.value.again
            return caught.value.code

    async def after() -> list[str]:
        async with Client([server.url]) as client:
            return [(await client.allocate("east", request(n))).slot for n in (1, 2)]

    held = asyncio.run(before())
    etcd.kill()
    assert asyncio.run(meanwhile()) in ("state-unavailable", "not-leader", "outcome-unknown")
    until(lambda: probe(server, "/readyz") != "ok", "it is not ready")
    assert probe(server, "/healthz") == "ok"
    etcd.start()
    wait_ready(server)
    slots = asyncio.run(after())
    assert slots[0] == held
    assert slots[1] != held
    assert server.end() == 0


def test_a_server_ends_while_etcd_is_away(etcd: Etcd, make_server: Callable[..., Server]) -> None:
    server = make_server(etcd.url).start()
    wait_ready(server)
    etcd.kill()
    started = time.monotonic()
    assert server.end() == 0
    assert time.monotonic() - started < 10


def test_a_second_server_on_the_same_socket_says_so_in_one_line(
    shared_etcd: Etcd, make_server: Callable[..., Server]
) -> None:
    first = make_server(shared_etcd.url).start()
    until(lambda: first.socket.exists(), "the first one listens")
    wait_ready(first)
    second = make_server(shared_etcd.url, listen=[first.url]).start()
    assert second.process is not None
    assert second.process.wait(PATIENCE) == 1
    [line] = (second.folder / "log").read_text().splitlines()
    assert line.startswith("netspace-server: cannot listen on unix://")
    assert "another server listens there" in line
    assert probe(first, "/healthz") == "ok"


def test_certificates_that_cannot_be_read_end_the_server_with_the_reason(
    make_server: Callable[..., Server],
) -> None:
    settings = {"endpoints": ["https://127.0.0.1:1"], "tls": {"ca": "/nowhere/ca.pem"}}
    server = make_server("", etcd=settings).start()
    assert server.process is not None
    assert server.process.wait(PATIENCE) == 1
    text = (server.folder / "log").read_text()
    assert "/nowhere/ca.pem" in text
    assert "Traceback" not in text
    assert not server.socket.exists()


def test_loopback_addresses_are_listened_on(
    shared_etcd: Etcd, make_server: Callable[..., Server]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = make_server(shared_etcd.url, listen=[url])
    server.url = url
    server.start()
    wait_ready(server)
    assert server.end() == 0
