"""`netspacectl network adopt` against a server's process over a real etcd."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from ipam_server.client import Client
from lab.etcd import Etcd
from lab.server import Server
from netspace import messages as m
from netspacectl import exits
from netspacectl.app import App
from netspacectl.main import run
from tests.etcd.test_server_process import wait_ready

SPACE = m.NewNetwork(
    name="vlan910",
    parent="bond0",
    vlan=910,
    ipv4="10.91.0.0/24",
    ipv6="fd00:91::/64",
    gateway4="10.91.0.1",
    exclude=["10.91.0.200-10.91.0.254"],
)
OTHER = m.NewNetwork(name="vlan920", parent="bond0", vlan=920, ipv4="10.92.0.0/24")
WRONG = m.NewNetwork(name="vlan920", parent="bond0", vlan=921, ipv4="10.92.0.0/24")


@pytest.fixture
def server(etcd: Etcd, make_server: Callable[..., Server]) -> Server:
    server = make_server(etcd.url).start()
    wait_ready(server)

    async def prepare() -> None:
        async with Client([server.url]) as client:
            await client.create_fabric(m.NewFabric(name="default"))
            await client.create_cluster(m.NewCluster(name="east"))
            for node, networks in {"a": [SPACE, OTHER], "b": [SPACE, WRONG]}.items():
                report = m.NodeReport(version="1", networks=networks)
                await client.report_node("east", node, report)

    asyncio.run(prepare())
    return server


def ctl(server: Server, *arguments: str) -> int:
    return run(("--server", server.url, *arguments), App())


def networks(server: Server) -> list[str]:
    async def ask() -> list[str]:
        async with Client([server.url]) as client:
            return [network.name for network in await client.networks("east")]

    return asyncio.run(ask())


def test_reported_address_space_becomes_networks_and_disagreement_is_named(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctl(server, "network", "adopt", "vlan910", "--dry-run") == exits.DIFFERS
    assert networks(server) == []
    assert ctl(server, "network", "adopt") == exits.REFUSED
    told = capsys.readouterr().out
    assert "made: vlan910 on bond0, VLAN 910, 10.91.0.0/24 and fd00:91::/64" in told
    assert "vlan920: nodes disagree: a: vlan 920; b: vlan 921" in told
    assert networks(server) == ["vlan910"]
    assert ctl(server, "network", "adopt", "vlan910") == exits.DONE
    assert "there already: vlan910" in capsys.readouterr().out
    assert ctl(server, "network", "adopt", "vlan920", "--node", "b") == exits.DONE
    assert networks(server) == ["vlan910", "vlan920"]
    assert ctl(server, "network", "adopt", "vlan920", "--node", "a") == exits.REFUSED
    assert "vlan is 921, reported is 920" in capsys.readouterr().out


def test_a_name_that_nobody_reports_is_not_found(server: Server) -> None:
    assert ctl(server, "network", "adopt", "vlan999") == exits.NOT_FOUND
