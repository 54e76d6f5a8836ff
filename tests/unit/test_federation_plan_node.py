"""Both kinds, several peers and several federations in one plan of a node."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from federation.desired import DesiredNode, Path
from federation.node.chains import Able, tables_of
from federation.plan.node import desired
from federation.plan.paths import PathState, found
from netspace.messages.federation import Capability, Kind, Layout, Peer, Settings, View
from tests.unit.federation_world import info, joined, node, peer, up, view

ABLE: list[Capability] = ["ipsec", "vxlan", "ipv6"]
CAPABILITIES = st.lists(st.sampled_from(ABLE), unique=True)
LAYOUTS: list[Layout] = ["distributed", "centralised"]
KINDS: list[Kind] = ["heterogeneous", "homogeneous"]


@st.composite
def peers(draw: st.DrawFn, number: int) -> Peer:
    """Some state of the peer of that number."""
    kind = draw(st.sampled_from(KINDS))
    if draw(st.integers(0, 5)) == 0:
        return peer(None, kind, cluster=f"c{number}")
    nodes = []
    for place in draw(st.sets(st.integers(0, 8), max_size=6)):
        able = draw(CAPABILITIES)
        inside = draw(st.booleans())
        addresses = [f"10.{number}.250.{place + 1}" if inside else f"192.0.{number}.{place + 1}"]
        gateway = draw(st.booleans())
        nodes.append(node(number, place, addresses=addresses, capabilities=able, gateway=gateway))
    told = info(
        number,
        nodes,
        layout=draw(st.sampled_from(LAYOUTS)),
        ranges=[f"10.{number}.{each}.0/24" for each in draw(st.sets(st.integers(0, 9)))],
    )
    offered = draw(st.lists(st.sampled_from([f"n{each}" for each in range(9)]), unique=True))
    return peer(told, kind, available=offered)


def without(plan: DesiredNode, number: int) -> dict[str, Counter[object]]:
    """The parts of a plan that have nothing to do with the cluster of that number, VXLAN devices
    taken apart; each part as often as it is there. Left out is what serves all peers: the ports,
    and that probes need a tunnel."""
    mine = f"c{number}"
    octet, group, end = f"10.{number}.", f"fd00:{number:x}:", f"192.0.{number}."

    def foreign(value: object) -> bool:
        text = repr(value)
        return any(each in text for each in (f"'{mine}'", f"'{octet}", f"'{group}", f"'{end}"))

    parts: dict[str, Counter[object]] = {}
    for each in fields(plan):
        value = getattr(plan, each.name)
        if each.name == "vxlans":
            value = [one for device in value for one in device.neighbours]
        if each.name == "policies":
            value = [one for one in value if one.action != "in" or not one.port]
        if isinstance(value, tuple | list) and each.name != "ports":
            parts[each.name] = Counter(one for one in value if not foreign(one))
    return parts


@given(st.data())
def test_a_changed_peer_changes_its_own_parts_alone(data: st.DataObject) -> None:
    others = [data.draw(peers(number), label=f"c{number}") for number in (1, 2)]
    before, after = data.draw(peers(3), label="before"), data.draw(peers(3), label="after")
    first = desired(view(joined([*others, before])), "n0")
    paths: dict[Path, PathState] = up(first)
    for path in list(paths):
        if data.draw(st.booleans()):
            paths[path] = PathState(ordinal=paths[path].ordinal)
    one = desired(view(joined([*others, before])), "n0", paths)
    other = desired(view(joined([*others, after])), "n0", paths)
    assert without(one, 3) == without(other, 3)


@given(peers(1), peers(2), st.booleans())
def test_the_order_in_which_things_are_told_does_not_matter(
    one: Peer, other: Peer, twice: bool
) -> None:
    assert desired(view(joined([one, other])), "n0") == desired(view(joined([other, one])), "n0")
    again = view(joined([peer(info(4))], name="a")), view(joined([one], name="b"))
    both = again[0].federations + again[1].federations
    assert desired(view(*both), "n0") == desired(view(*both[::-1]), "n0")


@given(peers(1), peers(2))
def test_what_the_kernel_has_once_is_in_a_plan_once(one: Peer, other: Peer) -> None:
    plan = desired(view(joined([one, other]), joined([one], name="g")), "n0")
    keys = [
        (
            each.action in ("in", "fwd") and each.action,
            *(each.source, each.destination, each.protocol, each.port, each.mark),
        )
        for each in plan.policies
    ]
    assert len(set(keys)) == len(keys)
    for routes in (plan.routes, plan.pod_routes):
        assert len({each.destination for each in routes}) == len(routes)


@given(peers(1), peers(2))
def test_every_range_of_a_heterogeneous_peer_is_blocked_whatever_else_is(
    one: Peer, other: Peer
) -> None:
    for name in ("n0", "unknown"):
        plan = desired(view(joined([one, other])), name)
        blocked = {each.destination for each in plan.policies if each.action == "block"}
        for each in (one, other):
            if each.kind == "heterogeneous" and each.info is not None:
                assert {ip_network(text) for text in each.info.ranges} <= blocked
        if name == "unknown":
            assert {each.action for each in plan.policies} <= {"block"}
            assert not plan.vxlans


def test_a_node_has_both_kinds_at_once() -> None:
    plan = desired(view(joined([peer(info(1)), peer(info(2), "homogeneous")])), "n0")
    assert {tunnel.path.cluster for tunnel in plan.tunnels} == {"c1"}
    assert {str(each.destination) for each in plan.policies if each.action == "block"} == {
        "10.1.0.0/16",
        "fd00:1::/32",
    }
    assert len(plan.vxlans) == 1
    assert {str(each.destination) for each in plan.pod_routes} == {
        "10.1.0.0/16",
        "10.2.0.0/16",
        "fd00:1::/32",
        "fd00:2::/32",
    }
    assert plan.ports == (500, 4500, 4789, 4791)


def test_several_federations_are_in_one_plan_with_a_device_and_reqids_of_their_own() -> None:
    plan = desired(
        view(
            joined([peer(info(1)), peer(info(2), "homogeneous")], name="one"),
            joined([peer(info(3)), peer(info(4), "homogeneous")], name="two"),
        ),
        "n0",
    )
    assert {each.federation for each in plan.vxlans} == {"one", "two"}
    assert len({each.link for each in plan.vxlans}) == 2
    assert len({each.reqid for each in plan.tunnels}) == 2
    assert {each.path.federation for each in plan.tunnels} == {"one", "two"}


def test_probes_of_two_federations_tunnels_to_one_gateway_are_told_apart() -> None:
    def twice(*names: str, gateways: int = 13) -> View:
        many = Settings(gateways=gateways)
        one = [peer(info(1, 20, ranges=["10.1.0.0/17"]))]
        other = [peer(info(1, 20, ranges=["10.1.128.0/17"]))]
        both = joined(one, name="g", settings=many), joined(other, name="h", settings=many)
        third = joined([peer(info(1, 20))], name="f", settings=many)
        known = {"f": third, "g": both[0], "h": both[1]}
        return view(*(known[name] for name in names))

    alone = desired(twice("g", gateways=12), "n0")
    before = {tunnel.path: tunnel.ordinal for tunnel in alone.tunnels}
    plan = desired(twice("f", "g", "h", gateways=12), "n0", up(alone))
    given = {tunnel.path: tunnel.ordinal for tunnel in plan.tunnels}
    assert given.items() >= before.items(), "who comes later moves nobody"
    again = desired(twice("f", "g", "h", gateways=12), "n0", up(plan))
    assert {tunnel.path: tunnel.ordinal for tunnel in again.tunnels} == given
    for made in (plan, desired(twice("g", "h"), "n0")):
        probes = [each for each in made.policies if each.action == "out" and each.port]
        reqids = Counter((each.remote, each.reqid) for each in probes)
        assert reqids == Counter((each.remote, each.reqid) for each in made.tunnels)


def test_of_two_federations_between_the_same_ranges_policies_and_marks_are_of_the_first() -> None:
    both = view(joined([peer(info(1, 1))], name="a"), joined([peer(info(1, 1))], name="b"))
    plan = desired(both, "n0")
    plan = desired(both, "n0", up(plan))
    first, second = plan.tunnels
    into = {each.reqid for each in plan.policies if each.action == "fwd"}
    assert into == {first.reqid} != {second.reqid}
    marks = tables_of(plan, 4, Able(), lambda buckets, family: "")["mangle"]["NETSPACE-FED"]
    mask = plan.mark
    last = f"-j MARK --set-xmark {first.ordinal * (mask & -mask):#x}/{mask:#x}"
    assert marks[-1].endswith(last)


def test_a_node_without_federations_is_to_be_nothing() -> None:
    assert desired(view(), "n0") == DesiredNode()


def test_the_same_is_planned_again_from_the_same() -> None:
    seen = view(joined([peer(info(1, 30)), peer(info(2), "homogeneous")]))
    first = desired(seen, "n0")
    assert desired(seen, "n0") == first
    paths = {each.path: found(0.0, each.ordinal) for each in first.tunnels}
    assert desired(seen, "n0", paths) == desired(seen, "n0", dict(paths))
