"""Bytes made into requests: what is read, however it is cut, and what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netspace.http_requests import FIELDS, Head, Reader
from netspace.problems import Problem

LINE, MOST = 200, 1000
GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"


def head_of(data: bytes) -> Head:
    reader = Reader(LINE, MOST)
    reader.feed(data)
    head = reader.head()
    assert head is not None
    return head


def read(pieces: list[bytes]) -> tuple[list[tuple[str, str, bytes]], str]:
    """The requests in the pieces, then why it went no further: a problem's code or nothing."""
    reader, found, head = Reader(LINE, MOST), [], None
    try:
        for piece in pieces:
            reader.feed(piece)
            while True:
                head = head or reader.head()
                if head is None:
                    break
                body = reader.body()
                if body is None:
                    break
                found.append((head.method, head.target, body))
                head = None
    except Problem as problem:
        return found, problem.code
    return found, ""


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(ends) if start < end]


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return (
        b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nX: y\r\n\r\n"
    )


BODIES = st.binary(max_size=60) | st.sampled_from([b"\r\n\r\n", b"0\r\n\r\n", GET, b"\r\n" + GET])


@st.composite
def requests(draw: Any) -> tuple[tuple[str, str, bytes], bytes]:
    """A request, and how it is written."""
    method = draw(st.sampled_from(["GET", "POST", "M-SEARCH"]))
    target = draw(st.sampled_from(["/", "/a/b?c=d", "/%C3%A4", "/a?b/c?d"]))
    body = draw(BODIES)
    head = f"{method} {target} HTTP/1.1\r\nHost: h:80\r\nX: \t a b \r\nY:\r\n".encode()
    match draw(st.sampled_from(["length", "chunks"] if body else ["none", "length", "chunks"])):
        case "none":
            written = head + b"\r\n"
        case "length":
            written = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        case _:
            size = draw(st.integers(1, 30))
            written = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, size)
    return (method, target, body), draw(st.sampled_from([b"", b"\r\n"])) + written


@given(st.lists(requests(), max_size=4), st.lists(st.integers(0, 2000), max_size=12))
def test_the_same_requests_are_read_however_the_bytes_are_cut(
    sent: list[tuple[tuple[str, str, bytes], bytes]], places: list[int]
) -> None:
    data = b"".join(written for _, written in sent)
    assert read(cut(data, places)) == ([request for request, _ in sent], "")


@given(requests(), requests())
def test_another_parser_reads_the_same_request(first: Any, second: Any) -> None:
    other = h11.Connection(h11.SERVER)
    other.receive_data(first[1].removeprefix(b"\r\n"))
    request, body = other.next_event(), b""
    assert isinstance(request, h11.Request)
    while isinstance(event := other.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    [(method, target, own)], _ = read([first[1]])
    assert (request.method.decode(), request.target.decode(), body) == (method, target, own)


PIECES = st.sampled_from(
    [
        *(b"GET /a HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"GET http://h/a HTTP/1.0\r\n", b"\r\n"),
        *(b"Host: h\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"abc"),
        *(
            b"3\r\nabc\r\n",
            b"0\r\n\r\n",
            b"\n",
            b"\r",
            b" ",
            b":",
            b"X: y\r\n",
            b"\x00",
            b"x" * 201,
        ),
    ]
)


@given(st.lists(PIECES, max_size=12).map(b"".join), st.lists(st.integers(0, 3000), max_size=8))
def test_no_bytes_give_other_requests_when_they_are_cut(data: bytes, places: list[int]) -> None:
    whole, why = read([data])
    found, other = read(cut(data, places))
    assert found == whole
    # A piece of a header may show that the rest is not worth waiting for.
    assert other or not why


@given(st.binary(max_size=300))
def test_no_bytes_make_anything_but_a_request_or_a_problem(data: bytes) -> None:
    read([data])


def test_a_header_is_read_as_it_stands() -> None:
    head = head_of(
        b"POST http://h:80/a%20b?c=d HTTP/1.1\r\nhOsT: h:80\r\nX: a\r\nContent-Length: 3\r\n"
        b"x: \tb, c \r\nY: \xe4\r\nExpect: 100-Continue\r\n\r\n"
    )
    assert (head.method, head.target) == ("POST", "/a%20b?c=d")
    assert (head.path, head.query) == ("/a%20b", "c=d")
    assert (head.fields["x"], head.fields["y"]) == ("a, b, c", "ä")
    assert (head.length, head.keep, head.expects) == (3, True, True)


@pytest.mark.parametrize(
    ("version", "field", "keep"),
    [
        (b"1.1", b"X: y", True),
        (b"1.1", b"Connection: keep-alive", True),
        (b"1.1", b"Connection: Close", False),
        (b"1.1", b"Connection: te, close", False),
        (b"1.0", b"X: y", False),
    ],
)
def test_a_connection_goes_on_unless_the_request_says_otherwise(
    version: bytes, field: bytes, keep: bool
) -> None:
    assert head_of(b"GET / HTTP/%b\r\nHost: h\r\n%b\r\n\r\n" % (version, field)).keep is keep


@pytest.mark.parametrize("host", [b"", b"h", b"h:", b"10.0.0.1:80", b"[::1]", b"[fd00::1]:80"])
def test_a_host_is_a_name_or_an_address_with_or_without_a_port(host: bytes) -> None:
    assert head_of(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host).fields["host"] == host.decode()


def test_an_older_client_need_not_name_the_host() -> None:
    assert head_of(b"GET / HTTP/1.0\r\n\r\n").method == "GET"


@pytest.mark.parametrize("first", [b"X-1: y", b"X-1: z"])
def test_a_header_that_was_refused_is_refused_again(first: bytes) -> None:
    for _ in range(2):
        assert read([b"GET / HTTP/1.1\r\n%b\r\n\r\n" % first]) == ([], "bad-request")


def test_what_is_sent_ahead_stays_in_the_buffer() -> None:
    reader = Reader(LINE, MOST)
    reader.feed(GET + GET)
    assert reader.head() is not None
    assert reader.body() == b""
    assert reader.held == len(GET)


def test_a_header_has_as_much_as_it_may_have_and_no_more() -> None:
    def with_fields(count: int) -> bytes:
        return b"GET / HTTP/1.1\r\nHost: h\r\n" + b"a:\r\n" * (count - 1) + b"\r\n"

    assert len(head_of(with_fields(FIELDS)).fields) == 2
    assert read([with_fields(FIELDS + 1)]) == ([], "header-too-large")
    line = b"GET /%b HTTP/1.1" % (b"x" * (LINE - 14))
    assert head_of(line + b"\r\nHost: h\r\n\r\n").path.startswith("/xx")
    assert read([line.replace(b"/", b"/x", 1) + b"\r\nHost: h\r\n\r\n"]) == ([], "target-too-long")


def test_a_body_has_as_much_as_it_may_have_and_no_more() -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\n"
    for size, why in ((MOST, ""), (MOST + 1, "too-large")):
        body = b"x" * size
        sized = head + b"Content-Length: %d\r\n\r\n" % size + body
        pieces = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, 100)
        for data in (sized, pieces):
            assert read([data]) == (([] if why else [("POST", "/", body)]), why)


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes() -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (MOST + 1)
    assert read([head]) == ([], "too-large")
