"""`netspacectl apply`, `export` and `plan` against a server's process over a real etcd."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ipam_server.client import Client
from lab.etcd import Etcd
from lab.server import Server
from netspace import messages as m
from netspace.problems import Problem
from netspacectl import exits
from netspacectl.app import App
from netspacectl.main import run
from tests.etcd.test_server_process import request, wait_ready

EXAMPLE = Path(__file__).parents[2] / "conf" / "plan.yaml"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def server(etcd: Etcd, make_server: Callable[..., Server]) -> Server:
    server = make_server(etcd.url).start()
    wait_ready(server)
    return server


def ctl(server: Server, *arguments: str) -> int:
    return run(("--server", server.url, *arguments), App())


def apply(server: Server, folder: Path, text: str, *options: str) -> int:
    path = folder / "plan.yaml"
    path.write_text(text)
    return ctl(server, "apply", "-f", str(path), *options)


def test_a_plan_is_applied_once_exported_changed_and_pruned(
    server: Server, tmp_path: Path, capsys: Capture
) -> None:
    example = EXAMPLE.read_text()
    assert apply(server, tmp_path, example, "--dry-run") == exits.DIFFERS
    assert apply(server, tmp_path, example, "--yes") == 0
    capsys.readouterr()
    assert apply(server, tmp_path, example, "--yes") == 0
    assert capsys.readouterr().out == "nothing to do\n"

    assert ctl(server, "export") == 0
    exported = capsys.readouterr().out
    assert apply(server, tmp_path, exported, "--dry-run", "--prune") == 0
    capsys.readouterr()

    wanted = yaml.safe_load(example)
    networks = wanted["clusters"]["east"]["networks"]
    tenant = networks["vlan910"]["pools"]["tenant-a"]
    tenant |= {"size": 80, "namespaces": ["team-c"]}
    networks["vlan910"] |= {"mtu": 9000, "exclude": ["10.91.0.254"]}
    networks["vlan920"]["pools"] = {
        "metrics": {"kind": "application", "ranges": ["10.92.0.64/27"], "namespaces": ["*"]}
    }
    del networks["storage"]
    assert apply(server, tmp_path, yaml.safe_dump(wanted), "--yes", "--prune") == 0
    capsys.readouterr()
    assert ctl(server, "plan", "-c", "east", "-o", "json") == 0
    shown = json.loads(capsys.readouterr().out)
    blue, red = shown["clusters"][0]["networks"]
    assert (blue["mtu"], blue["exclude"]) == (9000, ["10.91.0.254"])
    (tenant, default) = sorted(blue["pools"], key=lambda pool: pool["kind"], reverse=True)
    assert (tenant["size"], default["size"]) == ("72", "100")
    assert [pool["namespaces"] for pool in (tenant, *tenant["pools"])] == [["team-c"], ["team-c"]]
    assert [pool["ranges"] for pool in red["pools"]] == [["10.92.0.64-10.92.0.95"]]
    assert apply(server, tmp_path, yaml.safe_dump(wanted), "--dry-run", "--prune") == 0


def test_a_step_that_the_server_refuses_ends_it_and_applying_again_goes_on(
    server: Server, tmp_path: Path, capsys: Capture
) -> None:
    pools = "{p: {kind: default, ranges: [%s]}, q: {kind: netspace, size: 8}}"
    network = f"{{ipv4: 10.9.0.0/24, pools: {pools}}}"
    text = f"version: 1\nclusters: {{east: {{networks: {{blue: {network}}}}}}}"
    only_p = text.replace(", q: {kind: netspace, size: 8}", "")
    assert apply(server, tmp_path, only_p % "10.9.0.1-10.9.0.8", "--yes") == 0

    async def hold() -> m.Allocation:
        async with Client([server.url]) as client:
            return await client.allocate("east", request(1))

    async def let_go(held: m.Allocation) -> None:
        async with Client([server.url]) as client:
            release = m.OperatorRelease(
                network="blue", address=str(held.ipv4), generation=held.generation
            )
            assert (await client.operator_release("east", release)).released
            await client.change_pool("east", "p", m.ChangePool(cooldown=0))

    held = asyncio.run(hold())
    assert held.ipv4 == "10.9.0.1"
    moved = text.replace("ranges: [%s]", "ranges: [%s], cooldown: 0") % "10.9.0.5-10.9.0.8"
    capsys.readouterr()
    assert apply(server, tmp_path, moved, "--yes") == exits.REFUSED
    captured = capsys.readouterr()
    assert "done 1/3: ~ pool east/p" in captured.out
    assert "10.9.0.1 of pool p is in use" in captured.err
    assert "1 of 3 steps were carried out, the one after it was not" in captured.err
    asyncio.run(let_go(held))
    assert apply(server, tmp_path, moved, "--yes") == 0
    assert "2 to change" not in capsys.readouterr().out
    assert apply(server, tmp_path, moved, "--dry-run") == 0


def test_a_change_in_between_is_not_overwritten(server: Server) -> None:
    async def scenario() -> None:
        async with Client([server.url]) as client:
            await client.create_cluster(m.NewCluster(name="east"))
            await client.create_network("east", m.NewNetwork(name="blue", ipv4="10.9.0.0/24"))
            new = m.NewPool(name="p", kind="default", network="blue", size="8")
            seen = (await client.create_pool("east", new)).revision
            await client.grow_pool("east", "p", m.ResizePool(revision=seen, size="2"))
            for resize in (client.grow_pool, client.shrink_pool):
                with pytest.raises(Problem) as caught:
                    await resize("east", "p", m.ResizePool(revision=seen, size="2"))
                assert caught.value.code == "changed"
            assert (await client.pool("east", "p")).size == "10"

    asyncio.run(scenario())
