"""The server as somebody sees it who writes bytes to its socket."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import h11
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netspace import messages as m
from netspace.http_server import Limits
from tests.api_double import ALLOCATE, ALLOCATION, Api, serving

C = "/v1/clusters/east"
GOOD = msgspec.json.encode(ALLOCATE)
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
LIMITS = Limits(body=4096, header=1024, timeout=10, arrival=10)

Told = list[tuple[int, dict[str, str], bytes]]
"""Answers: status, fields, body."""


def post(body: bytes = GOOD, *fields: str, length: int | None = None) -> bytes:
    """An allocation as it goes over the wire."""
    lines = [
        f"POST {C}/allocations HTTP/1.1",
        "Host: a",
        "Content-Type: application/json",
        f"Content-Length: {len(body) if length is None else length}",
        *fields,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def talk(
    folder: Path,
    say: Callable[[Api, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Any]],
    limits: Limits = LIMITS,
    **answers: Any,
) -> Any:
    """What `say` makes of a connection to a server."""

    async def run() -> Any:
        async with serving(folder, {"allocate": ALLOCATION, "pools": [], **answers}, limits) as api:
            reader, writer = await asyncio.open_unix_connection(str(api.socket))
            try:
                async with asyncio.timeout(20):
                    return await say(api, reader, writer)
            finally:
                writer.close()

    return asyncio.run(run())


def answers_to(folder: Path, *pieces: bytes, limits: Limits = LIMITS, **answers: Any) -> Told:
    """All that the server answers to the pieces until it hangs up; requests are written one after
    the other without waiting. Our half ends when the last piece is written."""

    async def say(api: Api, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Told:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        writer.write_eof()
        return parted(await reader.read())

    told: Told = talk(folder, say, limits, **answers)
    return told


def parted(data: bytes) -> Told:
    """The answers in what a server sent, by another parser."""
    found: Told = []
    while data:
        other = h11.Connection(h11.CLIENT)
        other.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
        other.send(h11.EndOfMessage())
        other.receive_data(data)
        event = other.next_event()
        if isinstance(event, h11.InformationalResponse):
            found.append((event.status_code, {}, b""))
            data = data.partition(b"\r\n\r\n")[2]
            continue
        assert isinstance(event, h11.Response)
        fields = {name.decode(): value.decode() for name, value in event.headers}
        body = b""
        while isinstance(more := other.next_event(), h11.Data):
            body += more.data
        assert isinstance(more, h11.EndOfMessage)
        found.append((event.status_code, fields, body))
        rest = other.trailing_data[0]
        data = rest
    return found


# What is refused

HEAD = "GET /healthz HTTP/1.1\r\nHost: a\r\n"
POST = f"POST {C}/allocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ("GARBAGE\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\x00", 400),
        ("GET /healthz\r\n\r\n", 400),
        ("GET  /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (" GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
        ("GET /healthz HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        ("GET /healthz http/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET healthz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /healthz#x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /\xe4 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\nHost: a\n\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: user@a\r\n\r\n", 400),
        (HEAD + "X : y\r\n\r\n", 400),
        (HEAD + "X\r\n\r\n", 400),
        (HEAD + ": y\r\n\r\n", 400),
        (HEAD + "X: a\r\n b\r\n\r\n", 400),
        (HEAD + "X: a\x00b\r\n\r\n", 400),
        (HEAD + "X: a\x7fb\r\n\r\n", 400),
        (HEAD + "X\xe4: b\r\n\r\n", 400),
        (HEAD + "Content-Length: -5\r\n\r\n", 400),
        (HEAD + "Content-Length: +5\r\n\r\n", 400),
        (HEAD + "Content-Length: 0x5\r\n\r\n", 400),
        (HEAD + "Content-Length: 5, 5\r\n\r\n", 400),
        (HEAD + "Content-Length:\r\n\r\n", 400),
        (HEAD + "Content-Length: 0\r\nContent-Length: 0\r\n\r\n", 400),
        (HEAD + "Content-Length: " + "9" * 40 + "\r\n\r\n", 400),
        (POST + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + "Transfer-Encoding: identity\r\n\r\n", 400),
        (POST + "Transfer-Encoding: xchunked\r\n\r\n", 400),
        (POST + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (POST.replace("1.1", "1.0") + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + "Transfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        (POST + "Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
        (POST + "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n", 400),
        (POST + "Transfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n", 400),
        (POST + "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", 400),
        (POST + "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", 400),
        (POST + "Transfer-Encoding: chunked\r\n\r\n0\r\nX\r\n\r\n", 400),
        (POST + "Transfer-Encoding: chunked\r\n\r\n3;" + "x" * 1100, 400),
        (POST + "Transfer-Encoding: chunked\r\n\r\nfffff\r\n", 413),
        (POST + "Content-Length: 4097\r\n\r\n", 413),
        (HEAD + "Expect: more\r\n\r\n", 400),
        ("GET /" + "x" * 1100 + " HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        ("GET /" + "x" * 5000, 414),
        (HEAD + "X: " + "x" * 1100 + "\r\n\r\n", 431),
        (HEAD + "X: " + "x" * 5000, 431),
        (HEAD + "X: y\r\n" * 120 + "\r\n", 431),
        (HEAD + ("X: " + "x" * 1000 + "\r\n") * 5 + "\r\n", 431),
        (HEAD + "X: y\r\n" * 2000, 431),
        ("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("get /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("DELETE /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("BREW /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    ],
)
def test_what_is_no_good_request_gets_a_problem_that_says_why(
    tmp_path: Path, data: str, status: int
) -> None:
    [(got, fields, body)] = answers_to(tmp_path, data.encode("latin-1"))
    document = json.loads(body)
    assert (got, document["status"]) == (status, status)
    assert fields["content-type"] == "application/problem+json"
    assert document["detail"]
    assert (fields.get("connection") == "close") == (status not in (404, 405))


def test_after_what_cannot_be_read_nothing_is_taken_for_a_request(tmp_path: Path) -> None:
    smuggled = POST + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    told = answers_to(tmp_path, smuggled.encode() + HEALTH)
    assert [status for status, _, _ in told] == [400]


# Requests one after the other


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.sampled_from(["read", "write", "wrong", "none", "bad"]), min_size=1, max_size=8),
    st.lists(st.integers(0, 5000), max_size=6),
)
def test_requests_sent_ahead_are_answered_in_their_order(
    tmp_path: Path, kinds: list[str], places: list[int]
) -> None:
    written = {
        "read": (HEALTH, 200),
        "write": (post(), 200),
        "wrong": (post(b"{}"), 422),
        "none": (b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        "bad": (post(GOOD, "Content-Encoding: gzip"), 400),
    }
    data = b"".join(written[kind][0] for kind in kinds)
    ends = [0, *sorted(place % len(data) for place in places), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(ends)]

    async def later() -> m.Allocation:
        await asyncio.sleep(0.001)
        return ALLOCATION

    async def say(api: Api, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Told:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.0005)
        writer.write(LAST)
        return parted(await reader.read())

    told = talk(tmp_path, say, allocate=later)
    # A refused body that has not arrived ends the connection: nobody waits for it.
    statuses = [status for status, _, _ in told]
    wanted = [*(written[kind][1] for kind in kinds), 200]
    assert statuses == wanted[: len(statuses)]
    assert len(statuses) == len(wanted) or kinds[len(statuses) - 1] == "bad"


def test_one_request_at_a_time_is_worked_on_and_who_sends_ahead_is_held_back(
    tmp_path: Path,
) -> None:
    async def say(api: Api, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        go.set()
        count = 3000
        for _ in range(count):
            writer.write(post())
        await asyncio.sleep(0.3)
        calls = len([call for call in api.double.calls if call[0] == "allocate"])
        assert calls == 1
        # Most of it has not even left this side.
        unsent = writer.transport.get_write_buffer_size()
        assert unsent > count * len(post()) / 4
        held.set()
        for _ in range(count):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            await reader.readexactly(len(msgspec.json.encode(ALLOCATION)))
        return count

    go, held = asyncio.Event(), asyncio.Event()

    async def wait() -> m.Allocation:
        await held.wait()
        return ALLOCATION

    assert talk(tmp_path, say, Limits(timeout=15), allocate=wait) == 3000


def test_who_has_ended_its_half_still_gets_all_answers(tmp_path: Path) -> None:
    async def later() -> m.Allocation:
        await asyncio.sleep(0.05)
        return ALLOCATION

    told = answers_to(tmp_path, post() + post() + HEALTH, allocate=later)
    assert [status for status, _, _ in told] == [200, 200, 200]


def test_a_connection_ends_when_the_request_says_so(tmp_path: Path) -> None:
    [(status, fields, body)] = answers_to(tmp_path, LAST + HEALTH)
    assert (status, fields["connection"], body) == (200, "close", b"ok\n")


def test_an_older_client_gets_its_answer_and_the_end(tmp_path: Path) -> None:
    async def say(api: Api, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Told:
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        return parted(await reader.read())

    [(status, fields, _)] = talk(tmp_path, say)
    assert (status, fields["connection"]) == (200, "close")


def test_head_has_no_body(tmp_path: Path) -> None:
    async def say(api: Api, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(HEALTH.replace(b"GET", b"HEAD") + LAST)
        return await reader.read()

    first, _, rest = talk(tmp_path, say).partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 405")
    assert rest.startswith(b"HTTP/1.1 200")


# Bodies


def test_who_waits_with_the_body_is_told_to_send_it(tmp_path: Path) -> None:
    async def say(api: Api, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(post(b"", "Expect: 100-continue", length=len(GOOD)))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        for byte in GOOD:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        return await reader.readuntil(b"\r\n\r\n")

    assert talk(tmp_path, say).startswith(b"HTTP/1.1 200")


def test_who_sends_the_body_at_once_is_not_told_to(tmp_path: Path) -> None:
    [(status, _, _)] = answers_to(tmp_path, post(GOOD, "Expect: 100-continue"))
    assert status == 200


def test_a_body_that_is_not_wanted_is_not_asked_for(tmp_path: Path) -> None:
    data = post(b"", "Expect: 100-continue", length=9).replace(b"allocations", b"nothing")
    [(status, fields, _)] = answers_to(tmp_path, data)
    assert (status, fields["connection"]) == (404, "close")


def test_a_refusal_reaches_who_is_still_sending(tmp_path: Path) -> None:
    async def say(api: Api, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Told:
        writer.write(post(b"", length=50_000_000))
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                writer.write(b"x" * 65536)
                await writer.drain()
        return parted(await reader.read())

    [(status, _, _)] = talk(tmp_path, say)
    assert status == 413


# Time


def test_a_header_that_does_not_come_to_its_end_is_answered_and_cut_off(tmp_path: Path) -> None:
    async def say(api: Api, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Told:
        writer.write(HEALTH + HEALTH[:-5])
        return parted(await reader.read())

    (first, _, _), (status, fields, body) = talk(tmp_path, say, Limits(arrival=0.2))
    assert (first, status, json.loads(body)["code"]) == (200, 408, "too-slow")
    assert fields["connection"] == "close"


def test_after_a_request_that_took_too_long_the_connection_goes_on(tmp_path: Path) -> None:
    async def slow() -> m.Allocation:
        await asyncio.sleep(0.4)
        return ALLOCATION

    async def say(api: Api, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Told:
        writer.write(post() + HEALTH)
        await asyncio.sleep(0.6)
        writer.write(LAST)
        return parted(await reader.read())

    told = talk(tmp_path, say, Limits(timeout=0.1), allocate=slow)
    assert [status for status, _, _ in told] == [504, 200, 200]


def test_a_reading_that_nobody_waits_for_is_given_up_and_a_change_is_not(tmp_path: Path) -> None:
    ended: list[str] = []

    async def read() -> list[Any]:
        try:
            await asyncio.sleep(0.5)
        except asyncio.CancelledError:
            ended.append("reading given up")
            raise
        return []

    async def write() -> m.Allocation:
        await asyncio.sleep(0.5)
        ended.append("change made")
        return ALLOCATION

    async def say(api: Api, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"GET {C}/pools HTTP/1.1\r\nHost: a\r\n\r\n".encode() + post())
        while len(ended) < 2:
            await asyncio.sleep(0.05)

    talk(tmp_path, say, Limits(timeout=0.1), pools=read, allocate=write)
    assert ended == ["reading given up", "change made"]


# Large answers


def test_a_large_answer_arrives_whole_at_who_takes_it_slowly(tmp_path: Path) -> None:
    cluster = m.Cluster(name="n" * 60, leader=None, networks=0, pools=0, used=0)

    async def say(api: Api, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        writer.write(b"GET /v1/clusters HTTP/1.1\r\nHost: a\r\n\r\n" + LAST)
        taken = b""
        while part := await reader.read(200_000):
            taken += part
            await asyncio.sleep(0.001)
        (_, _, body), (status, _, _) = parted(taken)
        assert status == 200
        return len(json.loads(body)["items"])

    assert talk(tmp_path, say, Limits(), clusters=[cluster] * 50_000) == 50_000
