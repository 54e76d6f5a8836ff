"""What pods' neighbours are told, and when: an address that moves, a gateway that is not asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS
from scapy.layers.l2 import ARP

from hostnet import Net, Netns, get_link, run_in
from lab.server import until
from tests.agents import WAYS, by
from tests.node_fixtures import CLUSTER
from tests.nodes import IpamServer, Node, pod_args
from tests.wires import Tap, arrives, namespaces, udp, wire

GATEWAYS = ("10.1.0.1", "fd00:1::1")


@dataclass
class Lab:
    """Two nodes on one segment, each with a pod to be."""

    here: Node
    there: Node
    first: Netns
    second: Netns
    peer: Netns


@pytest.fixture(params=WAYS)
def lab(request: pytest.FixtureRequest, server: IpamServer, tmp_path: Path) -> Iterator[Lab]:
    with ExitStack() as opened:
        one, two, first, second, peer = opened.enter_context(namespaces(5))
        wire(one, "up0", two, "up0")
        here, there = (
            opened.enter_context(
                by(request.param, Node(netns, tmp_path / name, CLUSTER, server.url, name))
            )
            for netns, name in ((one, "node-1"), (two, "node-2"))
        )
        yield Lab(here, there, first, second, peer)
        for node, container in ((here, "c1"), (there, "c2"), (there, "c3")):
            assert node.call("DEL", container, None, node.conflist()).status == 0


def add(node: Node, container: str, pod: Netns, ip: str) -> list[str]:
    """The addresses of a new pod that asks for this one; its name is its container's."""
    annotations = {"ipam.com/ip": ip}
    conf = node.conflist(runtimeConfig={"io.kubernetes.cri.pod-annotations": annotations})
    answer = node.call("ADD", container, pod, conf, args=pod_args(container))
    assert answer.status == 0, answer
    return [address.partition("/")[0] for address in answer.addresses]


def neighbours(pod: Netns) -> dict[str, str]:
    """Address → hardware address of the neighbours that the pod knows."""

    def look(net: Net) -> dict[str, str]:
        entries = net.look("list", "neighbours", "neigh", "dump")
        return {entry.get_attr("NDA_DST"): entry.get_attr("NDA_LLADDR") for entry in entries}

    return run_in(pod, look)


def mac_of(pod: Netns) -> str:
    return run_in(pod, lambda net: get_link(net, "eth0").mac)


@pytest.mark.parametrize("to_the_peers_node", [False, True])
def test_a_peer_knows_an_address_at_its_new_place_as_soon_as_the_pod_is_there(
    lab: Lab, to_the_peers_node: bool
) -> None:
    first = add(lab.here, "c1", lab.first, "10.1.0.5")
    own = add(lab.there, "c2", lab.peer, "10.1.0.6")
    for address, at in zip(first, own, strict=True):
        with udp(lab.peer, at) as sender, udp(lab.first, address) as receiver:
            assert arrives(sender, receiver)
    before = mac_of(lab.first)
    assert [neighbours(lab.peer)[address] for address in first] == [before, before]
    assert lab.here.call("DEL", "c1", lab.first, lab.here.conflist()).status == 0
    node, container = (lab.there, "c3") if to_the_peers_node else (lab.here, "c1")
    assert add(node, container, lab.second, "10.1.0.5") == first
    after = mac_of(lab.second)
    assert after != before
    # Nobody asks anybody: what the peer knows it was told.
    until(
        lambda: [neighbours(lab.peer)[address] for address in first] == [after, after],
        "the peer knows both addresses at their new place",
    )


def test_a_new_pod_tells_of_itself_and_asks_for_no_gateway(lab: Lab) -> None:
    with Tap(lab.there.netns, "up0") as tap:
        addresses = add(lab.here, "c1", lab.first, "10.1.0.5")
        mac = mac_of(lab.first)

        def told(seen: list[Any]) -> set[str]:
            arp = {frame[ARP].psrc for frame in seen if ARP in frame and frame.src == mac}
            return arp | {frame[ICMPv6ND_NA].tgt for frame in seen if ICMPv6ND_NA in frame}

        frames = tap.frames(3, lambda seen: told(seen) >= set(addresses))
    assert told(frames) >= set(addresses)
    asked = [frame[ARP].pdst for frame in frames if ARP in frame]
    asked += [frame[ICMPv6ND_NS].tgt for frame in frames if ICMPv6ND_NS in frame]
    assert not set(asked) & set(GATEWAYS)
