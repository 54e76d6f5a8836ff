"""What a real server tells Prometheus: every metric there is, and figures that follow events."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from ipam_server.client import Client
from lab import programs
from lab.etcd import Etcd
from lab.server import HASTY, Server, until
from netspace import messages as m
from netspace.http_client import HttpClient
from netspace.problems import Problem
from tests.etcd.conftest import ALONE
from tests.observability import METRICS_PAGE, documented, queries
from tests.pki import SERVER, Pki

Make = Callable[..., Server]
EAST = {"cluster": "east"}
WEB = {**EAST, "pool": "web", "kind": "netspace"}


def exposition(server: Server) -> str:
    async def ask() -> bytes:
        client = HttpClient([server.url])
        try:
            return await client.request("GET", "/metrics")
        finally:
            await client.close()

    return asyncio.run(ask()).decode()


class Figures:
    """A server's exposition at one moment."""

    def __init__(self, server: Server) -> None:
        self.families: dict[str, Metric] = {
            family.name: family for family in text_string_to_metric_families(exposition(server))
        }
        self._samples = [
            (sample.name, sample.labels, sample.value)
            for family in self.families.values()
            for sample in family.samples
        ]

    def value(self, name: str, **labels: str) -> float | None:
        """The one sample that has these labels; None if there is none."""
        found = [
            value
            for known, said, value in self._samples
            if known == name and labels.items() <= said.items()
        ]
        assert len(found) < 2, (name, labels, found)
        return found[0] if found else None


async def declare(server: Server, size: int = 4) -> None:
    async with Client([server.url]) as client:
        await client.create_cluster(m.NewCluster(name="east"))
        await client.create_network("east", m.NewNetwork(name="red", ipv4="10.0.0.0/16"))
        await client.create_pool(
            "east",
            m.NewPool(
                name="web",
                kind="netspace",
                network="red",
                size=str(size),
                cooldown=600,
                namespaces=["*"],
            ),
        )


def asking(number: int, pool: str = "web") -> m.AllocateRequest:
    return m.AllocateRequest(
        attachment=m.AttachmentId(container=f"c{number}", ifname="eth0"),
        claim=f"{number:032x}",
        node="node-1",
        pod=m.Pod(namespace="team", name=f"p{number}", uid=f"u{number}"),
        selection=m.Selection(netspace=pool),
    )


async def allocate(server: Server, *numbers: int, pool: str = "web") -> list[m.Allocation]:
    async with Client([server.url]) as client:
        return [await client.allocate("east", asking(number, pool)) for number in numbers]


async def refused(server: Server, number: int, pool: str) -> str:
    with pytest.raises(Problem) as caught:
        await allocate(server, number, pool=pool)
    return caught.value.code


def started(make_server: Make, etcd: Etcd, /, **settings: object) -> Server:
    server = make_server(etcd.url, **settings)
    server.start()
    until(lambda: server.said("ready"), "the server is ready")
    return server


@pytest.fixture
def server(etcd: Etcd, make_server: Make) -> Server:
    server = started(make_server, etcd)
    asyncio.run(declare(server))
    return server


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of which every metric has a sample."""
    folder = tmp_path_factory.mktemp("whole")
    files = Pki(folder).make(SERVER, ["127.0.0.1"], server=True)
    tls = {"ca": str(files.ca), "cert": str(files.cert), "key": str(files.key)}
    with Etcd(folder / "etcd", arguments=ALONE) as etcd:
        place = folder / "server"
        place.mkdir()
        server = Server(place, etcd.url, tls=tls)
        server.start()
        try:
            until(lambda: server.said("ready"), "the server is ready")
            asyncio.run(declare(server))
            asyncio.run(allocate(server, 1, 2))
            asyncio.run(refused(server, 3, "nowhere"))
            heard = "netspace_cluster_lag_revisions"
            until(lambda: Figures(server).value(heard, **EAST) is not None, "it has looked")
            yield server
        finally:
            server.end(signal.SIGKILL)


def test_promtool_finds_nothing_wrong_with_the_metrics(whole: Server) -> None:
    done = subprocess.run(
        [programs.find("promtool"), "check", "metrics"],
        input=exposition(whole),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_page_has_every_metric_with_its_type_and_labels(whole: Server) -> None:
    told = {}
    for family in Figures(whole).families.values():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        told[name] = (family.type, labels, family.documentation)
    page = documented()
    assert page.keys() == told.keys(), METRICS_PAGE
    for name, (kind, labels) in page.items():
        assert kind == told[name][0], name
        assert labels == told[name][1] or not told[name][1], name
        assert told[name][2], name


def test_every_metric_of_the_dashboard_and_the_rules_exists_with_its_labels(whole: Server) -> None:
    known: dict[str, set[str]] = {}
    for name, (kind, labels) in documented().items():
        parts = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        for part in parts:
            known[name + part] = labels | ({"le"} if part == "_bucket" else set())
    used = 0
    for query in queries():
        for name, labels in query.selectors:
            assert name in known, query.expression
            assert labels <= known[name] | {"job", "instance"}, query.expression
            used += 1
    assert used > 50


def test_a_pool_that_is_filled_says_so(server: Server) -> None:
    before = Figures(server)
    assert before.value("netspace_pool_size_addresses", **WEB) == 4
    assert before.value("netspace_pool_addresses", **WEB, state="free") == 4
    given = asyncio.run(allocate(server, 1, 2, 3))

    async def more() -> None:
        async with Client([server.url]) as client:
            free = {f"10.0.0.{n}" for n in range(1, 6)} - {each.ipv4 for each in given}
            pool = await client.pool("east", "web")
            address = next(a for a in sorted(free) if _within(a, pool))
            await client.reserve("east", m.Reserve(address=address, network="red"))
            one = given[0]
            request = m.ReleaseRequest(
                attachment=m.AttachmentId(container="c1", ifname="eth0"),
                node="node-1",
                claim=f"{1:032x}",
                generation=one.generation,
            )
            assert (await client.release("east", request)).released

    asyncio.run(more())
    assert asyncio.run(refused(server, 9, "web")) == "pool-cooling"
    after = Figures(server)
    states = {
        state: after.value("netspace_pool_addresses", **WEB, state=state)
        for state in ("used", "cooling", "retained", "free")
    }
    assert states == {"used": 3, "cooling": 1, "retained": 0, "free": 0}
    assert after.value("netspace_pool_reserved_addresses", **WEB) == 1
    assert after.value("netspace_pool_growable_addresses", **WEB) == 0
    assert after.value("netspace_network_addresses", **EAST, state="carved") == 4
    assert after.value("netspace_freed_addresses_total", **EAST, cause="release") == 1
    assert after.value("netspace_cluster_used_addresses", **EAST) == 3


def _within(address: str, pool: m.Pool) -> bool:
    first, _, last = pool.ranges[0].partition("-")
    number = int(address.rpartition(".")[2])
    return int(first.rpartition(".")[2]) <= number <= int((last or first).rpartition(".")[2])


def test_an_allocation_is_timed_in_its_phases_and_counted_with_its_transaction(
    server: Server,
) -> None:
    asyncio.run(allocate(server, 1, 2, 2))
    figures = Figures(server)
    assert figures.value("netspace_allocation_duration_seconds_count", **EAST) == 3
    whole = figures.value("netspace_allocation_duration_seconds_sum", **EAST)
    parts = 0.0
    for phase in ("wait", "decision", "queue", "commit"):
        labels = {**EAST, "phase": phase}
        count = figures.value("netspace_allocation_phase_duration_seconds_count", **labels)
        assert count == 2, "the repeated one took no slot"
        parts += figures.value("netspace_allocation_phase_duration_seconds_sum", **labels) or 0
    assert whole is not None
    assert 0 < parts <= whole
    assert (figures.value("netspace_transaction_changes_sum", **EAST) or 0) >= 4


def test_a_problem_is_counted_under_its_code(server: Server) -> None:
    assert asyncio.run(refused(server, 1, "nowhere")) == "pool-unknown"
    figures = Figures(server)
    route = {"method": "POST", "route": "/v1/clusters/{cluster}/allocations"}
    counted = figures.value("netspace_http_problems_total", **route, code="pool-unknown")
    assert counted == 1
    assert figures.value("netspace_http_requests_total", **route, status="404") == 1
    problems = "netspace_allocation_problems_total"
    assert figures.value(problems, **EAST, code="pool-unknown") == 1
    assert figures.value(problems, **EAST, code="pool-exhausted") == 0


def test_what_a_request_names_is_no_label(server: Server) -> None:
    def names() -> int:
        return exposition(server).count("\n")

    asyncio.run(refused(server, 1, "nowhere"))
    exposition(server)
    before = names()

    async def strange() -> None:
        client = HttpClient([server.url])
        for number in range(20):
            for path in (f"/v1/clusters/c{number}/pools", f"/v1/x{number}", f"/y{number}"):
                with pytest.raises(Problem):
                    await client.request("GET", path)
            with pytest.raises(Problem):
                await allocate(server, number, pool=f"pool{number}")
        await client.close()

    asyncio.run(strange())
    # One row for the list of pools, with its status, its code and its histogram, one for nowhere.
    assert names() - before < 50
    text = exposition(server)
    assert not [word for word in ("c7", "x7", "y7", "pool7") if word in text]


def test_a_killed_leader_is_a_leader_change_and_a_follower_says_how_far_behind_it_is(
    etcd: Etcd, make_server: Make
) -> None:
    first = started(make_server, etcd, name="s1", **HASTY)
    asyncio.run(declare(first))
    second = started(make_server, etcd, name="s2", **HASTY)
    lag = "netspace_cluster_lag_revisions"
    until(lambda: Figures(second).value(lag, **EAST) == 0, "the follower has heard of the leader")
    figures = Figures(second)
    changes = "netspace_cluster_leader_changes_total"
    assert figures.value("netspace_cluster_leading", **EAST) == 0
    assert figures.value(changes, **EAST) == 0
    assert Figures(first).value("netspace_cluster_leading", **EAST) == 1
    # The leader goes on writing meanwhile; what the follower read at its start may be later still.
    at = "netspace_cluster_revision"
    reached = Figures(first).value(at, **EAST)
    assert reached
    until(
        lambda: (Figures(second).value(at, **EAST) or 0) >= reached,
        "the follower has come as far",
    )
    first.end(signal.SIGKILL)
    leading = "netspace_cluster_leading"
    until(lambda: Figures(second).value(leading, **EAST) == 1, "the follower leads")
    assert Figures(second).value(changes, **EAST) == 1
    assert asyncio.run(allocate(second, 1))
    until(lambda: Figures(second).value("netspace_ready") == 1, "it is ready")


def test_etcd_is_told_of_with_its_quota_its_alarm_and_whether_it_is_reached(
    tmp_path: Path, make_server: Make, make_etcd: Callable[[Etcd], Etcd]
) -> None:
    etcd = make_etcd(Etcd(tmp_path / "small", arguments=ALONE))
    server = started(make_server, etcd, etcd={
        "endpoints": [etcd.url], "timeout": 1, "quota": 64 * 2**20,
    })  # fmt: skip
    reached = "netspace_etcd_reachable"
    until(lambda: Figures(server).value(reached, endpoint=etcd.url) == 1, "it has looked")
    figures = Figures(server)
    size = figures.value("netspace_etcd_database_bytes", endpoint=etcd.url)
    used = figures.value("netspace_etcd_database_in_use_bytes", endpoint=etcd.url)
    assert size and used and used <= size
    assert figures.value("netspace_etcd_quota_bytes", endpoint=etcd.url) == 64 * 2**20
    assert figures.value("netspace_etcd_alarm", alarm="NOSPACE") == 0
    etcd.request("maintenance/alarm", {"action": "ACTIVATE", "alarm": "NOSPACE"})
    alarm = "netspace_etcd_alarm"
    until(lambda: Figures(server).value(alarm, alarm="NOSPACE") == 1, "the alarm is told")
    etcd.kill()
    until(lambda: Figures(server).value(reached, endpoint=etcd.url) == 0, "it is missed")
    figures = Figures(server)
    assert figures.value("netspace_ready") == 0
    assert figures.value("netspace_etcd_database_bytes", endpoint=etcd.url) is None
