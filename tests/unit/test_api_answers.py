"""What the API answers: results, problems, limits, its own description, health and metrics."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from openapi_spec_validator import validate

from ipam_server.api import PARAMETERS, ROUTES, describe
from netspace import messages as m
from netspace.batches import (
    AllocationAnswers,
    AllocationBatch,
    ReleaseAnswers,
    ReleaseBatch,
    sealed,
)
from netspace.http_routes import Route
from netspace.http_server import Limits
from netspace.kubernetes import Fencing, NamespaceDefault, NodeFencing, SetNamespace
from netspace.problems import Problem
from netspace.upkeep import (
    AttachmentsReport,
    Finding,
    Inspection,
    Mended,
    NodeAttachments,
    Reclaimed,
    Repair,
)
from tests.api_double import ALLOCATE, ALLOCATION, NETWORK_VIEW, RELEASED, Answer, Api, serving
from tests.unit.upkeep_samples import CANDIDATE

C = "/v1/clusters/east"
JSON = {"Content-Type": "application/json"}
GOOD = msgspec.json.encode(ALLOCATE)

NETWORK = m.Network(
    **{key: getattr(NETWORK_VIEW, key) for key in NETWORK_VIEW.__struct_fields__},
    revision=12,
    fabric="default",
    range=[],
    exclude=["10.9.0.200-10.9.0.254"],
    total="199",
    carved="64",
    used=3,
    reserved=1,
)
POOL = m.Pool(
    name="tenant-a",
    revision=14,
    kind="netspace",
    network="blue",
    parent=None,
    ranges=["10.9.0.2-10.9.0.65"],
    namespaces=["a"],
    cooldown=30,
    retention=0,
    elastic=None,
    replicas=None,
    surplus=0,
    size="340282366920938463463374607431768211456",
    used=3,
    cooling=1,
    retained=0,
    free="60",
    never="50",
)
ENTRY = m.AddressEntry(
    network="blue", slot="5", ipv4="10.9.0.5", ipv6=None, state="used", pool="tenant-a"
)
NODE = m.Node(name="n1", version=None, reported=False, links=[], used=3)
CLUSTER = m.Cluster(name="east", leader="s1", networks=1, pools=1, used=3)
FABRIC = m.Fabric(name="default", members=[])
CLUSTER_STATUS = m.ClusterStatus(
    name="east",
    leading=True,
    leader="s1",
    revision=9,
    networks=1,
    pools=1,
    used=3,
    released=2,
    waiting=4,
)
SERVER_STATUS = m.ServerStatus(
    name="s1", endpoint="http://s", version="1", clusters=[CLUSTER_STATUS]
)
STATUS = m.Status(
    version="1",
    server="s1",
    ready=True,
    clusters=[CLUSTER_STATUS],
    servers=[SERVER_STATUS],
    store=[
        m.StoreMember(endpoint="http://e", version="3", size=1, leader=True, error=None),
    ],
)
CHANGED = m.Audited(
    revision=17,
    time="2026-01-01T00:00:00+00:00",
    who="admin alice",
    action="create",
    kind="pool",
    name="tenant-a",
    before=None,
    after={"kind": "netspace", "ranges": ["10.9.0.2-10.9.0.65"]},
)
INSPECTION = Inspection(
    cluster="east",
    revision=9,
    keys=20,
    findings=[Finding(code="clock", keys=["k"], what="w", why="y", mend="m", safe=False)],
    more=0,
)
RECLAIMED = Reclaimed(
    grace=300,
    freed=[],
    left=[CANDIDATE],
)
MENDED = Mended(code="clock", keys=["k"], what="w", done=True)
TAKEN = Problem("address-taken", "it is taken", retry_after=1.5)

DEFAULT = NamespaceDefault(
    namespace="shop", revision=9, selection=m.Selection(netspace="tenant-a", families=("ipv4",))
)
FENCING = NodeFencing(
    node="n1", why="out-of-service", revision=9, held=2, gone=1, since=400.0, last=10.0
)

ANSWERS: dict[str, Any] = {
    "namespaces": [DEFAULT],
    "set_namespace": DEFAULT,
    "unset_namespace": None,
    "fencing": FENCING,
    "fence": FENCING,
    "unfence": None,
    "hand_over_network": NETWORK,
    "hand_over_pool": POOL,
    "inspection": INSPECTION,
    "node_attachments": NodeAttachments(node="n1", revision=9, held=2, missing=1),
    "report_attachments": NodeAttachments(node="n1", revision=9, held=2, missing=1),
    "reclaimable": RECLAIMED,
    "reclaim": RECLAIMED,
    "repairing": Repair(mended=[MENDED], left=INSPECTION),
    "own_status": SERVER_STATUS,
    "allocate": ALLOCATION,
    "allocate_batch": AllocationAnswers(items=sealed([ALLOCATION, TAKEN])),
    "release_batch": ReleaseAnswers(items=sealed([TAKEN, RELEASED])),
    "held": ALLOCATION,
    "release": RELEASED,
    "operator_release": RELEASED,
    "networks": [NETWORK],
    "network": NETWORK,
    "create_network": NETWORK,
    "change_network": NETWORK,
    "delete_network": None,
    "pools": [POOL],
    "pool": POOL,
    "create_pool": POOL,
    "change_pool": POOL,
    "grow_pool": POOL,
    "shrink_pool": POOL,
    "delete_pool": None,
    "addresses": m.AddressPage(items=[ENTRY], next="x"),
    "address": ENTRY,
    "address_history": m.AddressHistory(
        network="blue",
        slot="5",
        ipv4="10.9.0.5",
        ipv6=None,
        items=[m.Tenancy(since="2026-01-02T03:04:05+00:00", until=None, pod="web-0")],
    ),
    "reserve": ENTRY,
    "unreserve": None,
    "forget_node": None,
    "vmac": m.Vmac(
        network="blue", node="n1", slot="254", generation=9, ipv4="10.9.0.254", ipv6="fd00::fe"
    ),
    "free_vmac": None,
    "nodes": [NODE],
    "node": NODE,
    "report_node": NODE,
    "clusters": [CLUSTER],
    "cluster_info": CLUSTER,
    "create_cluster": CLUSTER,
    "delete_cluster": None,
    "fabrics": [FABRIC],
    "fabric": FABRIC,
    "create_fabric": FABRIC,
    "delete_fabric": None,
    "status": STATUS,
    "audit": m.AuditPage(items=[CHANGED], next=None),
}
BODIES: dict[Any, m.Request] = {
    m.AllocateRequest: ALLOCATE,
    m.ReleaseRequest: m.ReleaseRequest(
        attachment=ALLOCATE.attachment, claim=ALLOCATE.claim, node="n1", generation=7
    ),
    AllocationBatch: AllocationBatch(items=[ALLOCATE]),
    ReleaseBatch: ReleaseBatch(items=[]),
    m.NewNetwork: m.NewNetwork(name="blue", vlan=910, ipv4="10.9.0.0/24"),
    m.ChangeNetwork: m.ChangeNetwork(vlan=None),
    m.NewPool: m.NewPool(name="tenant-a", kind="netspace", network="blue", size="64"),
    m.ChangePool: m.ChangePool(cooldown=5),
    m.ResizePool: m.ResizePool(size="5"),
    m.Reserve: m.Reserve(network="blue", address="10.9.0.9"),
    m.OperatorRelease: m.OperatorRelease(network="blue", address="10.9.0.9", generation=4),
    m.NodeReport: m.NodeReport(version="1"),
    AttachmentsReport: AttachmentsReport(seen=9, since=1, attachments=[]),
    m.NewCluster: m.NewCluster(name="east"),
    m.NewFabric: m.NewFabric(name="lab"),
    m.HandOver: m.HandOver(owner="kubernetes"),
    SetNamespace: SetNamespace(selection=m.Selection(netspace="tenant-a")),
    Fencing: Fencing(seen=9, why="deleted", gone=[]),
}
NAMES = {
    "{cluster}": "east",
    "{network}": "blue",
    "{pool}": "tenant-a",
    "{node}": "n1",
    "{namespace}": "shop",
    "{fabric}": "lab",
    "{address}": "fd00:9::5",
    "{container}": "c0ffee",
    "{ifname}": "eth0",
}
DOCUMENT = describe()


def target(route: Route[Any]) -> str:
    return "/".join(NAMES.get(part, part) for part in route.path.split("/"))


def check(schema: dict[str, Any], value: Any) -> None:
    whole = {**schema, "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


def documented(route: Route[Any]) -> dict[str, Any]:
    operation: dict[str, Any] = DOCUMENT["paths"][route.path][route.method.lower()]
    return operation


def one(folder: Path, answer: Any, limits: Limits | None = None) -> Answer:
    """The answer to an allocation when the service does this."""

    async def run() -> Answer:
        async with serving(folder, {"allocate": answer}, limits) as api:
            return await api.ask("POST", f"{C}/allocations", data=GOOD, headers=JSON)

    return asyncio.run(run())


# The description


def test_the_description_is_valid_openapi() -> None:
    validate(json.loads(json.dumps(DOCUMENT)))


def test_every_route_is_described_and_nothing_else() -> None:
    served = {(route.method, route.path) for route in ROUTES}
    described = {
        (method.upper(), path)
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
    }
    assert served == described


def test_operations_have_names_of_their_own() -> None:
    names = [documented(route)["operationId"] for route in ROUTES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_an_answer_is_as_described(tmp_path: Path, route: Route[Any]) -> None:
    body = BODIES[route.body] if route.body is not None else None

    async def run() -> Answer:
        async with serving(tmp_path, ANSWERS) as api:
            data = None if body is None else msgspec.json.encode(body)
            return await api.ask(route.method, target(route), data=data, headers=JSON)

    answer = asyncio.run(run())
    operation = documented(route)
    assert str(answer.status) in operation["responses"]
    assert answer.status < 300
    if answer.status == 204:
        assert answer.body == b""
        return
    content = operation["responses"][str(answer.status)]["content"]
    media = answer.headers["Content-Type"]
    assert media in content
    if media == "application/json":
        check(content[media]["schema"], answer.json)
    if body is not None:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        check(schema, json.loads(msgspec.json.encode(body)))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_problem_is_as_described(tmp_path: Path, route: Route[Any]) -> None:
    async def run() -> Answer:
        async with serving(tmp_path, ANSWERS) as api:
            return await api.ask(route.method, f"{target(route)}?x=1", headers=JSON)

    answer = asyncio.run(run())
    assert answer.code == "invalid"
    response = documented(route)["responses"]["422"]
    check(response["content"]["application/problem+json"]["schema"], answer.json)


def test_the_description_is_served(tmp_path: Path) -> None:
    async def run() -> Answer:
        async with serving(tmp_path) as api:
            return await api.ask("GET", "/openapi.json")

    assert asyncio.run(run()).json == json.loads(json.dumps(DOCUMENT))


def test_every_path_parameter_has_a_type_and_every_type_a_use() -> None:
    assert {name for route in ROUTES for name in route.parameters} == set(PARAMETERS)


# Problems


def test_a_problem_of_the_service_reaches_the_caller_whole(tmp_path: Path) -> None:
    answer = one(
        tmp_path,
        Problem("pool-cooling", "pool a: 3 addresses rest", do="wait", retry_after=1.2),
    )
    assert answer.status == 503
    assert answer.code == "pool-cooling"
    assert answer.headers["Retry-After"] == "2"
    got = Problem.decode(answer.status, answer.body)
    assert (got.detail, got.do, got.retry_after) == ("pool a: 3 addresses rest", "wait", 1.2)


def test_a_failure_of_the_server_is_logged_under_the_id_the_caller_gets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        answer = one(tmp_path, ZeroDivisionError("the secret reason"))
    assert answer.status == 500
    assert answer.code == "internal"
    [record] = [record for record in caplog.records if record.name == "netspace.http_application"]
    assert vars(record)["id"] in answer.json["do"]
    assert record.exc_info
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body
    assert answer.headers["Server"] == "netspace"


def test_a_change_that_takes_too_long_is_of_unknown_outcome(tmp_path: Path) -> None:
    async def slow() -> None:
        await asyncio.sleep(5)

    assert one(tmp_path, slow, Limits(timeout=0.1)).code == "outcome-unknown"


def test_a_reading_that_takes_too_long_is_unavailable(tmp_path: Path) -> None:
    async def slow() -> None:
        await asyncio.sleep(5)

    async def run() -> Answer:
        async with serving(tmp_path, {"pools": slow}, Limits(timeout=0.1)) as api:
            return await api.ask("GET", f"{C}/pools")

    assert asyncio.run(run()).code == "unavailable"


async def asked_for_pools(api: Api, times: int) -> None:
    """Returns once so many requests are being worked on."""
    async with asyncio.timeout(5):
        while len([call for call in api.double.calls if call[0] == "pools"]) < times:
            await asyncio.sleep(0.01)


def test_beyond_the_limit_requests_are_told_to_come_back_and_health_is_still_answered(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        go = asyncio.Event()

        async def held() -> list[Any]:
            await go.wait()
            return []

        async with serving(tmp_path, {"pools": held}, Limits(concurrent=2)) as api:
            first = [asyncio.create_task(api.ask("GET", f"{C}/pools")) for _ in range(2)]
            await asked_for_pools(api, 2)
            third = await api.ask("GET", f"{C}/pools")
            assert third.code == "busy"
            assert third.headers["Retry-After"] == "1"
            assert (await api.ask("GET", "/healthz")).status == 200
            go.set()
            assert [answer.status for answer in await asyncio.gather(*first)] == [200, 200]
            assert (await api.ask("GET", f"{C}/pools")).status == 200

    asyncio.run(run())


def test_before_the_state_is_open_the_api_says_so_and_lives(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as api:
            api.backend.directory = None
            for path in (f"{C}/pools", "/v1/status", "/readyz"):
                assert (await api.ask("GET", path)).code == "state-unavailable"
            assert (await api.ask("GET", "/healthz")).status == 200
            assert (await api.ask("GET", "/metrics")).status == 200

    asyncio.run(run())


def test_a_caller_that_goes_away_does_not_disturb_the_server(tmp_path: Path) -> None:
    async def run() -> None:
        done = asyncio.Event()

        async def slow() -> Any:
            await asyncio.sleep(0.1)
            done.set()
            return ALLOCATION

        async with serving(tmp_path, {"allocate": slow}) as api:
            _, writer = await asyncio.open_unix_connection(str(api.socket))
            writer.write(
                f"POST {C}/allocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(GOOD)}\r\n\r\n".encode()
                + GOOD
            )
            await asyncio.sleep(0.05)
            writer.close()
            await asyncio.wait_for(done.wait(), 5)
            assert (await api.ask("GET", "/healthz")).status == 200

    asyncio.run(run())


# Health and metrics


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (
            msgspec.structs.replace(
                STATUS,
                ready=False,
                clusters=[msgspec.structs.replace(CLUSTER_STATUS, leading=False, leader=None)],
            ),
            "cluster east has no leader",
        ),
        (
            msgspec.structs.replace(
                STATUS,
                ready=False,
                store=[
                    m.StoreMember(
                        endpoint="e", version=None, size=None, leader=False, error="etcd is away"
                    )
                ],
            ),
            "etcd is away",
        ),
        (msgspec.structs.replace(STATUS, ready=False, clusters=[]), "not been read"),
        (
            msgspec.structs.replace(
                STATUS, clusters=[msgspec.structs.replace(CLUSTER_STATUS, leading=False)]
            ),
            "earlier term",
        ),
    ],
)
def test_not_ready_says_what_is_missing(tmp_path: Path, status: m.Status, why: str) -> None:
    async def run() -> Answer:
        async with serving(tmp_path, {"status": status}) as api:
            return await api.ask("GET", "/readyz")

    answer = asyncio.run(run())
    assert answer.status == 503
    assert answer.code == "unavailable"
    assert why in answer.json["detail"]


def test_metrics_count_requests_by_route_and_problems_by_code(tmp_path: Path) -> None:
    async def run() -> str:
        async with serving(tmp_path, {"pools": []}) as api:
            await api.ask("GET", f"{C}/pools")
            await api.ask("GET", "/v1/clusters/west/pools")
            await api.ask("GET", "/v1/clusters/EAST/pools")
            await api.ask("GET", "/nowhere")
            await api.ask("DELETE", "/v1/status")
            return (await api.ask("GET", "/metrics")).body.decode()

    lines = asyncio.run(run()).splitlines()
    route = 'method="GET",route="/v1/clusters/{cluster}/pools"'
    assert f'netspace_http_requests_total{{{route},status="200"}} 2.0' in lines
    assert f'netspace_http_requests_total{{{route},status="422"}} 1.0' in lines
    assert f"netspace_http_request_duration_seconds_count{{{route}}} 3.0" in lines
    assert 'netspace_http_requests_total{method="other",route="none",status="404"} 1.0' in lines
    assert 'netspace_http_requests_total{method="other",route="none",status="405"} 1.0' in lines
    for of, code in (
        (route, "invalid"),
        ('method="other",route="none"', "not-found"),
        ('method="other",route="none"', "method-not-allowed"),
    ):
        assert f'netspace_http_problems_total{{code="{code}",{of}}} 1.0' in lines
    assert all(line.startswith(("#", "netspace_")) for line in lines)


def test_stopping_lets_requests_finish_and_takes_no_new_ones(tmp_path: Path) -> None:
    async def run() -> None:
        async def slow() -> list[Any]:
            await asyncio.sleep(0.5)
            return []

        async with serving(tmp_path, {"pools": slow}) as api:
            request = asyncio.create_task(api.ask("GET", f"{C}/pools"))
            await asked_for_pools(api, 1)
            stopping = asyncio.create_task(api.server.stop())
            await asyncio.sleep(0.05)
            with pytest.raises(OSError):
                await asyncio.open_unix_connection(str(api.socket))
            assert (await request).status == 200
            await stopping
            assert not api.socket.exists()
            with pytest.raises(OSError):
                await api.ask("GET", "/healthz")

    asyncio.run(run())
