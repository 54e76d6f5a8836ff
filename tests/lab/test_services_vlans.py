"""Services and the own node over two VLANs on one card, and a VLAN interface with an address."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest

import hostnet
from hostnet import Net, run_in
from tests.services_cases import (
    Rig,
    rig_in,
    test_a_deleted_vmac_is_made_again_with_all_it_had,
    test_a_flushed_chain_is_noticed_and_written_again,
    test_a_look_at_what_is_right_changes_nothing,
    test_a_pod_and_its_own_node_reach_each_other,
    test_a_pod_reaches_services_wherever_their_backends_are,
    test_a_source_that_is_not_the_pods_gets_nowhere_on_the_vmac,
    test_an_isolated_network_is_apart_for_services_too,
    test_the_node_leads_nobody_from_one_vlan_to_another,
)
from tests.services_world import world

__all__ = [
    "test_a_deleted_vmac_is_made_again_with_all_it_had",
    "test_a_flushed_chain_is_noticed_and_written_again",
    "test_a_look_at_what_is_right_changes_nothing",
    "test_a_pod_and_its_own_node_reach_each_other",
    "test_a_pod_reaches_services_wherever_their_backends_are",
    "test_a_source_that_is_not_the_pods_gets_nowhere_on_the_vmac",
    "test_an_isolated_network_is_apart_for_services_too",
    "test_the_node_leads_nobody_from_one_vlan_to_another",
]

OWN = ("10.91.0.200/24", "fd00:91::c8/64")
BEYOND = ("10.200.0.0/16", "10.91.0.1")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    yield from rig_in(tmp_path_factory.mktemp("services"), tagged=True)


def test_the_vlan_interfaces_own_address_moves_to_the_vmac_with_its_routes_and_back(
    tmp_path: Path,
) -> None:
    with world(tmp_path, tagged=True) as made:
        node, vlan = made.nodes[0], made.vlans[0]
        below = "up0.910"

        def live(net: Net) -> None:
            link = hostnet.get_link(net, below)
            for text in OWN:
                hostnet.add_address(net, link, ip_interface(text))
            gateway = ip_interface(f"{BEYOND[1]}/24").ip
            hostnet.add_route(net, link, hostnet.Route(ip_network(BEYOND[0]), gateway))

        def own(net: Net, name: str) -> set[str]:
            link = hostnet.get_link(net, name)
            found = {str(a.interface) for a in hostnet.list_addresses(net, link)}
            routes = {str(r.route.destination) for r in hostnet.list_routes(net, link)}
            return (found & {*OWN}) | (routes & {BEYOND[0]})

        run_in(node.netns, live)
        everything = {*OWN, BEYOND[0]}
        node.keep()
        assert [asked for asked in node.server.asked if asked[1] == "red"] == []
        assert run_in(node.netns, lambda net: own(net, vlan.vmac)) == everything
        assert run_in(node.netns, lambda net: own(net, below)) == set()
        assert node.keep() == []
        # Deleted by hand, the node has lost its address: it comes back with the vmac.
        run_in(node.netns, lambda net: hostnet.delete_link(net, vlan.vmac))
        node.keep()
        assert run_in(node.netns, lambda net: own(net, vlan.vmac)) == everything
        node.restarted(None)
        node.keep()
        assert run_in(node.netns, lambda net: own(net, below)) == everything
        assert run_in(node.netns, lambda net: hostnet.find_link(net, vlan.vmac)) is None
