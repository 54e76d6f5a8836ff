"""What the API takes and what it refuses: every bad request gets a problem that says why."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam_server.api import ROUTES
from ipam_server.views import AddressFilter
from netspace import messages as m
from netspace.http_inputs import decode
from netspace.http_server import Limits
from netspace.problems import Problem
from tests.api_double import ALLOCATE, ALLOCATION, Answer, serving

C = "/v1/clusters/east"
JSON = {"Content-Type": "application/json"}
GOOD = msgspec.json.encode(ALLOCATE)


def ask(folder: Path, method: str, path: str, **more: Any) -> Answer:
    """One request to a server whose service would say yes to anything."""
    limits = Limits(body=65536, header=2048, timeout=0.5)

    async def run() -> Answer:
        everything = {"allocate": ALLOCATION, "addresses": m.AddressPage(items=[], next=None)}
        async with serving(folder, everything, limits) as api:
            answer = await api.ask(method, path, **more)
            if answer.status >= 400:
                assert [call for call in api.double.calls if call[0] != "cluster"] == []
            return answer

    return asyncio.run(run())


def post(folder: Path, data: bytes, headers: dict[str, str] = JSON) -> Answer:
    return ask(folder, "POST", f"{C}/allocations", data=data, headers=headers)


def test_a_good_request_reaches_the_service_and_its_answer_the_caller(tmp_path: Path) -> None:
    answer = post(tmp_path, GOOD)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert msgspec.json.decode(answer.body, type=m.Allocation) == ALLOCATION


@pytest.mark.parametrize(
    ("body", "code", "why"),
    [
        (b"", "bad-request", "empty"),
        (b"{", "bad-request", "truncated"),
        (b"GET", "bad-request", "not JSON"),
        (b"\xff\xfe{}", "bad-request", "not JSON"),
        (GOOD.replace(b"node-1", b"node-\xff"), "bad-request", "UTF-8"),
        (GOOD + b"{}", "bad-request", "trailing"),
        (GOOD.replace(b"{", b'{"node":"n2",', 1), "bad-request", "'node' twice"),
        (GOOD.replace(b'"ifname"', b'"ifname":"a","ifname"'), "bad-request", "'ifname' twice"),
        (b"[]", "invalid", "array"),
        (b"null", "invalid", "null"),
        (GOOD.replace(b"{", b'{"nod":1,', 1), "invalid", "unknown field `nod`"),
        (GOOD.replace(b'"ifname"', b'"x":1,"ifname"'), "invalid", "`x` - at `$.attachment`"),
        (GOOD.replace(b'"c0ffee"', b'"c0ffee\\n"'), "invalid", "$.attachment.container"),
        (GOOD.replace(b'"c0ffee"', b'"../../etc"'), "invalid", "$.attachment.container"),
        (GOOD.replace(b'"node-1"', b"9" * 5000), "invalid", "$.node"),
        (GOOD.replace(b'"node-1"', b"1e999"), "invalid", "$.node"),
        (GOOD.replace(b'"node-1"', b"null"), "invalid", "$.node"),
        (GOOD.replace(b'"node-1"', b"[" * 30000), "invalid", "$.node"),
        (b'{"claim":"x"}', "invalid", "$.claim"),
        (b"{}", "invalid", "missing required field"),
        (b" " * 65537, "too-large", "65536"),
    ],
)
def test_a_bad_body_is_refused_with_the_reason(
    tmp_path: Path, body: bytes, code: str, why: str
) -> None:
    answer = post(tmp_path, body)
    assert answer.code == code
    assert why in answer.json["detail"]


def test_a_huge_number_is_out_of_range_and_no_failure(tmp_path: Path) -> None:
    body = b'{"name":"blue","vlan":' + b"9" * 4000 + b"}"
    answer = ask(tmp_path, "POST", f"{C}/networks", data=body, headers=JSON)
    assert answer.code == "invalid"
    assert "$.vlan" in answer.json["detail"]


def test_deep_nesting_is_refused_where_it_begins(tmp_path: Path) -> None:
    body = b'{"version":"1","links":[{"x":' + b"[" * 20000
    answer = ask(tmp_path, "PUT", f"{C}/nodes/n1", data=body, headers=JSON)
    assert answer.code == "invalid"
    assert "unknown field `x`" in answer.json["detail"]


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"Content-Type": "text/plain"}, "text/plain"),
        ({"Content-Type": "application/json; charset=latin-1"}, "latin-1"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "form"),
        ({**JSON, "Content-Encoding": "gzip"}, "compressed"),
    ],
)
def test_only_plain_json_is_taken(tmp_path: Path, headers: dict[str, str], why: str) -> None:
    answer = post(tmp_path, GOOD, headers)
    assert answer.code == "bad-request"
    assert why in answer.json["detail"]


def test_the_character_set_may_be_named(tmp_path: Path) -> None:
    assert post(tmp_path, GOOD, {"Content-Type": "application/JSON; charset=utf-8"}).status == 200


def test_a_chunked_body_has_the_same_limit(tmp_path: Path) -> None:
    chunks = [b" " * 2048] * 40
    assert ask(tmp_path, "POST", f"{C}/allocations", data=chunks, headers=JSON).code == "too-large"


def test_a_body_where_none_belongs_is_refused(tmp_path: Path) -> None:
    answer = ask(tmp_path, "GET", f"{C}/addresses", data=b"{}", headers=JSON)
    assert answer.code == "bad-request"


def test_an_unknown_resource_is_not_found(tmp_path: Path) -> None:
    for path in ("/", "/v2/status", f"{C}/pools/", f"{C}//pools", "/v1/status/x"):
        assert ask(tmp_path, "GET", path).code == "not-found"


def test_a_wrong_method_is_told_which_ones_there_are(tmp_path: Path) -> None:
    answer = ask(tmp_path, "PUT", f"{C}/pools")
    assert answer.code == "method-not-allowed"
    assert {"GET", "POST"} <= set(answer.headers["Allow"].split(", "))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/clusters/EAST/pools",
        f"{C}/pools/a%2Fb",
        f"{C}/pools/%2e%2e",
        f"{C}/pools/x%0A",
        f"{C}/nodes/-n",
        f"{C}/attachments/.x/eth0",
        f"{C}/attachments/c0ffee/lo",
        f"{C}/attachments/c0ffee/eth%200",
        f"{C}/attachments/c0ffee/" + "%C3%A4" * 8,
        f"{C}/addresses/" + "1" * 46,
        f"{C}/pools/%ff",
    ],
)
def test_a_name_of_the_wrong_form_in_a_path_is_invalid(tmp_path: Path, path: str) -> None:
    answer = ask(tmp_path, "GET", path)
    assert answer.code == "invalid"
    assert "in the path" in answer.json["detail"]


@pytest.mark.parametrize(
    ("query", "code", "why"),
    [
        ("colour=red", "invalid", "'colour'"),
        ("pool=a&pool=b", "invalid", "twice"),
        ("pool=A", "invalid", "$.pool"),
        ("limit=0", "invalid", "$.limit"),
        ("limit=1001", "invalid", "$.limit"),
        ("limit=ten", "invalid", "$.limit"),
        ("limit=" + "9" * 900, "invalid", "$.limit"),
        ("state=gone", "invalid", "$.state"),
        ("pool", "bad-request", "query"),
        ("pool=%ff", "bad-request", "query"),
    ],
)
def test_a_bad_query_is_refused_with_the_reason(
    tmp_path: Path, query: str, code: str, why: str
) -> None:
    answer = ask(tmp_path, "GET", f"{C}/addresses?{query}")
    assert answer.code == code
    assert why in answer.json["detail"]


def test_a_query_where_none_belongs_is_refused(tmp_path: Path) -> None:
    assert ask(tmp_path, "GET", f"{C}/pools?limit=5").code == "invalid"


def test_filters_reach_the_service_as_they_were_written(tmp_path: Path) -> None:
    async def run() -> None:
        page = m.AddressPage(items=[], next=None)
        async with serving(tmp_path, {"addresses": page}) as api:
            await api.ask("GET", f"{C}/addresses?pool=null&state=used&limit=7&after=a%2Fb")
            await api.ask("GET", f"{C}/addresses")
            wanted = [call[1:] for call in api.double.calls if call[0] == "addresses"]
        assert wanted == [
            (AddressFilter(pool="null", state="used"), 7, "a/b"),
            (AddressFilter(), 500, None),
        ]

    asyncio.run(run())


def test_a_body_that_never_comes_ends_with_the_time_limit(tmp_path: Path) -> None:
    async def run() -> bytes:
        async with serving(tmp_path, limits=Limits(timeout=0.2)) as api:
            reader, writer = await asyncio.open_unix_connection(str(api.socket))
            writer.write(
                f"POST {C}/allocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                "Connection: close\r\nContent-Length: 500\r\n\r\n{".encode()
            )
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            answer += await asyncio.wait_for(reader.read(4096), 5)
            writer.close()
            return answer

    answer = asyncio.run(run())
    assert b"HTTP/1.1 408" in answer
    assert b"did not arrive" in answer


BODIES = sorted({route.body for route in ROUTES if route.body is not None}, key=str)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(kind=st.sampled_from(BODIES), data=st.data())
def test_no_body_makes_anything_but_a_value_or_a_problem(kind: Any, data: Any) -> None:
    fields = st.sampled_from(kind.__struct_fields__)
    document = data.draw(st.dictionaries(fields | st.text(max_size=5), VALUES))
    body = json.dumps(document).encode()
    try:
        value = decode(body, msgspec.json.Decoder(kind))
    except Problem as problem:
        assert problem.code in ("bad-request", "invalid")
    else:
        assert isinstance(value, kind)


@given(st.binary(max_size=200))
def test_no_bytes_make_anything_but_a_value_or_a_problem(body: bytes) -> None:
    with pytest.raises(Problem):
        decode(body, msgspec.json.Decoder(m.AllocateRequest))
