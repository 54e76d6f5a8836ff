"""Together with the reference plugins: theirs over our IPAM, ours over theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hostnet import get_link, run_in
from lab import programs
from tests.node_fixtures import CLUSTER
from tests.nodes import IpamServer, Node, links, pod_args, used
from tests.wires import namespaces


@pytest.fixture(scope="module")
def reference() -> Path:
    folder = programs.cni_dir()
    if folder is None:
        pytest.skip("needs the reference CNI plugins: ./run setup brings them")
    return folder


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_the_reference_bridge_gets_its_addresses_from_our_ipam(
    node: Node, server: IpamServer, reference: Path, version: str
) -> None:
    conf = node.conflist(type="bridge", bridge="cni0", cniVersion=version, isGateway=True)
    with namespaces(1) as (pod,):
        answer = node.call(
            "ADD", "c1", pod, conf, args=pod_args("web-0"), plugin=reference / "bridge"
        )
        assert answer.status == 0, answer
        assert answer.addresses == ["10.1.0.2/24", "fd00:1::2/64"]
        assert "netspace" not in answer.json
        assert used(server, CLUSTER) == 1
        assert links(pod) == ["eth0"]
        if version != "0.3.1":
            before = {**conf, "prevResult": answer.json}
            checked = node.call("CHECK", "c1", pod, before, plugin=reference / "bridge")
            assert checked.status == 0, checked
        for netns in (pod, None):
            gone = node.call("DEL", "c1", netns, conf, plugin=reference / "bridge")
            assert gone.status == 0, gone
        assert (links(pod), node.files(), used(server, CLUSTER)) == ([], [], 0)


def test_our_ipam_refuses_through_the_reference_bridge_with_its_own_code(
    node: Node, server: IpamServer, reference: Path
) -> None:
    ipam = {**node.conflist()["ipam"], "netspace": "nosuch"}
    conf = node.conflist(type="bridge", bridge="cni0", ipam=ipam)
    with namespaces(1) as (pod,):
        answer = node.call(
            "ADD", "c1", pod, conf, args=pod_args("web-0"), plugin=reference / "bridge"
        )
        assert (answer.status, answer.json["code"]) == (1, 103), answer
    assert node.files() == []


def host_local(node: Node, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """A conflist of the reference macvlan plugin with nothing changed but its type."""
    return node.conflist(
        master="up0",
        config=str(node.config),
        ipam={
            "type": "host-local",
            "dataDir": str(tmp_path / "host-local"),
            "ranges": [[{"subnet": "10.7.0.0/24"}], [{"subnet": "fd00:7::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
        **changes,
    )


def reservations(tmp_path: Path) -> list[str]:
    folder = tmp_path / "host-local" / "net"
    return sorted(path.name for path in folder.glob("*") if path.name[0] in "1f")


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
@pytest.mark.usefixtures("reference")
def test_ours_over_host_local_as_the_reference_macvlan_would_do_it(
    node: Node, tmp_path: Path, version: str
) -> None:
    conf = host_local(node, tmp_path, cniVersion=version)
    with namespaces(1) as (pod,):
        answer = node.call("ADD", "c1", pod, conf, args=pod_args("web-0"))
        assert answer.status == 0, answer
        assert answer.addresses == ["10.7.0.2/24", "fd00:7::2/64"]
        assert answer.json["ips"][0]["gateway"] == "10.7.0.1"
        assert run_in(pod, lambda net: get_link(net, "eth0").kind) == "macvlan"
        if version != "0.3.1":
            checked = node.call("CHECK", "c1", pod, {**conf, "prevResult": answer.json})
            assert checked.status == 0, checked
        for netns in (pod, None):
            assert node.call("DEL", "c1", netns, conf).status == 0
        assert (links(pod), node.files(), reservations(tmp_path)) == ([], [], [])


@pytest.mark.usefixtures("reference")
def test_a_failure_after_host_locals_add_gives_its_address_back(node: Node, tmp_path: Path) -> None:
    conf = {**host_local(node, tmp_path), "master": "nosuch0"}
    with namespaces(1) as (pod,):
        answer = node.call("ADD", "c1", pod, conf, args=pod_args("web-0"))
        assert (answer.status, answer.json["code"]) == (1, 114), answer
        assert (links(pod), node.files(), reservations(tmp_path)) == ([], [], [])


@pytest.mark.usefixtures("reference")
def test_an_error_of_host_local_is_passed_on(node: Node, tmp_path: Path) -> None:
    conf = host_local(node, tmp_path)
    conf["ipam"]["ranges"] = [[{"subnet": "10.7.0.0/30"}]]
    with namespaces(2) as (first, second):
        assert node.call("ADD", "c1", first, conf).status == 0
        answer = node.call("ADD", "c2", second, conf)
        assert answer.status == 1
        assert "host-local" in answer.json["msg"]
        assert links(second) == []


def test_an_ipam_plugin_that_does_not_exist_is_named(node: Node) -> None:
    with namespaces(1) as (pod,):
        conf = node.conflist(master="up0", config=str(node.config), ipam={"type": "nosuch"})
        answer = node.call("ADD", "c1", pod, conf)
        assert (answer.status, answer.json["code"]) == (1, 7)
        assert "nosuch" in answer.json["msg"]
        assert (links(pod), node.files()) == ([], [])


def test_without_ipam_the_interface_has_no_address(node: Node) -> None:
    with namespaces(1) as (pod,):
        conf = node.conflist(master="up0", config=str(node.config), ipam=None)
        answer = node.call("ADD", "c1", pod, conf)
        assert (answer.status, answer.json["ips"]) == (0, []), answer
        assert run_in(pod, lambda net: get_link(net, "eth0").up)
        checked = node.call("CHECK", "c1", pod, {**conf, "prevResult": answer.json})
        assert checked.status == 0, checked
        assert node.call("DEL", "c1", pod, conf).status == 0
        assert (links(pod), node.files()) == ([], [])
