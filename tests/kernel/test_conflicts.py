"""A pool that has its addresses probed: one that another machine has is not given to a pod."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface
from pathlib import Path

import pytest

from hostnet import Net, Netns, add_address, get_link, run_in
from netspace.messages import ChangePool
from tests.node_fixtures import CLUSTER, server
from tests.nodes import IpamServer, Node, links, pod_args, used
from tests.wires import namespaces, wire

__all__ = ["server"]


@pytest.fixture
def wired(server: IpamServer, tmp_path: Path) -> Iterator[tuple[Node, Netns]]:
    """A node of a cluster whose default pool probes, and another machine on its wire."""
    server.ask(lambda client: client.change_pool(CLUSTER, "default", ChangePool(probe=True)))
    with namespaces(2) as (host, other):
        wire(host, "up0", other, "far0")
        yield Node(host, tmp_path, CLUSTER, server.url), other


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_an_address_that_somebody_has_is_refused_and_another_one_given(
    wired: tuple[Node, Netns], server: IpamServer, family: int
) -> None:
    node, other = wired
    conf = node.conflist()
    with namespaces(2) as (first, second):
        args = pod_args(f"web-{family}")
        free = node.call("ADD", "c1", first, conf, args=args)
        assert free.status == 0, free.log
        taken = ip_interface(free.addresses[family])
        assert node.call("DEL", "c1", first, conf, args=args).status == 0

        def occupy(net: Net) -> str:
            link = get_link(net, "far0")
            add_address(net, link, taken)
            return link.mac

        mac = run_in(other, occupy)
        refused = node.call("ADD", "c2", first, conf, args=args)
        assert (refused.status, refused.json["code"]) == (1, 115)
        assert str(taken.ip) in refused.json["msg"] and mac in refused.json["details"]
        assert links(first) == []
        assert used(server, CLUSTER) == 0
        # The pod's next sandbox would have had its own last slot.
        again = node.call("ADD", "c3", second, conf, args=args)
        assert again.status == 0, again.json
        assert str(taken) not in again.addresses
        assert node.call("DEL", "c3", second, conf, args=args).status == 0
