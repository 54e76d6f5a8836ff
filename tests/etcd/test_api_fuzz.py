"""The API against its own description: schemathesis asks a real server what the OpenAPI document
allows and what it forbids, and holds every answer against the document.

The requests are the same in every run; `NETSPACE_FUZZ_SEED=N` draws others.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import pytest

from ipam_server.api import ROUTES
from ipam_server.client import Client
from lab import programs
from lab.etcd import Etcd, free_ports
from lab.server import Server, until
from netspace import messages as m
from netspace.upkeep import Inspection
from netspacectl import exits

SETTINGS: Final = programs.CLONE / "tests" / "data" / "schemathesis.toml"
SEED: Final = os.environ.get("NETSPACE_FUZZ_SEED", "")
GROWTH: Final = 64
"""MiB that a server may grow by: what is made is small, and no request may leave anything."""
OWN_DOCUMENT: Final = "GET /openapi.json"
"""It is fetched before the run; schemathesis leaves it out then."""
T = TypeVar("T")


PAGE: Final = os.sysconf("SC_PAGE_SIZE")


async def seed(client: Client) -> None:
    """Something of each kind to look at, to use and to delete; the settings name it."""
    for fabric in ("spare-1", "spare-2"):
        await client.create_fabric(m.NewFabric(name=fabric))
    for cluster in ("west", "spare-1", "spare-2", "spare-3", "spare-4"):
        await client.create_cluster(m.NewCluster(name=cluster))
    base = m.NewNetwork(
        name="base", vlan=908, ipv4="10.8.0.0/24", ipv6="fd00:8::/64", gateway4="10.8.0.1"
    )
    await client.create_network("west", base)
    for at in (1, 2):
        spare = m.NewNetwork(name=f"spare-{at}", vlan=at, ipv4=f"10.7.{at}.0/24")
        await client.create_network("west", spare)
    await client.create_pool(
        "west", m.NewPool(name="all", kind="default", network="base", size="64", cooldown=0)
    )
    elastic = m.Elastic(minimum=4, maximum=32)
    for name in ("grown", "spare-1", "spare-2"):
        pool = m.NewPool(
            name=name, kind="netspace", network="base", namespaces=["*"], elastic=elastic
        )
        await client.create_pool("west", pool)
    for at in range(4):
        await client.reserve("west", m.Reserve(network="base", address=f"10.8.0.{200 + at}"))
    for number in range(1, 9):
        await client.allocate("west", request(number))


def request(number: int) -> m.AllocateRequest:
    return m.AllocateRequest(
        attachment=m.AttachmentId(container=f"c{number}", ifname="eth0"),
        claim=f"{number:032x}",
        node="node-1",
        pod=m.Pod(namespace="a", name=f"web-{number}", uid=f"u{number}"),
    )


@dataclass
class Served:
    server: Server
    web: str
    """Where schemathesis asks: it knows no Unix sockets."""

    @property
    def resident(self) -> int:
        """MiB of memory."""
        assert self.server.process is not None
        statm = Path(f"/proc/{self.server.process.pid}/statm").read_text()
        return int(statm.split()[1]) * PAGE >> 20

    def ask(self, work: Callable[[Client], Awaitable[T]]) -> T:
        async def run() -> T:
            async with Client([self.server.url]) as client:
                return await work(client)

        return asyncio.run(run())


@pytest.fixture
def served(etcd: Etcd, make_server: Callable[..., Server], tmp_path: Path) -> Served:
    """A server on a Unix socket and on loopback, with what `seed` makes."""
    web = f"http://127.0.0.1:{free_ports('127.0.0.1', 1)[0]}"
    own = f"unix://{tmp_path}/server-0/server.sock"
    server = make_server(etcd.url, listen=[own, web], leader_ttl=60).start()
    until(lambda: server.said("ready"), "the server is ready")
    served = Served(server, web)
    served.ask(seed)
    return served


def fuzz(folder: Path, web: str) -> subprocess.CompletedProcess[str]:
    """One run of schemathesis, which leaves `events.ndjson` in the folder."""
    chosen = ["--seed", SEED] if SEED else ["--generation-deterministic"]
    program = Path(sys.executable).with_name("schemathesis")
    command = [str(program), "--config-file", str(SETTINGS), "run", *chosen, "--no-color"]
    command += ["--report", "ndjson", "--report-ndjson-path", str(folder / "events.ndjson")]
    command += ["--request-timeout", "20", f"{web}/openapi.json"]
    return subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900
    )


def answers(events: Path) -> Counter[tuple[str, int]]:
    """How often each operation was answered with each status."""
    counted: Counter[tuple[str, int]] = Counter()
    for line in events.read_text().splitlines():
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        cases = recorder.get("cases", {})
        for ident, exchange in recorder.get("interactions", {}).items():
            asked = cases[ident]["value"]
            status = (exchange.get("response") or {}).get("status_code", 0)
            counted[f"{asked['method']} {asked['path']}", status] += 1
    return counted


def test_every_answer_is_one_that_the_description_has(served: Served, tmp_path: Path) -> None:
    before = served.resident
    done = fuzz(tmp_path, served.web)
    print(f"seed {SEED or 'none: the requests of every run'}\n{done.stdout[-6000:]}")
    assert done.returncode == 0, done.stdout + done.stderr

    counted = answers(tmp_path / "events.ndjson")
    reached = {operation for operation, status in counted if 200 <= status < 300}
    assert {f"{route.method} {route.path}" for route in ROUTES} - reached == {OWN_DOCUMENT}
    assert counted.total() > 1500
    assert {status for _, status in counted if status >= 500} <= {503}

    assert served.resident < before + GROWTH
    log = (served.server.folder / "log").read_text()
    assert "Traceback" not in log
    assert not served.server.said("a request failed unexpectedly")
    for cluster in served.ask(lambda client: client.clusters()):
        found = served.ask(functools.partial(inspect, cluster=cluster.name))
        assert found.findings == []
    assert audit(served, "west") == set()
    allocation = served.ask(lambda client: client.allocate("west", request(100)))
    assert allocation.pool == "all"


async def inspect(client: Client, cluster: str) -> Inspection:
    return await client.inspect(cluster)


def audit(served: Served, cluster: str) -> set[str]:
    """The codes of what `netspacectl audit` finds."""
    program = Path(sys.executable).with_name("netspacectl")
    command = [str(program), "--server", served.server.url, "--cluster", cluster, "-o", "json"]
    done = subprocess.run([*command, "audit"], capture_output=True, text=True, timeout=60)
    assert done.returncode in (exits.DONE, exits.DIFFERS), done.stderr
    return {finding["code"] for finding in json.loads(done.stdout)["findings"]}
