"""Who may do what: every row with every kind of caller, and what keeps nodes and clusters apart."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam_server.api import ROUTES, describe
from ipam_server.roles import TABLE
from netspace import messages as m
from netspace.callers import ADMINS, HEADER, ORGANIZATIONS, Caller, certified, check_own, enter
from netspace.http_routes import Route
from netspace.problems import Problem
from tests.api_double import ALLOCATION, ATTACHMENT, CLAIM, RELEASED, serving

NODE = Caller("node", "east", "n1")
CONTROLLER = Caller("controller", "east")
ADMIN = Caller("admin", name="alice")
SERVER = Caller("server", name="s2")
MONITOR = Caller("monitor", name="prometheus")
LOCAL = Caller("local", name="uid 0")
CALLERS = {
    "node": NODE,
    "controller": CONTROLLER,
    "admin": ADMIN,
    "server": SERVER,
    "monitor": MONITOR,
}
C = "/v1/clusters/{cluster}"
JSON = {"Content-Type": "application/json"}

# Written once more, apart from the table itself: a row that opens by mistake differs from this.
# A: admins (always), C: controllers, N: nodes, S: servers, M: monitors.
MATRIX = {
    f"POST {C}/allocations": "ACN",
    f"POST {C}/releases": "ACN",
    f"POST {C}/allocation-batches": "ACN",
    f"POST {C}/release-batches": "ACN",
    f"GET {C}/attachments/{{container}}/{{ifname}}": "ACN",
    f"GET {C}/networks": "ACN",
    f"GET {C}/networks/{{network}}": "ACN",
    f"GET {C}/pools": "ACN",
    f"GET {C}/pools/{{pool}}": "ACN",
    f"GET {C}/addresses": "ACN",
    f"GET {C}/nodes/{{node}}": "ACN",
    f"PUT {C}/nodes/{{node}}": "ACN",
    f"GET {C}/nodes/{{node}}/attachments": "ACN",
    f"PUT {C}/nodes/{{node}}/attachments": "ACN",
    f"PUT {C}/nodes/{{node}}/vmacs/{{network}}": "ACN",
    f"DELETE {C}/nodes/{{node}}/vmacs/{{network}}": "ACN",
    f"GET {C}": "ACN",
    f"POST {C}/networks": "AC",
    f"PATCH {C}/networks/{{network}}": "AC",
    f"DELETE {C}/networks/{{network}}": "AC",
    f"POST {C}/pools": "AC",
    f"PATCH {C}/pools/{{pool}}": "AC",
    f"DELETE {C}/pools/{{pool}}": "AC",
    f"POST {C}/pools/{{pool}}/grow": "AC",
    f"POST {C}/pools/{{pool}}/shrink": "AC",
    f"GET {C}/addresses/{{address}}": "AC",
    f"GET {C}/addresses/{{address}}/history": "AC",
    f"POST {C}/reservations": "AC",
    f"DELETE {C}/reservations/{{address}}": "AC",
    f"POST {C}/operator-releases": "AC",
    f"GET {C}/nodes": "AC",
    f"GET {C}/nodes/{{node}}/fencing": "AC",
    f"PUT {C}/nodes/{{node}}/fencing": "AC",
    f"DELETE {C}/nodes/{{node}}/fencing": "AC",
    f"GET {C}/namespaces": "AC",
    f"PUT {C}/namespaces/{{namespace}}": "AC",
    f"DELETE {C}/namespaces/{{namespace}}": "AC",
    f"GET {C}/audit": "AC",
    "GET /v1/server": "AS",
    "GET /v1/status": "AS",
    "GET /metrics": "ASM",
    "GET /readyz": "ACNSM",
    "GET /healthz": "ACNSM",
    "GET /openapi.json": "ACNSM",
}
LETTERS = {"node": "N", "controller": "C", "admin": "A", "server": "S", "monitor": "M"}
ALLOCATE = m.AllocateRequest(attachment=ATTACHMENT, claim=CLAIM, node="n1")
RELEASE = m.ReleaseRequest(attachment=ATTACHMENT, claim=CLAIM, node="n1")
PATH = {
    "{cluster}": "east",
    "{network}": "blue",
    "{pool}": "tenant-a",
    "{node}": "n1",
    "{namespace}": "shop",
    "{fabric}": "lab",
    "{address}": "10.9.0.5",
    "{container}": "c0ffee",
    "{ifname}": "eth0",
}


def title(route: Route[Any]) -> str:
    return f"{route.method} {route.path}"


def of(line: str) -> Route[Any]:
    return next(route for route in ROUTES if title(route) == line)


def admitted(route: Route[Any], caller: Caller, **about: Any) -> bool:
    path = {"cluster": "east", "node": "n1"} | about
    query = type("Query", (), {"node": "n1"})
    try:
        route.who.check_role(caller, title(route))
        route.who.check_scope(caller, title(route), path, query, ALLOCATE)
    except Problem as problem:
        assert problem.code == "forbidden"
        assert str(caller) in problem.detail
        assert problem.do
        return False
    return True


@pytest.mark.parametrize("role", CALLERS)
@pytest.mark.parametrize("route", ROUTES, ids=title)
def test_a_row_lets_in_whom_the_matrix_says_and_nobody_else(route: Route[Any], role: str) -> None:
    allowed = LETTERS[role] in MATRIX.get(title(route), "A")
    assert admitted(route, CALLERS[role]) == allowed


@pytest.mark.parametrize("route", ROUTES, ids=title)
def test_a_process_on_the_servers_machine_has_every_role_and_an_unknown_one_none(
    route: Route[Any],
) -> None:
    assert admitted(route, LOCAL, cluster="west")
    harmless = title(route) in ("GET /healthz", "GET /openapi.json")
    assert admitted(route, Caller("nobody", why="no role")) == harmless


@pytest.mark.parametrize("route", [r for r in ROUTES if "cluster" in r.parameters], ids=title)
def test_nodes_and_controllers_of_one_cluster_get_into_no_other(route: Route[Any]) -> None:
    assert not admitted(route, NODE, cluster="west")
    assert not admitted(route, CONTROLLER, cluster="west")
    assert admitted(route, ADMIN, cluster="west")


def test_the_table_has_no_row_that_is_not_served() -> None:
    assert set(TABLE) <= {(route.method, route.path) for route in ROUTES}
    assert set(MATRIX) == {f"{method} {path}" for method, path in TABLE}


def test_whatever_a_new_row_does_not_say_is_for_admins() -> None:
    assert Route("POST", "/v1/new", "", of("GET /healthz").call).who == ADMINS


def test_the_description_says_who_may() -> None:
    operation = describe()["paths"][f"{C}/releases"]["post"]
    assert operation["description"] == (
        "Who may: admins, controllers of the cluster, nodes of the cluster, each for itself."
    )
    for route in ROUTES:
        responses = describe()["paths"][route.path][route.method.lower()]["responses"]
        assert "`forbidden`" in responses["403"]["description"]


def test_the_page_for_people_shows_the_same_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    page = page.partition("\n## The table\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"(?m)^\| `((?:GET|POST|PUT|PATCH|DELETE) [^`]+)` \| ([^|]+) \|", page))
    assert rows == {
        f"{method} {path.removeprefix('/v1')}": who.words() for (method, path), who in TABLE.items()
    }


# Over HTTP


def request(folder: Path, caller: Caller, line: str, body: Any = None, query: str = "") -> Any:
    """The answer to a caller for whom a process on this machine speaks; the double's calls."""
    method, path = line.split()
    target = "/".join(PATH.get(part, part) for part in path.split("/")) + query
    answers = {
        "allocate": ALLOCATION,
        "release": RELEASED,
        "addresses": m.AddressPage(items=[], next=None),
        "pools": [],
    }

    async def run() -> Any:
        async with serving(folder, answers) as api:
            headers = {**JSON, HEADER: caller.encode()}
            data = None if body is None else msgspec.json.encode(body)
            answer = await api.ask(method, target, data=data, headers=headers)
            return answer, [call[0] for call in api.double.calls if call[0] != "cluster"]

    return asyncio.run(run())


def test_a_node_is_heard_for_itself_alone(tmp_path: Path) -> None:
    for line, body in (
        (f"POST {C}/allocations", ALLOCATE),
        (f"POST {C}/releases", RELEASE),
    ):
        answer, calls = request(tmp_path, NODE, line, body)
        assert answer.status == 200
        assert len(calls) == 1
        answer, calls = request(tmp_path, Caller("node", "east", "n2"), line, body)
        assert answer.code == "forbidden"
        assert "node n2 of cluster east may not POST" in answer.json["detail"]
        assert "about node n1" in answer.json["detail"]
        assert calls == []


@pytest.mark.parametrize(
    ("query", "status"), [("?node=n1", 200), ("?node=n2", 403), ("", 403), ("?pod=web-0", 403)]
)
def test_a_node_lists_its_own_addresses_and_no_others(
    tmp_path: Path, query: str, status: int
) -> None:
    answer, calls = request(tmp_path, NODE, f"GET {C}/addresses", query=query)
    assert answer.status == status
    assert calls == ["addresses"] * (status == 200)


def test_who_may_not_is_told_so_before_the_body_is_read(tmp_path: Path) -> None:
    answer, calls = request(tmp_path, NODE, f"POST {C}/pools", {"nonsense": 1})
    assert answer.code == "forbidden"
    assert calls == []
    assert "O=netspace:admins or" not in answer.json["do"]
    assert "O=netspace:controllers or O=netspace:admins" in answer.json["do"]


def test_a_refusal_of_somebody_elses_address_names_nobody_to_a_node(tmp_path: Path) -> None:
    enter(NODE)
    try:
        with pytest.raises(Problem) as caught:
            check_own("n2", "attachment c0ffee/eth0")
        check_own("n1", "attachment c0ffee/eth0")
    finally:
        enter(LOCAL)
    assert caught.value.code == "forbidden"
    assert "n2" not in str(caught.value)


def test_the_header_says_who_asked_or_is_refused(tmp_path: Path) -> None:
    async def run() -> list[str]:
        async with serving(tmp_path, {"pools": []}) as api:
            found = []
            for text in (
                "",
                "admin",
                "root//x",
                "node//n1",
                "node/east/",
                "admin//a%0Ab",
                "x/y/z/q",
            ):
                answer = await api.ask("GET", "/v1/clusters/east/pools", headers={HEADER: text})
                found.append(answer.code)
            return found

    assert set(asyncio.run(run())) == {"bad-request"}


# Subjects


def certificate(*subject: tuple[str, str]) -> dict[str, Any]:
    long = {"O": "organizationName", "OU": "organizationalUnitName", "CN": "commonName"}
    return {"subject": tuple(((long.get(key, key), value),) for key, value in subject)}


@pytest.mark.parametrize(
    ("subject", "caller"),
    [
        ([("O", "netspace:nodes"), ("OU", "east"), ("CN", "n1")], NODE),
        ([("CN", "n1"), ("OU", "east"), ("countryName", "DE"), ("O", "netspace:nodes")], NODE),
        ([("O", "netspace:controllers"), ("OU", "east")], CONTROLLER),
        ([("O", "netspace:controllers"), ("OU", "east"), ("CN", "kube")], CONTROLLER),
        ([("O", "netspace:admins"), ("CN", "alice")], ADMIN),
        ([("O", "netspace:admins"), ("OU", "ops"), ("CN", "alice")], ADMIN),
        ([("O", "netspace:servers"), ("CN", "s2")], SERVER),
        ([("O", "netspace:monitors"), ("CN", "prometheus")], MONITOR),
    ],
)
def test_a_subject_gives_a_role(subject: Sequence[tuple[str, str]], caller: Caller) -> None:
    assert certified(certificate(*subject)) == caller


@pytest.mark.parametrize(
    ("subject", "why"),
    [
        ([], "no role"),
        ([("CN", "n1")], "no role"),
        ([("O", "Example"), ("CN", "n1")], "O='Example', which is no role"),
        ([("O", "netspace:nodes"), ("O", "netspace:admins"), ("CN", "n1")], "no role"),
        ([("O", "netspace:nodes"), ("CN", "n1")], "OU='' is no cluster"),
        ([("O", "netspace:nodes"), ("OU", "east"), ("OU", "west"), ("CN", "n1")], "several OU"),
        ([("O", "netspace:nodes"), ("OU", "east"), ("CN", "n1"), ("CN", "n2")], "several OU or CN"),
        ([("O", "netspace:nodes"), ("OU", "east")], "CN='' is no node"),
        ([("O", "netspace:nodes"), ("OU", "east"), ("CN", "N1\n")], "is no node"),
        ([("O", "netspace:nodes"), ("OU", "east/../west"), ("CN", "n1")], "is no cluster"),
        ([("O", "netspace:controllers")], "OU='' is no cluster"),
        ([("O", "netspace:admins")], "CN='' is no name"),
        ([("O", "netspace:admins"), ("CN", "a\nb")], "is no name"),
        ([("O", "netspace:servers"), ("CN", "é")], "is no name"),
    ],
)
def test_a_subject_without_a_clear_role_is_nobody_and_hears_why(
    tmp_path: Path, subject: Sequence[tuple[str, str]], why: str
) -> None:
    caller = certified(certificate(*subject))
    assert caller.role == "nobody"
    assert why in caller.why
    with pytest.raises(Problem) as caught:
        of(f"GET {C}/networks").who.check_role(caller, "GET x")
    assert caught.value.code == "forbidden"
    assert json.dumps(caught.value.detail)
    assert why in caught.value.detail


TEXT = st.text(max_size=70)


@given(st.sampled_from([*ORGANIZATIONS, "local"]), TEXT, TEXT)
def test_what_a_header_says_is_what_was_put_in_or_a_refusal(
    role: Any, cluster: str, name: str
) -> None:
    caller = Caller(role, cluster, name)
    text = caller.encode()
    assert text.isascii()
    assert text.isprintable()
    try:
        assert Caller.decode(text) == caller
    except Problem as problem:
        assert problem.code == "bad-request"


@given(TEXT)
def test_no_header_is_anything_but_a_caller_or_a_refusal(text: str) -> None:
    try:
        found = Caller.decode(text)
    except Problem as problem:
        assert problem.code == "bad-request"
    else:
        assert found.role != "nobody"
        assert "\n" not in str(found)
