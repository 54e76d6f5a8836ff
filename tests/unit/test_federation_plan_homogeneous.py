"""What a node is to be for peers of the same CNI: one VXLAN device and what lies behind it."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.desired import DesiredNode, Path, PodRoute, Vxlan
from federation.plan.homogeneous import link_name, mac
from federation.plan.node import desired
from federation.plan.paths import PathState
from netspace.messages.federation import Settings
from tests.unit.federation_world import info, joined, node, peer, view


def device(plan: DesiredNode) -> Vxlan:
    (found,) = plan.vxlans
    return found


def mesh(*clusters: object, **other: object) -> DesiredNode:
    peers = [peer(each, "homogeneous") for each in clusters]  # type: ignore[arg-type]
    return desired(view(joined(peers)), "n0", **other)  # type: ignore[arg-type]


def test_all_nodes_of_all_such_peers_are_neighbours_on_one_device() -> None:
    found = device(mesh(info(1, 3), info(2, 4)))
    assert len(found.neighbours) == 7
    assert (found.federation, found.link, found.vni, found.port) == ("f", link_name("f"), 78, 4789)
    assert (found.local, found.mac) == ("192.0.0.1", mac("f", "c0", "n0"))


def test_where_pods_are_grouped_a_nodes_ranges_lie_behind_it() -> None:
    by = {one.underlay: one for one in device(mesh(info(1, 2))).neighbours}
    assert by["192.0.1.2"].ranges == (ip_network("10.1.1.0/24"), ip_network("fd00:1:1::/64"))
    assert by["192.0.1.2"].mac == mac("f", "c1", "n1")


def test_where_they_are_not_each_pods_address_lies_behind_its_node() -> None:
    nodes = [node(1, 0, pods=["10.1.0.5", "fd00:1::5"]), node(1, 1, pods=["10.1.0.6"])]
    found = device(mesh(info(1, nodes, grouped=False)))
    assert {one.underlay: [str(each) for each in one.ranges] for one in found.neighbours} == {
        "192.0.1.1": ["10.1.0.5/32", "fd00:1::5/128"],
        "192.0.1.2": ["10.1.0.6/32"],
    }


def test_nodes_without_vxlan_or_without_an_address_of_the_family_are_left_out() -> None:
    nodes = [
        node(1, 0, capabilities=["ipsec"]),
        node(1, 1, addresses=["fd01::1"]),
        node(1, 2, addresses=["fd01::2", "192.0.1.3"]),
    ]
    assert [one.underlay for one in device(mesh(info(1, nodes))).neighbours] == ["192.0.1.3"]


@pytest.mark.parametrize(("address", "mtu"), [("192.0.0.1", 1450), ("fd01::1", 1430)])
def test_the_devices_mtu_is_the_underlays_less_what_vxlan_adds(address: str, mtu: int) -> None:
    own = info(0, [node(0, 0, addresses=[address])])
    other = info(1, [node(1, 0, addresses=["192.0.1.1", "fd01:1::1"])])
    found = desired(view(joined([peer(other, "homogeneous")], own)), "n0")
    assert device(found).mtu == mtu
    assert PodRoute(ip_network("10.1.0.0/16"), mtu, mtu - 40) in found.pod_routes
    assert PodRoute(ip_network("fd00:1::/32"), mtu, mtu - 60) in found.pod_routes


def test_nothing_is_blocked_or_marked_for_such_a_peer() -> None:
    found = mesh(info(1))
    assert not (found.policies or found.tunnels or found.accepts or found.flows or found.routes)
    assert found.ports == (4789, 4791)
    assert len(found.exposures) == 1


def test_a_peer_of_which_nothing_is_known_adds_nothing() -> None:
    assert not mesh(None).vxlans
    assert mesh(info(1)) == desired(
        view(joined([peer(info(1), "homogeneous"), peer(None, "homogeneous")])), "n0"
    )


def test_a_node_without_vxlan_has_no_device() -> None:
    assert not mesh(info(1), can=["ipsec"]).vxlans


def test_the_port_is_the_federations() -> None:
    peers = [peer(info(1), "homogeneous")]
    found = desired(view(joined(peers, settings=Settings(port=8472))), "n0")
    assert (device(found).port, found.ports) == (8472, (4791, 8472))


NAME = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)


@given(st.lists(st.tuples(NAME, NAME, NAME), unique=True, max_size=50))
def test_macs_are_unicast_locally_administered_and_different(
    nodes: list[tuple[str, str, str]],
) -> None:
    macs = {mac(*each) for each in nodes}
    assert len(macs) == len(nodes)
    assert all(int(each[:2], 16) & 3 == 2 for each in macs)


@given(NAME)
def test_link_names_fit_the_kernel(federation: str) -> None:
    assert link_name(federation).startswith("nsf")
    assert len(link_name(federation)) == 11


def test_a_hundred_thousand_addresses_are_planned_each_behind_its_node() -> None:
    nodes = [
        node(
            1,
            place,
            addresses=[f"192.1.{place}.1"],
            pods=[f"10.{100 + place}.{each >> 8}.{each & 255}" for each in range(1000)],
        )
        for place in range(100)
    ]
    found = device(mesh(info(1, nodes, grouped=False)))
    assert sum(len(one.ranges) for one in found.neighbours) == 100_000


def test_routes_pods_and_segments_follow_what_was_measured_to_be_less() -> None:
    small = {Path("f", "c1", "n1"): PathState(mtu=1350), Path("f", "c2", "n0"): PathState(mtu=1450)}
    found = mesh(info(1, 2), info(2, 2), paths=small)
    assert device(found).mtu == 1450
    by = {one.underlay: one.mtu for one in device(found).neighbours}
    assert by == {"192.0.1.1": 0, "192.0.1.2": 1350, "192.0.2.1": 0, "192.0.2.2": 0}
    mtus = {str(route.destination): route.mtu for route in found.pod_routes}
    assert mtus["10.1.0.0/16"] == 1350 and mtus["10.2.0.0/16"] == 1450
    sizes = {str(one): size for one, size in found.mss}
    assert sizes["10.1.0.0/16"] == 1310 and sizes["10.2.0.0/16"] == 1410
    assert mesh(info(1, 2), info(2, 2)) != found
