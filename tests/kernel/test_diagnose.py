"""`netspace-agent diagnose`: what is wrong is named with what to do, and nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface
from pathlib import Path

import pytest

from cni_plugins import diagnosis, node_config
from cni_plugins.attachment import Host
from cni_plugins.findings import Finding, told
from hostnet import (
    Kernel,
    Net,
    add_address,
    delete_link,
    get_link,
    run_in,
    set_down,
    set_up,
    write_sysctl,
)
from ipam_server.client import Client
from tests.node_fixtures import CLUSTER
from tests.nodes import IpamServer, Node
from tests.repairing import Pod, add_pod, delete_pod, reconciled
from tests.wires import namespaces, wire


@pytest.fixture
def node(server: IpamServer, tmp_path: Path) -> Iterator[Node]:
    """A node as it should be, whose gateways answer."""
    with namespaces(2) as (host, other):
        wire(host, "up0", other, "far0")

        def gateways(net: Net) -> None:
            for gateway in ("10.1.0.1/24", "fd00:1::1/64"):
                add_address(net, get_link(net, "far0"), ip_interface(gateway))

        run_in(other, gateways)
        made = Node(host, tmp_path, CLUSTER, server.url)
        reconciled(made)
        yield made


@pytest.fixture
def pod(node: Node) -> Iterator[Pod]:
    with namespaces(1) as (netns,):
        made = add_pod(node, "c1", netns)
        yield made
        delete_pod(node, made)


def diagnosed(node: Node, *, steps: list[str] | None = None) -> list[Finding]:
    config = node_config.load(node.config)

    async def work(host: Host) -> list[Finding]:
        async with Client([node.server_url]) as client:
            kernel = Kernel(None if steps is None else steps.append)
            return await diagnosis.diagnose(config, kernel, client, host)

    return node.inside(work)


def faults(findings: list[Finding]) -> dict[str, str]:
    return {f.subject: f.found for f in findings if f.verdict == "fault"}


def test_a_node_that_is_well_has_no_faults_and_is_not_changed(node: Node, pod: Pod) -> None:
    steps: list[str] = []
    found = diagnosed(node, steps=steps)
    said = [str(finding) for finding in found]
    # This kernel may have no 802.1Q; that is told apart from the rest.
    assert {subject for subject in faults(found) if not subject.startswith("kernel")} == set()
    assert steps == []
    assert any("its gateway 10.1.0.1 answers on up0" in line for line in said), said
    assert any("its gateway fd00:1::1 answers on up0" in line for line in said), said
    assert any("1 interfaces are there" in line for line in said)
    assert not told([f for f in found if "kernel" not in f.subject], said.append)


def test_every_fault_is_named_with_what_to_do(node: Node, pod: Pod) -> None:
    run_in(node.netns, lambda net: write_sysctl(net, "0", "ipv4", "conf", "up0", "arp_ignore"))
    run_in(node.netns, lambda net: set_down(net, get_link(net, "up0")))
    run_in(pod.netns, lambda net: delete_link(net, "eth0"))
    found = diagnosed(node)
    said = [str(finding) for finding in found]
    assert any("up0: it is down" in line for line in said), said
    assert any("arp_ignore is 0, not 1" in line for line in said), said
    assert any("interface eth0 of c1: not up on up0" in line for line in said), said
    assert all(finding.do for finding in found if finding.verdict != "ok")
    assert told(found, said.append)
    run_in(node.netns, lambda net: set_up(net, get_link(net, "up0")))


def test_a_gateway_that_is_silent_and_a_server_that_is_away_are_faults(
    node: Node, server: IpamServer, tmp_path: Path
) -> None:
    with namespaces(2) as (host, other):
        wire(host, "up0", other, "far0")
        alone = Node(host, tmp_path / "alone", CLUSTER, server.url)
        found = faults(diagnosed(alone))
        assert found["network net"] == "its gateway fd00:1::1 does not answer on up0"
        away = Node(host, tmp_path / "away", CLUSTER, f"unix://{tmp_path}/nobody.sock")
        assert f"server unix://{tmp_path}/nobody.sock" in faults(diagnosed(away))
