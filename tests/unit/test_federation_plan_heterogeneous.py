"""What a node is to be for peers of another CNI: tunnels, policies, flows, routes."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_network

import pytest

from federation.desired import Accept, DesiredNode, Flows, Path, PodRoute, Policy, RangeRoute
from federation.plan.heterogeneous import esp_mtu
from federation.plan.node import closed, desired
from federation.plan.paths import PathState, found
from netspace.messages.federation import Kind, Peer, Settings, View
from tests.unit.federation_world import info, joined, node, peer, ports, up, view


def plan(view: View, **other: object) -> DesiredNode:
    return desired(view, "n0", **other)  # type: ignore[arg-type]


def of(plan: DesiredNode, action: str) -> list[Policy]:
    return [policy for policy in plan.policies if policy.action == action]


PAIR = view(joined([peer(info(1))]))
BLOCKED = {ip_network("10.1.0.0/16"), ip_network("fd00:1::/32")}


def test_a_node_has_a_tunnel_to_each_gateway_up_to_the_configured_number() -> None:
    many = view(joined([peer(info(1, 20))], settings=Settings(gateways=4)))
    tunnels = plan(many).tunnels
    assert len({tunnel.path.node for tunnel in tunnels}) == 4
    assert len({tunnel.ordinal for tunnel in tunnels}) == 4
    assert len({tunnel.reqid for tunnel in tunnels}) == 1
    assert all(0x4E500000 <= tunnel.reqid <= 0x4E5FFFFF for tunnel in tunnels)
    assert {tunnel.local for tunnel in tunnels} == {"192.0.0.1"}


def test_of_a_centralised_cluster_only_labelled_nodes_are_gateways() -> None:
    nodes = [node(1, each, gateway=each == 2) for each in range(4)]
    pair = view(joined([peer(info(1, nodes, layout="centralised"))]))
    assert [tunnel.path for tunnel in plan(pair).tunnels] == [Path("f", "c1", "n2")]


@pytest.mark.parametrize(("labelled", "accepts"), [(True, 1), (False, 0)])
def test_in_a_centralised_cluster_only_labelled_nodes_accept_tunnels(
    labelled: bool, accepts: int
) -> None:
    own = info(0, [node(0, 0, gateway=labelled)], layout="centralised")
    found = plan(view(joined([peer(info(1))], own)))
    assert len(found.accepts) == accepts
    assert len([policy for policy in of(found, "in") if policy.port]) == accepts
    assert found.tunnels


def test_a_gateway_accepts_nodes_by_their_clusters_own_authority() -> None:
    found = plan(PAIR)
    assert found.accepts == (Accept("f", "c1", "the CA", "192.0.0.1", found.tunnels[0].reqid),)


def test_tunnels_are_between_addresses_of_one_family_ipv4_first() -> None:
    own = info(0, [node(0, 0, addresses=["fd01::1", "192.0.0.1"])])
    nodes = [
        node(1, 0, addresses=["fd01:1::1"]),
        node(1, 1, addresses=["fd01:1::2", "192.0.1.2"]),
        node(1, 2, addresses=[]),
    ]
    found = plan(view(joined([peer(info(1, nodes))], own)))
    ends = {tunnel.path.node: (tunnel.local, tunnel.remote) for tunnel in found.tunnels}
    assert ends == {"n0": ("fd01::1", "fd01:1::1"), "n1": ("192.0.0.1", "192.0.1.2")}
    assert {accept.local for accept in found.accepts} == {"fd01::1", "192.0.0.1"}


UNWELL = {
    "nothing is known of the peer": view(joined([peer(None, cluster="c1")])),
    "the peer federates nothing": view(joined([peer(info(1, ranges=[]))])),
    "the own cluster federates nothing": view(joined([peer(info(1))], info(0, ranges=[]))),
    "the own cluster does not know the node": view(joined([peer(info(1))], info(0, [node(0, 7)]))),
    "the node has no address": view(joined([peer(info(1))], info(0, [node(0, 0, addresses=[])]))),
    "the node has no IPsec": view(
        joined([peer(info(1))], info(0, [node(0, 0, capabilities=["vxlan"])]))
    ),
}


@pytest.mark.parametrize("why", UNWELL)
def test_of_an_unhealthy_pair_what_blocks_and_pods_routes_to_it_are_left(why: str) -> None:
    """Without their routes pods on macvlan would send in clear, past all policies."""
    found = plan(UNWELL[why])
    assert {policy.action for policy in found.policies} <= {"block"}
    assert not (found.tunnels or found.accepts or found.flows or found.routes)
    blocked = [policy.destination for policy in found.policies]
    assert [each.destination for each in found.pod_routes] == blocked
    own = UNWELL[why].federations[0].own
    assert set(found.local) == {ip_network(text) for text in own.ranges}
    if why != "the peer federates nothing":
        assert found.policies


def test_what_stands_anyway_is_known_without_the_node() -> None:
    found = closed(PAIR)
    assert found.policies == tuple(of(plan(PAIR), "block"))
    assert {each.destination for each in found.pod_routes} == BLOCKED
    assert found.local == plan(PAIR).local
    assert closed(view(joined([peer(info(1), "homogeneous")]))).pod_routes == ()


BAD = {
    "a range": info(1, ranges=["10.1.0.0/255.255.0.0", "10.9.0.0/16"]),
    "an address": info(1, [node(1, 0, addresses=["192.0.1.1", "192.0.1.x"])]),
    "a span": info(1, exposed=ports(("tcp", 443, 80))),
}


@pytest.mark.parametrize("kind", ["heterogeneous", "homogeneous"])
@pytest.mark.parametrize("what", BAD)
def test_what_one_peer_tells_that_is_none_takes_its_own_parts_away_alone(
    what: str, kind: Kind
) -> None:
    bad = BAD[what]
    good = peer(info(2), kind)
    found, without = plan(view(joined([peer(bad, kind), good]))), plan(view(joined([good])))
    [(federation, cluster, why)] = found.unplanned
    assert (federation, cluster) == ("f", "c1") and why
    blocks = closed(view(joined([peer(bad, kind)])))
    ranges = {ip_network(text) for text in bad.ranges} if kind == "heterogeneous" else set()
    assert {each.destination for each in blocks.policies} == ranges
    assert set(found.policies) == {*without.policies, *blocks.policies}
    assert set(found.pod_routes) == {*without.pod_routes, *blocks.pod_routes}
    same = ("tunnels", "vxlans", "flows", "routes", "remote", "exposures", "peers")
    assert all(getattr(found, each) == getattr(without, each) for each in same)


def test_a_range_that_is_told_wrongly_by_the_own_cluster_takes_no_block_away() -> None:
    found = plan(view(joined([peer(info(1))], info(0, ranges=["10.0.0.0/16", "10"]))))
    assert [(one, cluster) for one, cluster, _ in found.unplanned] == [("f", "c0")]
    assert {one.destination for one in of(found, "block")} == BLOCKED
    assert found.local == (ip_network("10.0.0.0/16"),)


def test_what_a_node_can_do_now_counts_more_than_what_it_said() -> None:
    found = plan(PAIR, can=["vxlan"])
    assert {policy.action for policy in found.policies} == {"block"}


def test_before_a_peer_told_anything_the_ranges_that_it_joined_with_are_blocked() -> None:
    found = plan(view(joined([peer(None)])))
    assert [policy.destination for policy in found.policies] == [ip_network("10.9.0.0/16")]


def test_all_of_a_peers_ranges_are_blocked_from_everywhere_before_anything_else() -> None:
    first, second, *_ = plan(PAIR).policies
    assert {(first.action, first.destination), (second.action, second.destination)} == {
        ("block", each) for each in BLOCKED
    }
    assert {first.source, second.source} == {ip_network("0.0.0.0/0"), ip_network("::/0")}


def test_a_peer_that_is_at_fault_keeps_what_was_known_of_it() -> None:
    fault = view(joined([peer(info(1), fault="10.1.0.0/16 overlaps", contact=1)]))
    assert plan(fault) == plan(PAIR)


def test_each_range_has_one_outgoing_policy_for_each_gateway_by_its_mark() -> None:
    found = plan(PAIR)
    for tunnel in found.tunnels:
        mine = [one for one in of(found, "out") if one.remote == tunnel.remote and not one.port]
        assert {one.destination for one in mine} == BLOCKED
        assert {(one.mark, one.mask) for one in mine} == {(tunnel.ordinal << 20, 0xF << 20)}
        assert {(one.local, one.reqid) for one in mine} == {("192.0.0.1", tunnel.reqid)}
    assert len(of(found, "out")) == len(found.tunnels) * (len(BLOCKED) + 1)


def test_what_has_no_mark_yet_takes_the_first_tunnel_that_is_usable() -> None:
    first = plan(PAIR)
    paths = up(first)
    for failed, taken in ((), 0), ((0,), 1), ((0, 1), 2):
        out = {first.tunnels[each].path: PathState(up=True) for each in failed}
        found = plan(PAIR, paths={**paths, **out})
        unmarked = [one for one in of(found, "out") if not one.mark]
        assert {one.destination for one in unmarked} == BLOCKED
        assert {(one.remote, one.mask) for one in unmarked} == {
            (first.tunnels[taken].remote, 0xF << 20)
        }
    assert not [one for one in of(first, "out") if not one.mark]


def test_probes_of_a_gateway_go_into_its_tunnel() -> None:
    found = plan(PAIR)
    probes = {one.destination: one for one in of(found, "out") if one.port}
    for tunnel in found.tunnels:
        one = probes[ip_network(tunnel.remote)]
        assert (one.protocol, one.port, one.mark) == (17, 4791, tunnel.ordinal << 20)
        assert (one.remote, one.reqid) == (tunnel.remote, tunnel.reqid)
    assert len(probes) == len(found.tunnels)


def test_a_probe_counts_only_from_a_tunnel() -> None:
    (probed,) = [policy for policy in of(plan(PAIR), "in") if policy.port]
    assert (probed.destination, probed.protocol, probed.port) == (ip_network("192.0.0.1"), 17, 4791)
    assert not probed.optional


def test_what_a_gateway_hands_on_needs_esp_and_what_is_handed_on_to_this_node_does_not() -> None:
    needs = {
        (one.action, str(one.destination)): not one.optional
        for one in plan(PAIR).policies
        if one.action in ("in", "fwd") and one.source == ip_network("10.1.0.0/16")
    }
    assert needs == {
        ("in", "10.0.0.0/16"): True,
        ("fwd", "10.0.0.0/16"): True,
        ("in", "10.0.0.0/24"): False,
        ("fwd", "10.0.0.0/24"): False,
    }


def test_where_gateways_reach_every_pod_themselves_whatever_is_forwarded_needs_esp() -> None:
    own = info(0, [node(0, 0, ranges=[])], grouped=False)
    found = plan(view(joined([peer(info(1))], own)))
    assert {one.optional for one in of(found, "fwd")} == {False}
    assert {one.optional for one in of(found, "in") if not one.port} == {True}


def test_nodes_and_endpoints_inside_blocked_ranges_are_reached_in_clear() -> None:
    nodes = [node(1, 0, addresses=["10.1.0.7"]), node(1, 1)]
    told = info(1, nodes, endpoints=["10.1.0.9:7443", "https://[fd00:1::9]:7443", "host:1", "["])
    found = plan(view(joined([peer(told)])))
    assert {str(one.destination) for one in of(found, "bypass")} == {
        "10.1.0.7/32",
        "10.1.0.9/32",
        "fd00:1::9/128",
    }


def test_what_such_nodes_say_to_a_node_inside_its_own_ranges_may_be_clear() -> None:
    own = info(0, [node(0, 0, addresses=["10.0.200.1"])])
    told = info(1, [node(1, 0, addresses=["10.1.0.7"])], endpoints=[])
    found = plan(view(joined([peer(told)], own)))
    assert [
        one.optional
        for one in of(found, "in")
        if (str(one.source), str(one.destination)) == ("10.1.0.7/32", "10.0.200.1/32")
    ] == [True]


def test_flows_use_usable_tunnels_alone_and_none_without_one() -> None:
    first = plan(PAIR)
    (flows,) = first.flows
    assert set(flows.buckets) == {0}
    paths = up(first)
    (flows,) = plan(PAIR, paths=paths).flows
    assert set(flows.buckets) == {tunnel.ordinal for tunnel in first.tunnels}
    out = first.tunnels[0]
    (left,) = plan(PAIR, paths={**paths, out.path: PathState(ordinal=out.ordinal)}).flows
    assert set(left.buckets) == {tunnel.ordinal for tunnel in first.tunnels[1:]}
    assert isinstance(left, Flows)
    assert left.remote == flows.remote == tuple(sorted(BLOCKED, key=lambda one: one.version))


def test_a_gateway_that_fails_its_probes_keeps_tunnel_policies_and_ordinal() -> None:
    first = plan(PAIR)
    paths = up(first)
    out = first.tunnels[1]
    with_all = plan(PAIR, paths=paths)
    without = plan(PAIR, paths={**paths, out.path: PathState(up=True, ordinal=out.ordinal)})
    assert [each.ordinal for each in without.tunnels] == [each.ordinal for each in with_all.tunnels]
    assert without.policies == with_all.policies
    assert [each.usable for each in without.tunnels] == [True, False, True]


def test_a_gateway_more_or_less_renumbers_no_other() -> None:
    settings = Settings(gateways=14)
    before = plan(view(joined([peer(info(1, 9))], settings=settings)))
    nodes = [node(1, each) for each in (0, 2, 3, 5, 6, 8, 9, 10, 11, 12)]
    after = plan(view(joined([peer(info(1, nodes))], settings=settings)), paths=up(before))
    old = {tunnel.path: tunnel.ordinal for tunnel in before.tunnels}
    new = {tunnel.path: tunnel.ordinal for tunnel in after.tunnels}
    assert len(set(new.values())) == len(nodes)
    assert all(new[path] == old[path] for path in set(old) & set(new))


@pytest.mark.parametrize(
    ("mark", "mask"), [(0xF00, 0xF00), (0x1FE10000, 0x01E00000), (5, 0xF00000)]
)
def test_ordinals_are_written_in_four_neighbouring_bits_of_the_mark(mark: int, mask: int) -> None:
    found = plan(view(joined([peer(info(1))], settings=Settings(mark=mark))))
    assert found.mark == mask
    assert all(one.mark & ~mask == 0 < one.mark for one in of(found, "out"))


@pytest.mark.parametrize(
    ("mtu", "end", "inner"),
    [(1500, "192.0.2.1", 1446), (1500, "fd00::1", 1426), (9000, "192.0.2.1", 8946)],
)
def test_before_it_is_measured_the_mtu_is_what_esp_leaves(mtu: int, end: str, inner: int) -> None:
    assert esp_mtu(mtu, end) == inner


def test_pods_get_the_tightest_tunnels_mtu_and_the_segment_that_fits() -> None:
    first = plan(PAIR)
    paths = up(first, 1438)
    paths[first.tunnels[0].path] = found(0.0, first.tunnels[0].ordinal, 1400)
    pods = plan(PAIR, paths=paths).pod_routes
    assert set(pods) == {
        PodRoute(ip_network("10.1.0.0/16"), 1400, 1360),
        PodRoute(ip_network("fd00:1::/32"), 1400, 1340),
    }
    assert set(first.mss) == {
        (ip_network("10.1.0.0/16"), 1446 - 40),
        (ip_network("fd00:1::/32"), 1446 - 60),
    }


@pytest.mark.parametrize(
    ("ours", "six"),
    [(["192.0.0.1", "fd01::1"], "fd01:1::1"), (["192.0.0.1"], "192.0.1.1")],
)
def test_the_nodes_own_routes_go_by_a_gateways_address(ours: list[str], six: str) -> None:
    """Of the range's family only where this node has one too."""
    nodes = [node(1, 0, addresses=["192.0.1.1", "fd01:1::1"])]
    own = info(0, [node(0, 0, addresses=ours)])
    routes = plan(view(joined([peer(info(1, nodes))], own))).routes
    assert set(routes) == {
        RangeRoute(ip_network("10.1.0.0/16"), "192.0.1.1", 1446),
        RangeRoute(ip_network("fd00:1::/32"), six, 1446),
    }


def test_a_node_without_ipv6_leaves_its_ranges_blocked() -> None:
    found = plan(PAIR, can=["ipsec"])
    assert {one.destination.version for one in found.policies if one.action != "block"} == {4}
    assert {one.destination for one in of(found, "block")} == BLOCKED


def test_what_each_lets_the_other_reach_is_told_both_ways() -> None:
    own = info(0, exposed=ports(("tcp", 443, 443), ("tcp", 80, 80), ("tcp", 80, 80)))
    told = info(1, exposed=ports(("udp", 53, 53)))
    (exposure,) = plan(view(joined([peer(told)], own))).exposures
    assert exposure.ours == (("tcp", 80, 80), ("tcp", 443, 443))
    assert exposure.theirs == (("udp", 53, 53),)


def test_the_firewall_learns_who_speaks_and_to_which_ports() -> None:
    found = plan(PAIR)
    assert found.peers == ("192.0.1.1", "192.0.1.2", "192.0.1.3")
    assert found.ports == (500, 4500, 4791)
    assert set(found.remote) == BLOCKED
    assert set(found.local) == {ip_network("10.0.0.0/16"), ip_network("fd00::/32")}


def test_all_nodes_of_a_cluster_use_all_its_gateways() -> None:
    own = info(0, 60)
    many = view(joined([peer(info(1, 6))], own, settings=Settings(gateways=2)))
    used = Counter(
        tunnel.path.node for each in own.nodes for tunnel in desired(many, each.name).tunnels
    )
    assert set(used) == {each.name for each in info(1, 6).nodes}


def test_a_peer_is_not_asked_for_more_than_its_view_has() -> None:
    bare = Peer(cluster="c1", kind="heterogeneous", ca="ca", info=info(1))
    assert len(plan(view(joined([bare]))).tunnels) == 3
