"""What may be declared, changed and deleted of a network, and what a fabric refuses."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam_server import networks
from ipam_server.records import FabricRecord
from netspace.messages import ChangeNetwork, NewNetwork, NewPool
from netspace.problems import Problem
from netspace.ranges import Ranges
from tests.unit.cluster_world import World, ask


def new(name: str = "red", **fields: Any) -> NewNetwork:
    return NewNetwork(name=name, **{"vlan": 910, "ipv4": "10.0.0.0/24", **fields})


def fabric_of(*members: tuple[str, NewNetwork]) -> FabricRecord:
    """A fabric that the networks of the clusters joined one after the other."""
    fabric = FabricRecord(name="hall")
    for cluster, network in members:
        fabric = networks.joined(fabric, cluster, network.name, networks.declare(network, "uid"))
    return fabric


def test_a_network_is_stored_in_the_usual_notation() -> None:
    record = networks.declare(
        new(
            ipv6="FD00:0::/64",
            gateway4="10.0.0.1",
            gateway6="FE80::1",
            range=["10.0.0.0/25"],
            exclude=["10.0.0.9", "fd00::8", "10.0.0.10-10.0.0.12"],
        ),
        "uid",
    )
    assert (record.ipv6, record.gateway6) == ("fd00::/64", "fe80::1")
    assert record.range == ["10.0.0.0-10.0.0.127"]
    assert record.exclude == ["10.0.0.8-10.0.0.12"]


def test_the_total_pool_leaves_out_range_excluded_gateways_and_the_ends() -> None:
    world = World()
    world.add_network(
        new(
            ipv6="fd00::/64",
            gateway4="10.0.0.1",
            gateway6="fd00::2",
            range=["10.0.0.0-10.0.0.15"],
            exclude=["10.0.0.4-10.0.0.5"],
        )
    )
    assert world.network("red").total == Ranges([(3, 3), (6, 15)])


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"ipv4": None}, "needs an IPv4 subnet"),
        ({"ipv4": "10.0.0.1/24"}, "host bits"),
        ({"ipv4": "10.0.0.0"}, "not a subnet"),
        ({"ipv4": "fd00::/64"}, "other address family"),
        ({"ipv6": "10.1.0.0/24"}, "other address family"),
        ({"ipv4": "224.0.0.0/24"}, "cannot be a pod network"),
        ({"ipv4": "127.0.0.0/24"}, "cannot be a pod network"),
        ({"ipv4": "169.254.0.0/24"}, "cannot be a pod network"),
        ({"ipv4": "0.0.0.0/0"}, "cannot be a pod network"),
        ({"ipv6": "fe80::/64"}, "cannot be a pod network"),
        ({"ipv6": "ff02::/64"}, "cannot be a pod network"),
        ({"mapping": "embedded"}, "needs an IPv4 and an IPv6"),
        ({"mapping": "embedded", "ipv6": "fd00::/112"}, "/96 or shorter"),
        ({"ipv6": "fd00::/125"}, "fewer addresses"),
        ({"gateway4": "10.0.1.1"}, "is not in 10.0.0.0/24"),
        ({"gateway4": "fd00::1"}, "other address family"),
        ({"gateway4": "router"}, "not an IP address"),
        ({"gateway6": "fd00::1"}, "the network has no IPv6"),
        ({"gateway4": "10.0.0.0"}, "cannot be a gateway"),
        ({"gateway4": "10.0.0.255"}, "cannot be a gateway"),
        ({"range": ["10.0.1.0/28"]}, "is not in"),
        ({"exclude": ["10.0.0.9-10.0.0.5"]}, "ends before it begins"),
        ({"exclude": ["10.0.0.0/24"]}, "no address left"),
        ({"range": ["10.0.0.7"], "gateway4": "10.0.0.7"}, "no address left"),
    ],
)
def test_a_network_that_cannot_be_is_refused(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(Problem, match=what) as caught:
        networks.declare(new(**fields), "uid")
    assert caught.value.code == "invalid"


def test_what_a_node_says_of_its_cards_is_refused_like_a_network_that_is_declared() -> None:
    networks.check_reported([new(), new("green", ipv4="10.0.1.0/24")])
    with pytest.raises(Problem, match=r"networks\[1\], green: .*not an IP address") as caught:
        networks.check_reported([new(), new("green", gateway4="router")])
    assert caught.value.code == "invalid"


@pytest.mark.parametrize("ipv4", ["10.0.0.0/31", "10.0.0.0/32"])
def test_the_smallest_networks_have_addresses(ipv4: str) -> None:
    world = World()
    world.add_network(new(ipv4=ipv4))
    assert world.network("red").total.size == int(2 ** (32 - int(ipv4[-2:])))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        ({}, {"vlan": 911}),
        ({}, {"ipv4": "10.0.0.128/25"}),
        ({}, {"ipv4": "10.0.0.0/16"}),
        ({"ipv6": "fd00::/64"}, {"ipv4": "10.1.0.0/24", "ipv6": "fd00::/64"}),
        ({"range": ["10.0.0.0/25"]}, {"range": ["10.0.0.128/25"], "vlan": 911}),
        ({"range": ["10.0.0.0/25"]}, {"range": ["10.0.0.128/25"], "vlan": None}),
        ({"range": ["10.0.0.0/25"]}, {"range": ["10.0.0.127-10.0.0.200"]}),
        ({"range": ["10.0.0.0/25"]}, {}),
        (
            {"range": ["10.0.0.0/25"], "ipv6": "fd00::/64"},
            {"range": ["10.0.0.128/25"], "ipv6": "fd00:1::/64"},
        ),
        (
            {"range": ["10.0.0.0/25"], "ipv6": "fd00::/64"},
            {"range": ["10.0.0.128/25"], "ipv6": "fd00::/64", "mapping": "embedded"},
        ),
    ],
)
def test_two_clusters_networks_that_overlap_in_a_fabric_are_refused(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    with pytest.raises(Problem) as caught:
        fabric_of(("blue", new(**first)), ("green", new(**second)))
    assert caught.value.code == "overlap"
    assert "network red of cluster blue, in fabric hall" in str(caught.value)


def test_one_cluster_never_has_overlapping_networks_in_a_fabric_whatever_their_ranges() -> None:
    with pytest.raises(Problem) as caught:
        fabric_of(
            ("blue", new("red", range=["10.0.0.0/25"])),
            ("blue", new("pink", range=["10.0.0.128/25"])),
        )
    assert caught.value.code == "overlap"


def test_two_clusters_share_a_vlan_with_disjoint_ranges() -> None:
    fabric = fabric_of(
        ("blue", new(range=["10.0.0.0/25"])), ("green", new(range=["10.0.0.128/25"]))
    )
    assert [(member.cluster, member.ranges) for member in fabric.members] == [
        ("blue", ["10.0.0.0-10.0.0.127"]),
        ("green", ["10.0.0.128-10.0.0.255"]),
    ]


def test_networks_with_other_subnets_may_lie_on_one_vlan_of_one_cluster() -> None:
    assert len(fabric_of(("blue", new("a")), ("blue", new("b", ipv4="10.0.1.0/24"))).members) == 2


def test_joining_again_replaces_the_networks_earlier_self() -> None:
    fabric = fabric_of(("blue", new()), ("blue", new(vlan=911)))
    assert [member.vlan for member in fabric.members] == [911]


def test_a_member_that_moves_to_another_vlan_leaves_the_shared_segment() -> None:
    fabric = fabric_of(
        ("blue", new(range=["10.0.0.0/25"])), ("green", new(range=["10.0.0.128/25"]))
    )
    moved = networks.declare(new(range=["10.0.0.0/25"], vlan=911), "uid")
    with pytest.raises(Problem, match="green"):
        networks.joined(fabric, "blue", "red", moved)


def test_leaving_a_fabric_takes_out_one_clusters_network_alone() -> None:
    fabric = fabric_of(
        ("blue", new(range=["10.0.0.0/25"])), ("green", new(range=["10.0.0.128/25"]))
    )
    members = networks.left(fabric, "green", "red").members
    assert [(member.cluster, member.network) for member in members] == [("blue", "red")]


SPANS = st.tuples(st.integers(0, 255), st.integers(0, 40)).map(
    lambda span: f"10.0.0.{span[0]}-10.0.0.{min(255, span[0] + span[1])}"
)


@given(st.lists(SPANS, min_size=1, max_size=4), st.lists(SPANS, min_size=1, max_size=4))
def test_a_shared_segment_is_allowed_exactly_where_the_ranges_are_disjoint(
    mine: list[str], theirs: list[str]
) -> None:
    def indices(spans: list[str]) -> set[int]:
        bounds = [[int(a.rpartition(".")[2]) for a in span.split("-")] for span in spans]
        return {index for low, high in bounds for index in range(low, high + 1)}

    ends = {0, 255}
    if not (indices(mine) - ends and indices(theirs) - ends):
        return
    members = ("blue", new(range=mine)), ("green", new(range=theirs))
    if indices(mine) & indices(theirs):
        with pytest.raises(Problem) as caught:
            fabric_of(*members)
        assert caught.value.code == "overlap"
    else:
        fabric_of(*members)


def test_a_change_that_names_nothing_is_refused() -> None:
    world = World()
    world.add_network(new())
    with pytest.raises(Problem, match="names nothing to change"):
        world.change_network("red", ChangeNetwork())


def test_a_change_decided_on_an_older_version_is_refused() -> None:
    world = World()
    world.add_network(new())
    seen = world.network("red").revision
    world.change_network("red", ChangeNetwork(mtu=1400, revision=seen))
    with pytest.raises(Problem) as caught:
        world.change_network("red", ChangeNetwork(mtu=1500, revision=seen))
    assert caught.value.code == "changed"
    assert world.network("red").record.mtu == 1400


def test_addresses_in_use_can_neither_be_excluded_nor_become_a_gateway() -> None:
    world = World()
    world.add_network(new())
    world.add_pool(NewPool(name="p", kind="default", network="red", size="8"))
    assert world.allocate(ask("c1"))[0] == 1
    for change in (ChangeNetwork(exclude=["10.0.0.0/28"]), ChangeNetwork(gateway4="10.0.0.1")):
        with pytest.raises(Problem, match=r"10\.0\.0\.1 of network red") as caught:
            world.change_network("red", change)
        assert caught.value.code == "in-use"
    world.change_network("red", ChangeNetwork(exclude=["10.0.0.2/31"], gateway4="10.0.0.254"))
    assert world.allocate(ask("c2"))[0] == 4


def test_an_excluded_address_leaves_its_pool_and_comes_back_with_its_history() -> None:
    world = World()
    world.add_network(new())
    world.add_pool(NewPool(name="p", kind="default", network="red", size="4"))
    for name in ("c1", "c2"):
        world.allocate(ask(name, name))
    world.release(("red", 1))
    world.change_network("red", ChangeNetwork(exclude=["10.0.0.1"]))
    assert (world.pool("p").size, world.pool("p").used) == (3, 1)
    assert world.allocate(ask("c3", "c1"))[0] == 3
    world.change_network("red", ChangeNetwork(exclude=[]))
    assert (world.pool("p").size, len(world.pool("p").cooling)) == (4, 1)
    assert world.allocate(ask("c4", "c1"))[0] == 1


def test_deleting_is_refused_while_pools_or_held_addresses_are_there() -> None:
    world = World()
    world.add_network(new())
    world.add_pool(NewPool(name="p", kind="default", network="red", size="4"))
    with pytest.raises(Problem, match="1 pools: p") as caught:
        networks.check_delete("red", world.network("red"), [world.pool("p")])
    assert caught.value.code == "in-use"
    world.delete_pool("p")
    world.reserve(("red", 9))
    with pytest.raises(Problem, match="1 addresses of network red are held"):
        networks.check_delete("red", world.network("red"), [])
    world.release(("red", 9))
    networks.check_delete("red", world.network("red"), [])
