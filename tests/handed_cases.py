"""What holds for pods on macvlan and other clusters, whatever the VLANs are made of.

A module that imports these has the fixture `rig`. Another cluster's pods are one namespace beside
the nodes; how packets get there, IPsec or VXLAN, is none of the node agent's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import msgspec
import pytest

import hostnet
from hostnet import Net, Netns, run_in
from netspace.handover import HandedRoute, Handover
from netspace.messages import Vmac
from tests.federated import foreign
from tests.services_cases import rules_of, settle
from tests.services_world import TCP_PORT, Echo, World, WorldNode, WorldPod, ask, world

FAR = {"10.2.0.0/16": "10.2.0.9", "fd00:2::/48": "fd00:2::9", "10.92.0.128/25": "10.92.0.200"}
"""Ranges of the other cluster, with a pod's address; the last lies in the subnet of a network of
this cluster."""
LOCAL = ("10.91.0.0/24", "fd00:91::/64")
HANDED = Handover(
    routes=tuple(HandedRoute(destination=text, mtu=1400, advmss=1340) for text in FAR),
    local=LOCAL,
)


@dataclass
class Rig:
    """`client` is on the first node's first VLAN, `remote` on the second node's, `apart` on the
    first node's second VLAN, which is not federated. `far` is the other cluster."""

    world: World
    client: WorldPod
    remote: WorldPod
    apart: WorldPod
    far: Netns

    @property
    def node(self) -> WorldNode:
        return self.world.nodes[0]

    def hand(self, handed: Handover) -> None:
        """What both nodes' federation agents hand over; the node agents look."""
        for node in self.world.nodes:
            if handed:
                node.handover.write_bytes(msgspec.json.encode(handed))
            else:
                node.handover.unlink(missing_ok=True)
            node.keep()


def rig_in(folder: Path, *, tagged: bool) -> Iterator[Rig]:
    with ExitStack() as opened:
        made = opened.enter_context(world(folder, tagged=tagged))
        here, there = made.nodes
        red, blue = made.vlans
        pods = [here.pod(red, 11), there.pod(red, 13), here.pod(blue, 14)]
        far = made.namespace()
        made.cable(far, "farm", "mgmt0", "mgmt")
        run_in(far, _other_cluster)
        made.keep()
        for node in made.nodes:
            run_in(node.netns, _lead_there)
        for pod in pods:
            made.answering(pod)
        opened.enter_context(Echo(far, "far"))
        yield Rig(made, pods[0], pods[1], pods[2], far)


def _other_cluster(net: Net) -> None:
    hostnet.set_up(net, hostnet.get_link(net, "lo"))
    link = hostnet.get_link(net, "mgmt0")
    for text in ("192.168.7.77/24", "fd00:7::4d/64"):
        hostnet.add_address(net, link, ip_interface(text))
    for text in FAR.values():
        hostnet.add_address(net, hostnet.get_link(net, "lo"), ip_interface(text))
    # All that is for this cluster goes to one node: the gateway.
    for text, gateway in zip(LOCAL, ("192.168.7.1", "fd00:7::1"), strict=True):
        hostnet.add_route(net, link, hostnet.Route(ip_network(text), ip_address(gateway)))


def _lead_there(net: Net) -> None:
    link = hostnet.get_link(net, "mgmt0")
    for text in FAR:
        gateway = ip_address("fd00:7::4d" if ":" in text else "192.168.7.77")
        hostnet.add_route(net, link, hostnet.Route(ip_network(text), gateway))


def routes_of(pod: WorldPod) -> dict[str, tuple[str, int, int]]:
    """By destination gateway, MTU and largest segment."""
    found = run_in(pod.netns, hostnet.list_routes)
    return {
        str(each.route.destination): (
            str(each.route.gateway or ""),
            each.route.mtu,
            each.route.advmss,
        )
        for each in found
    }


@pytest.fixture(autouse=True)
def nothing_handed_over(rig: Rig) -> Iterator[None]:
    yield
    rig.hand(Handover())


def test_running_pods_get_the_routes_by_their_vmac_and_lose_them(rig: Rig) -> None:
    before = routes_of(rig.client)
    assert not rig.node.differs()
    rig.node.handover.write_bytes(msgspec.json.encode(HANDED))
    assert rig.node.differs()
    rig.hand(HANDED)
    there = routes_of(rig.client)
    assert there["10.2.0.0/16"] == ("10.91.0.251", 1400, 1340)
    assert there["fd00:2::/48"] == ("fd00:91::fb", 1400, 1340)
    assert routes_of(rig.remote)["10.2.0.0/16"] == ("10.91.0.252", 1400, 1340)
    assert rig.node.keep() == []
    settle(rig.node)
    rig.hand(Handover())
    assert routes_of(rig.client) == before


def test_a_pod_that_is_not_federated_gets_none(rig: Rig) -> None:
    before = routes_of(rig.apart)
    rig.hand(HANDED)
    assert routes_of(rig.apart) == before


def test_what_changes_is_replaced(rig: Rig) -> None:
    rig.hand(HANDED)
    shorter = tuple(msgspec.structs.replace(each, mtu=1380) for each in HANDED.routes[:2])
    rig.hand(msgspec.structs.replace(HANDED, routes=shorter))
    there = routes_of(rig.client)
    assert there["10.2.0.0/16"] == ("10.91.0.251", 1380, 1340)
    assert "10.92.0.128/25" not in there


def test_a_federation_that_went_while_the_agent_was_away_leaves_nothing(rig: Rig) -> None:
    before = routes_of(rig.client)
    rig.hand(HANDED)
    rig.node.handover.unlink()
    rig.node.restarted()
    rig.node.keep()
    assert routes_of(rig.client) == before


def test_a_file_that_cannot_be_read_takes_nothing_away(rig: Rig) -> None:
    rig.hand(HANDED)
    rig.node.handover.write_bytes(b'{"routes": [')
    assert rig.node.differs()
    rig.node.keep()
    assert "10.2.0.0/16" in routes_of(rig.client)
    assert not rig.node.differs()


def test_federated_traffic_passes_the_node_both_ways(rig: Rig) -> None:
    """Also where the other cluster has a part of a subnet that is a network here."""
    rig.hand(HANDED)
    for address in FAR.values():
        own = rig.client.ipv6 if ":" in address else rig.client.ipv4
        assert ask(rig.client.netns, address, TCP_PORT, "tcp") == f"far {own}"
        answer = ask(rig.far, own, TCP_PORT, "tcp", source=address)
        assert answer == f"{rig.client.name} {address}"


def test_a_gateway_reaches_the_pods_of_other_nodes_by_its_vmac(rig: Rig) -> None:
    """The packets come in by the first node, the answers leave by the pod's own."""
    rig.hand(HANDED)
    for address in FAR.values():
        own = rig.remote.ipv6 if ":" in address else rig.remote.ipv4
        answer = ask(rig.far, own, TCP_PORT, "tcp", source=address)
        assert answer == f"{rig.remote.name} {address}"


def test_the_vlans_stay_apart_for_all_else(rig: Rig) -> None:
    rig.hand(HANDED)

    def routed(net: Net) -> None:
        link = hostnet.get_link(net, "eth0")
        route = hostnet.Route(ip_network("10.92.0.0/25"), ip_address("10.91.0.251"))
        hostnet.replace_route(net, link, route)

    run_in(rig.client.netns, routed)
    assert ask(rig.client.netns, rig.apart.ipv4, TCP_PORT, "tcp", wait=0.3) == ""


def test_a_vmac_without_an_address_of_a_family_has_a_route_to_its_subnet(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, red = rig.node, rig.world.vlans[0]

    async def half(cluster: str, name: str, network: str) -> Vmac:
        return Vmac(
            network=network, node=name, slot="251", generation=1,
            ipv4=f"10.{ {'red': 91, 'blue': 92}[network] }.0.251", ipv6=None,
        )  # fmt: skip

    def subnets(net: Net) -> set[str]:
        link = hostnet.get_link(net, red.vmac)
        return {str(each.route.destination) for each in hostnet.list_routes(net, link)}

    node.restarted(None)
    node.keep()
    monkeypatch.setattr(node.server, "vmac", half)
    node.restarted()
    node.keep()
    assert "fd00:91::/64" not in run_in(node.netns, subnets)
    rig.hand(HANDED)
    assert "fd00:91::/64" in run_in(node.netns, subnets)
    assert node.keep() == []
    rig.hand(Handover())
    assert "fd00:91::/64" not in run_in(node.netns, subnets)
    monkeypatch.undo()
    node.restarted(None)
    node.keep()


def test_foreign_rules_are_as_they_were(rig: Rig) -> None:
    before = foreign(rules_of(rig.node))
    rig.hand(HANDED)
    assert foreign(rules_of(rig.node)) == before
    rig.hand(Handover())
    assert foreign(rules_of(rig.node)) == before
