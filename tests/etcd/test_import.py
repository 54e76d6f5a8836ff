"""`netspacectl import` against a server's process over a real etcd, with what the real host-local
leaves; and what becomes of what was imported."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from cni_plugins.attachment import Host
from cni_plugins.leases import give_back_unrecorded
from cni_plugins.records import Key, Records
from ipam_server.client import Client
from lab import programs
from lab.etcd import Etcd
from lab.server import Server
from netspace import messages as m
from netspace.callers import Caller, enter
from netspace.problems import Problem
from netspace.upkeep import AttachmentsReport
from netspacectl import exits
from netspacectl.app import App
from netspacectl.main import run
from tests.etcd.service_world import make, serving
from tests.etcd.test_server_process import wait_ready
from tests.unit.cluster_world import ask
from tests.unit.cni_doubles import MemoryWiring

T = TypeVar("T")
Capture = pytest.CaptureFixture[str]
GRACE = 1.0


@pytest.fixture
def server(etcd: Etcd, make_server: Callable[..., Server]) -> Server:
    upkeep = {"grace": GRACE, "interval": 1}
    server = make_server(etcd.url, reclaim=upkeep).start()
    wait_ready(server)

    async def prepare(client: Client) -> None:
        await client.create_fabric(m.NewFabric(name="default"))
        await client.create_cluster(m.NewCluster(name="east"))
        new = m.NewNetwork(name="vlan910", vlan=910, ipv4="10.91.0.0/24", ipv6="fd00:91::/64")
        await client.create_network("east", new)
        span = ["10.91.0.2-10.91.0.99"]
        await client.create_pool(
            "east", m.NewPool(name="main", kind="default", network="vlan910", ranges=span)
        )

    asked(server, prepare)
    return server


def asked(server: Server, question: Callable[[Client], Awaitable[T]]) -> T:
    async def work() -> T:
        async with Client([server.url]) as client:
            return await question(client)

    return asyncio.run(work())


def ctl(server: Server, *arguments: str) -> int:
    return run(("--server", server.url, *arguments), App())


def entry(server: Server, address: str) -> m.AddressEntry:
    return asked(server, lambda client: client.address("east", address))


@pytest.fixture
def left_by_host_local(tmp_path: Path) -> Path:
    """The folder after two ADDs in both families and one DEL, all by the real plugin."""
    folder = programs.cni_dir()
    if folder is None or not (folder / "host-local").exists():
        pytest.skip("needs host-local: ./run setup brings it")
    conf = {
        "cniVersion": "1.0.0",
        "name": "vlan910",
        "ipam": {
            "type": "host-local",
            "dataDir": str(tmp_path),
            "ranges": [
                [{"subnet": "10.91.0.0/24", "rangeStart": "10.91.0.10"}],
                [{"subnet": "fd00:91::/64", "rangeStart": "fd00:91::a"}],
            ],
        },
    }
    for command, container in (("ADD", "c1"), ("ADD", "c2"), ("ADD", "c3"), ("DEL", "c2")):
        environ = {
            "PATH": os.defpath,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": "/var/run/netns/x",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(folder),
        }
        subprocess.run(
            [folder / "host-local"], input=json.dumps(conf).encode(), env=environ, check=True,
            capture_output=True,
        )  # fmt: skip
    return tmp_path / "vlan910"


def sandboxes(path: Path, **pods: str) -> Path:
    """`crictl pods -o json` of a node that has these containers with these pods."""
    path.write_text(
        json.dumps(
            {
                "items": [
                    {
                        "id": container,
                        "metadata": {"name": pod, "namespace": "team-a", "uid": f"u-{pod}"},
                        "state": "SANDBOX_READY",
                    }
                    for container, pod in pods.items()
                ]
            }
        )
    )
    return path


def test_what_host_local_gave_is_shown_first_then_held_and_done_once(
    server: Server, left_by_host_local: Path, tmp_path: Path, capsys: Capture
) -> None:
    known = str(sandboxes(tmp_path / "crictl.json", c1="web-0", c3="web-1"))
    where = (str(left_by_host_local), "--node", "node-1", "--sandboxes", known)
    words = ("import", "host-local", *where)
    assert ctl(server, *words) == exits.DIFFERS
    assert "2 to be attached" in capsys.readouterr().out
    assert entry(server, "10.91.0.10").state == "never"
    assert ctl(server, *words, "--yes") == exits.DONE
    assert "2 attached" in capsys.readouterr().out
    held = entry(server, "10.91.0.10")
    assert (held.state, held.pod, held.node, held.container) == ("used", "web-0", "node-1", "c1")
    assert held.ipv6 == "fd00:91::a"
    assert held.note == "imported: team-a/web-0"
    assert entry(server, "10.91.0.11").state == "never"
    assert ctl(server, *words, "--yes") == exits.DONE
    assert "2 there" in capsys.readouterr().out
    assert entry(server, "10.91.0.10").generation == held.generation


def test_one_conflict_keeps_all_from_being_done_unless_it_is_skipped(
    server: Server, tmp_path: Path, capsys: Capture
) -> None:
    table = tmp_path / "a.csv"
    table.write_text(
        "ipv4,namespace,pod,node,container,ifname\n"
        "10.91.0.20,a,web-0,node-1,c1,eth0\n"
        "10.91.0.21,a,web-1,,,\n"
        "10.91.0.200,a,web-2,node-1,c2,eth0\n"
    )
    words = ("import", "csv", "-f", str(table), "--yes")
    assert ctl(server, *words) == exits.REFUSED
    told = capsys.readouterr()
    assert "lies in no pool" in told.out
    assert "nothing was changed" in told.err
    assert entry(server, "10.91.0.20").state == "never"
    assert ctl(server, *words, "--skip-conflicts") == exits.REFUSED
    assert entry(server, "10.91.0.20").container == "c1"
    reserved = entry(server, "10.91.0.21")
    assert (reserved.state, reserved.note) == ("reserved", "imported: a/web-1")


def test_a_del_frees_it_and_a_node_that_does_not_know_it_does_not(
    server: Server, tmp_path: Path
) -> None:
    table = tmp_path / "a.csv"
    table.write_text("ipv4,namespace,pod,node,container,ifname\n10.91.0.20,a,b,node-1,c1,eth0\n")
    assert ctl(server, "import", "csv", "-f", str(table), "--yes") == exits.DONE

    async def missed(client: Client) -> None:
        for _ in range(2):
            seen = (await client.node_attachments("east", "node-1")).revision
            report = AttachmentsReport(seen=seen, since=0, attachments=[])
            assert (await client.report_attachments("east", "node-1", report)).missing == 0
            await asyncio.sleep(GRACE)
        assert not (await client.reclaim("east")).freed

    asked(server, missed)
    assert entry(server, "10.91.0.20").state == "used"

    async def deleted(client: Client) -> None:
        host = Host(
            cluster="east",
            node="node-1",
            records=Records(tmp_path / "node"),
            client=client,
            wiring=MemoryWiring(),
            environ={},
        )
        await give_back_unrecorded(host, Key("c1", "eth0"))

    asked(server, deleted)
    assert entry(server, "10.91.0.20").state in ("free", "cooling")


def test_what_no_del_came_for_goes_by_the_list_of_pods(
    server: Server, tmp_path: Path, capsys: Capture
) -> None:
    table, pods = tmp_path / "a.csv", tmp_path / "pods.json"
    table.write_text(
        "ipv4,namespace,pod,node,container,ifname\n"
        "10.91.0.20,a,web-0,node-1,c1,eth0\n"
        "10.91.0.21,a,web-1,node-1,c2,eth0\n"
        "10.91.0.22,a,web-2,,,\n"
    )
    assert ctl(server, "import", "csv", "-f", str(table), "--yes") == exits.DONE
    live = {"kind": "Pod", "metadata": {"namespace": "a", "name": "web-0", "uid": "u"}}
    pods.write_text(json.dumps({"kind": "List", "items": [live]}))
    assert ctl(server, "import", "gone", "--pods", str(pods)) == exits.DIFFERS
    capsys.readouterr()
    assert ctl(server, "import", "gone", "--pods", str(pods), "--yes", "-o", "json") == exits.DONE
    freed = json.loads(capsys.readouterr().out)
    assert [each["addresses"][0] for each in freed] == ["10.91.0.21", "10.91.0.22"]
    assert entry(server, "10.91.0.20").state == "used"
    assert {entry(server, f"10.91.0.{last}").state for last in (21, 22)} <= {"free", "cooling"}


def test_a_node_may_not_take_over_and_so_keep_what_it_should_report(shared_etcd: Etcd) -> None:
    async def work() -> None:
        async with serving(shared_etcd.url) as directory:
            service = await make(directory, "imports")
            request = msgspec.structs.replace(ask("c1"), note="imported: a/b")

            async def as_caller(caller: Caller) -> Any:
                enter(caller)
                return await service.allocate(request)

            for caller in (Caller("node", "imports", "node-1"), Caller("controller", "imports")):
                with pytest.raises(Problem) as caught:
                    await asyncio.create_task(as_caller(caller))
                assert caught.value.code == "forbidden"
            await asyncio.create_task(as_caller(Caller("admin", name="alice")))

    asyncio.run(work())
