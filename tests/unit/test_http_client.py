"""The client: one deadline, failover, and the truth about what may have been carried out.

Servers here are scripts on Unix sockets, so that a connection can end at any byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ipam_server.client import Client
from netspace import messages as m
from netspace.endpoints import Endpoint
from netspace.http_client import HttpClient
from netspace.problems import Problem
from tests.api_double import ALLOCATE, ALLOCATION, ATTACHMENT, RELEASE, RELEASED, serving

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Server:
    """A scripted server. `requests` are the heads it has read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"unix://{path}"
        self.requests: list[bytes] = []
        self.connections = 0


@contextlib.asynccontextmanager
async def scripted(path: Path, *steps: bytes | float | None) -> AsyncIterator[Server]:
    """For each request in turn: bytes are the answer, a number the seconds until the connection is
    closed without one, None closes at once. The last step stays. An answer that is not whole is
    followed by closing."""
    server = Server(path)
    todo = list(steps)

    tasks: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            server.requests.append(head)
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    await reader.readexactly(int(line.split(b":")[1]))
            step = todo.pop(0) if len(todo) > 1 else todo[0]
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
                if b"\r\n\r\n" in step and b"close" not in step:
                    continue
            elif step:
                await asyncio.sleep(step)
            return

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(
            asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError
        ):
            await converse(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    listener = await asyncio.start_unix_server(serve, path)
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def problem(code: str, **more: Any) -> bytes:
    found = Problem(code, f"it is {code}", **more)
    body = found.encode()
    return (
        f"HTTP/1.1 {found.kind.status} X\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


CUT = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 500\r\n\r\n{"


async def refused(awaitable: Awaitable[Any]) -> Problem:
    with pytest.raises(Problem) as caught:
        await awaitable
    return caught.value


async def ask(
    servers: list[str], method: str = "POST", *, repeat: bool = False, timeout: float = 5
) -> bytes:
    client = HttpClient(servers, timeout)
    try:
        return await client.request(method, "/v1/x", b"{}" * (method == "POST"), repeat=repeat)
    finally:
        await client.close()


def test_nobody_listening_is_unavailable_and_names_every_endpoint(tmp_path: Path) -> None:
    async def run() -> None:
        (tmp_path / "file").write_text("")
        urls = [f"unix://{tmp_path}/none", f"unix://{tmp_path}/file", "http://127.0.0.1:1"]
        urls.append("http://no..name:1")
        found = await refused(ask(urls))
        assert found.code == "unavailable"
        assert found.again
        assert all(url in found.detail for url in urls)

    asyncio.run(run())


def test_a_dead_endpoint_is_passed_over_and_the_live_one_remembered(tmp_path: Path) -> None:
    async def run() -> None:
        async with scripted(tmp_path / "live", OK) as live:
            client = HttpClient([f"unix://{tmp_path}/dead", live.url])
            for _ in range(3):
                assert await client.request("GET", "/v1/x") == b"{}"
            await client.close()
            assert len(live.requests) == 3
            assert live.connections == 1

    asyncio.run(run())


@pytest.mark.parametrize("code", ["not-leader", "busy", "state-unavailable", "unavailable"])
def test_a_server_that_cannot_answer_is_passed_over_for_every_request(
    tmp_path: Path, code: str
) -> None:
    async def run() -> None:
        async with (
            scripted(tmp_path / "a", problem(code)) as first,
            scripted(tmp_path / "b", OK) as second,
        ):
            assert await ask([first.url, second.url]) == b"{}"
            found = await refused(ask([first.url, first.url]))
            assert found.code == code

    asyncio.run(run())


@pytest.mark.parametrize("code", ["pool-cooling", "pool-exhausted", "not-found", "internal"])
def test_a_problem_of_the_request_is_the_answer(tmp_path: Path, code: str) -> None:
    async def run() -> None:
        async with (
            scripted(tmp_path / "a", problem(code, do="so", retry_after=2.5)) as first,
            scripted(tmp_path / "b", OK) as second,
        ):
            found = await refused(ask([first.url, second.url], repeat=True))
            assert (found.code, found.do, found.retry_after) == (code, "so", 2.5)
            assert second.requests == []

    asyncio.run(run())


@pytest.mark.parametrize(
    "step", [None, CUT, b"HTTP/1.1 200 O", b"nonsense close\r\n\r\n", b"\x15\x03"]
)
def test_a_change_whose_answer_was_lost_is_never_sent_again(
    tmp_path: Path, step: bytes | None
) -> None:
    async def run() -> None:
        async with (
            scripted(tmp_path / "a", step) as first,
            scripted(tmp_path / "b", OK) as second,
        ):
            found = await refused(ask([first.url, second.url]))
            assert found.code == "outcome-unknown"
            assert len(first.requests) == 1
            assert second.requests == []

    asyncio.run(run())


@pytest.mark.parametrize("step", [None, CUT, b"nonsense close\r\n\r\n"])
def test_what_may_be_repeated_goes_to_the_next_server(tmp_path: Path, step: bytes | None) -> None:
    async def run() -> None:
        async with (
            scripted(tmp_path / "a", step) as first,
            scripted(tmp_path / "b", OK) as second,
        ):
            assert await ask([first.url, second.url], repeat=True) == b"{}"
            assert await ask([first.url, second.url], "GET") == b"{}"

    asyncio.run(run())


def test_what_may_be_repeated_is_sent_once_more_to_the_only_server(tmp_path: Path) -> None:
    async def run() -> None:
        async with scripted(tmp_path / "a", None, OK) as only:
            assert await ask([only.url], repeat=True) == b"{}"
            assert len(only.requests) == 2

    asyncio.run(run())


def test_a_lost_answer_stays_unknown_whatever_the_next_server_says(tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            scripted(tmp_path / "a", None) as first,
            scripted(tmp_path / "b", problem("not-leader")) as second,
        ):
            found = await refused(ask([first.url, second.url], repeat=True))
            assert found.code == "outcome-unknown"

    asyncio.run(run())


def test_a_server_that_does_not_know_the_outcome_is_asked_again_if_that_is_harmless(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        lost = problem("outcome-unknown")
        async with scripted(tmp_path / "a", lost, OK) as server:
            assert await ask([server.url], repeat=True) == b"{}"
        async with scripted(tmp_path / "b", lost, OK) as server:
            assert (await refused(ask([server.url]))).code == "outcome-unknown"
            assert len(server.requests) == 1

    asyncio.run(run())


def test_reading_from_a_server_that_falls_silent_is_unavailable(tmp_path: Path) -> None:
    async def run() -> None:
        async with scripted(tmp_path / "a", None) as server:
            assert (await refused(ask([server.url], "GET"))).code == "unavailable"

    asyncio.run(run())


@pytest.mark.parametrize("repeat", [False, True])
def test_a_slow_server_ends_with_the_deadline(tmp_path: Path, repeat: bool) -> None:
    async def run() -> None:
        async with scripted(tmp_path / "a", 30.0) as server:
            started = time.monotonic()
            found = await refused(ask([server.url], repeat=repeat, timeout=0.3))
            assert found.code == "outcome-unknown"
            assert time.monotonic() - started < 15
            assert len(server.requests) == 1

    asyncio.run(run())


def test_a_hung_server_leaves_time_for_the_next_one(tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            scripted(tmp_path / "a", 30.0) as hung,
            scripted(tmp_path / "b", OK) as good,
        ):
            assert await ask([hung.url, good.url], repeat=True, timeout=6) == b"{}"

    asyncio.run(run())


def test_an_idle_connection_that_the_server_closed_is_not_used(tmp_path: Path) -> None:
    async def run() -> None:
        closing = OK.replace(b"\r\n\r\n", b"\r\nX: close\r\n\r\n")
        async with scripted(tmp_path / "a", closing) as server:
            client = HttpClient([server.url])
            for _ in range(3):
                assert await client.request("GET", "/v1/x") == b"{}"
                await asyncio.sleep(0.02)
            await client.close()
            assert len(server.requests) == server.connections == 3

    asyncio.run(run())


def test_a_change_that_must_not_be_repeated_has_a_connection_of_its_own(tmp_path: Path) -> None:
    async def run() -> None:
        async with scripted(tmp_path / "a", OK) as server:
            client = HttpClient([server.url])
            await client.request("GET", "/v1/x")
            await client.request("POST", "/v1/x", b"{}")
            await client.close()
            assert server.connections == 2

    asyncio.run(run())


def test_requests_at_once_share_a_client(tmp_path: Path) -> None:
    async def run() -> None:
        async with scripted(tmp_path / "a", OK) as server:
            client = HttpClient([server.url])
            got = await asyncio.gather(*(client.request("GET", "/v1/x") for _ in range(40)))
            await client.close()
            assert got == [b"{}"] * 40
            assert len(server.requests) == 40

    asyncio.run(run())


def test_a_cancelled_request_closes_its_connection(tmp_path: Path) -> None:
    async def run() -> None:
        async with scripted(tmp_path / "a", 30.0, OK) as server:
            client = HttpClient([server.url])
            task = asyncio.create_task(client.request("GET", "/v1/x"))
            while not server.requests:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await client.request("GET", "/v1/x") == b"{}"
            await client.close()

    asyncio.run(run())


def test_an_answer_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netspace.http_client.MAX_ANSWER", 1000)

    async def run() -> None:
        big = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b" " * 5000
        async with scripted(tmp_path / "a", big) as server:
            found = await refused(ask([server.url], "GET"))
            assert "larger" in found.detail

    asyncio.run(run())


@pytest.mark.parametrize(
    "url", ["", "unix://", "unix:///", "/run/a", "http://h", "ftp://h:1", "http://h:1/v1"]
)
def test_what_is_no_endpoint_is_refused_at_once(url: str) -> None:
    with pytest.raises(Problem, match="endpoint"):
        HttpClient([url])


def test_loading_the_client_loads_no_server_and_no_models() -> None:
    """A node pays for what is imported with every pod."""
    code = "import sys, ipam_server.client; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = {"pydantic", "grpc", "pyetcd", "statestore", "yaml", "prometheus_client"}
    assert not heavy & set(done.stdout.split())


def test_no_endpoint_at_all_is_refused() -> None:
    with pytest.raises(Problem, match="none"):
        HttpClient([])


def test_an_ipv6_address_is_named_in_brackets() -> None:
    endpoint = Endpoint.parse("http://[::1]:8470")
    assert (endpoint.host, endpoint.port, endpoint.authority) == ("::1", 8470, "[::1]:8470")
    assert endpoint.local


# The typed client over the real HTTP server


def test_messages_go_out_and_come_back(tmp_path: Path) -> None:
    async def run() -> None:
        answers: dict[str, Any] = {
            "allocate": ALLOCATION,
            "release": RELEASED,
            "held": ALLOCATION,
            "delete_pool": None,
            "pools": [],
            "addresses": m.AddressPage(items=[], next="n"),
            "address": Problem("not-found", "no such address"),
        }
        async with (
            serving(tmp_path, answers) as api,
            Client([f"unix://{api.socket}"]) as client,
        ):
            assert await client.allocate("east", ALLOCATE) == ALLOCATION
            assert await client.release("east", RELEASE) == RELEASED
            odd = m.AttachmentId(container="c0ffee", ifname="a%2?#b")
            assert await client.held("east", odd) == ALLOCATION
            assert await client.pools("east") == []
            await client.delete_pool("east", "a", "kubernetes")
            page = await client.addresses("east", pool="a", after="x/y&z")
            assert page.next == "n"
            found = await refused(client.address("east", "fd00::1", "blue"))
            assert found.code == "not-found"
            calls = [call for call in api.double.calls if call[0] != "cluster"]
            assert calls[0] == ("allocate", ALLOCATE)
            assert calls[2] == ("held", odd)
            assert calls[4] == ("delete_pool", "a", "kubernetes")
            assert calls[5][3] == "x/y&z"
            assert calls[6] == ("address", "fd00::1", "blue")

    asyncio.run(run())


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_name_another_thing_never_leaves(tmp_path: Path, name: str) -> None:
    async def run() -> None:
        async with Client([f"unix://{tmp_path}/none"]) as client:
            assert (await refused(client.delete_pool("east", name))).code == "invalid"

    asyncio.run(run())


def test_nodes_requests_are_repeated_and_admins_are_not(tmp_path: Path) -> None:
    async def run() -> None:
        async with scripted(tmp_path / "a", None) as server, Client([server.url], 2) as client:
            resize = m.ResizePool(size="5")
            held = client.held("east", ATTACHMENT)
            for awaitable, sent in (
                (client.allocate("east", ALLOCATE), 2),
                (client.release("east", RELEASE), 2),
                (client.report_node("east", "n1", m.NodeReport(version="1")), 2),
                (client.grow_pool("east", "a", resize), 1),
                (client.create_pool("east", m.NewPool(name="a", kind="default", network="n")), 1),
                (client.delete_pool("east", "a"), 1),
            ):
                server.requests.clear()
                assert (await refused(awaitable)).code == "outcome-unknown"
                assert len(server.requests) == sent
            assert (await refused(held)).code == "unavailable"

    asyncio.run(run())


def test_an_answer_that_is_no_such_message_is_a_problem(tmp_path: Path) -> None:
    async def run() -> None:
        async with scripted(tmp_path / "a", OK) as server, Client([server.url]) as client:
            assert (await refused(client.status())).code == "internal"

    asyncio.run(run())
