"""Services and the own node over untagged VLANs, each with a card of its own."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface

import pytest

import hostnet
from cni_plugins.services.book import Book, Place, Segment, write_book
from hostnet import Net, run_in
from tests.nodes import Node
from tests.repairing import add_pod, delete_pod
from tests.services_cases import *  # noqa: F403
from tests.services_cases import Rig, rig_in
from tests.wires import namespaces


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    yield from rig_in(tmp_path_factory.mktemp("services"), tagged=False)


def test_a_node_has_its_routes_to_a_pod_when_add_returns(node: Node) -> None:
    """Nothing looks after the node here: ADD makes them, of what the agent wrote down."""

    def vmac(net: Net) -> None:
        parent = hostnet.get_link(net, "up0").index
        net.change("make", "vmac0", "link", "add", kind="macvlan", ifname="vmac0", link=parent)
        link = hostnet.get_link(net, "vmac0")
        hostnet.add_address(net, link, ip_interface("10.1.0.254/24"))
        hostnet.set_up(net, link)

    def routes(net: Net) -> dict[str, str]:
        found = hostnet.list_routes(net, hostnet.get_link(net, "vmac0"))
        return {str(each.route.destination): str(each.route.source) for each in found}

    run_in(node.netns, vmac)
    segment = Segment(network="net", ipv4="10.1.0.0/24", address4="10.1.0.254")
    place = Place(name="vmac0", parent="up0", mac="", segments=(segment,))
    write_book(node.state, Book(places=(place,), sources=("10.1.0.254",)))
    with namespaces(1) as (netns,):
        pod = add_pod(node, "c1", netns)
        four, six = (ip_interface(ip.address).ip for ip in pod.result.ips)
        there = run_in(node.netns, routes)
        assert there[f"{four}/32"] == "10.1.0.254"
        assert f"{six}/128" in there
        delete_pod(node, pod)
