"""A node's own routes to another cluster's ranges, in a real kernel; and the file for its pods."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

import hostnet
from federation.desired import DesiredNode, PodRoute, Policy, RangeRoute
from federation.node.config import FederationAgentConfig
from federation.node.handover import HandoverDriver
from federation.node.keeping import DataPlane, Done
from federation.node.parts import Parts
from federation.node.policies import for_kernel
from federation.node.routes import RoutesDriver
from federation.plan.networks import EVERYTHING
from hostnet import Kernel, Net, run_in
from hostnet.xfrm import Change, change_policies, list_policies
from netspace import handover
from tests.federated import LOCAL, Rig
from tests.wires import namespaces, wire

GATEWAY = ("192.0.2.99", "2001:db8:f::99")
FAR = (ip_network("10.2.0.0/16"), ip_network("fd00:2::/48"))
WANTED = DesiredNode(
    local=LOCAL,
    remote=FAR,
    routes=(RangeRoute(FAR[0], GATEWAY[0], 1400), RangeRoute(FAR[1], GATEWAY[1], 1380)),
)


@pytest.fixture
def node() -> Iterator[Rig]:
    """A node on two networks: both have a router to 192.0.2.0/24 and to 2001:db8:f::/48."""
    with namespaces(2) as (netns, other):
        for number in (1, 2):
            wire(netns, f"up{number}", other, f"up{number}")

        def live(net: Net) -> None:
            hostnet.set_up(net, hostnet.get_link(net, "lo"))
            for number in (1, 2):
                link = hostnet.get_link(net, f"up{number}")
                for text in (f"172.16.{number}.1/24", f"2001:db8:{number}::1/64"):
                    hostnet.add_address(net, link, ip_interface(text))

        run_in(netns, live)
        found = Rig(netns, netns, netns)
        underlay(found, 1)
        yield found


def underlay(node: Rig, number: int) -> None:
    """Packets to the gateway leave by this link now."""

    def job(net: Net) -> None:
        link = hostnet.get_link(net, f"up{number}")
        for text, gateway in (
            ("192.0.2.0/24", f"172.16.{number}.254"),
            ("2001:db8:f::/48", f"2001:db8:{number}::fe"),
        ):
            route = hostnet.Route(ip_network(text), ip_address(gateway))
            hostnet.replace_route(net, link, route)

    run_in(node.node, job)


def ours(node: Rig) -> dict[str, tuple[str, str, str, int]]:
    """By range gateway, link, source and MTU of the routes that we made."""

    def job(net: Net) -> dict[str, tuple[str, str, str, int]]:
        links = {link.index: link.name for link in hostnet.list_links(net)}
        return {
            str(r.route.destination): (
                str(r.route.gateway or ""), links[r.link], str(r.route.source or ""), r.route.mtu
            )
            for r in hostnet.list_routes(net)
            if r.protocol == 78
        }  # fmt: skip

    return run_in(node.node, job)


def others(node: Rig) -> list[hostnet.LinkRoute]:
    return [r for r in run_in(node.node, hostnet.list_routes) if r.protocol != 78]


def test_a_range_goes_the_way_that_its_gateway_is_reached_by(node: Rig) -> None:
    node.apply(RoutesDriver(Kernel()), WANTED)
    assert ours(node) == {
        "10.2.0.0/16": ("172.16.1.254", "up1", "", 1400),
        "fd00:2::/48": ("2001:db8:1::fe", "up1", "", 1380),
    }


def test_it_follows_the_underlay(node: Rig) -> None:
    driver = RoutesDriver(Kernel())
    node.apply(driver, WANTED)
    index = run_in(node.node, lambda net: hostnet.get_link(net, "up1").index)
    assert driver.concerns(index) and not driver.concerns(index + 100)
    underlay(node, 2)
    assert node.apply(driver, WANTED)
    assert {way[:2] for way in ours(node).values()} == {
        ("172.16.2.254", "up2"),
        ("2001:db8:2::fe", "up2"),
    }
    assert node.apply(driver, WANTED) == ()


def test_a_gateway_on_the_link_is_the_way_itself(node: Rig) -> None:
    wanted = replace(WANTED, routes=(RangeRoute(FAR[0], "172.16.1.77"),))
    node.apply(RoutesDriver(Kernel()), wanted)
    assert ours(node) == {"10.2.0.0/16": ("172.16.1.77", "up1", "", 0)}


def test_over_an_underlay_of_the_other_family_the_link_is_the_way(node: Rig) -> None:
    routes = (RangeRoute(FAR[0], GATEWAY[1]), RangeRoute(FAR[1], GATEWAY[0]))
    node.apply(RoutesDriver(Kernel()), replace(WANTED, routes=routes))
    assert {way[:2] for way in ours(node).values()} == {("", "up1")}


def test_a_gateway_inside_the_range_is_not_looked_for_by_our_own_route(node: Rig) -> None:
    wanted = replace(WANTED, routes=(RangeRoute(ip_network("192.0.0.0/16"), GATEWAY[0]),))
    driver = RoutesDriver(Kernel())
    node.apply(driver, wanted)
    underlay(node, 2)
    node.apply(driver, wanted)
    assert ours(node)["192.0.0.0/16"][1] == "up2"


def test_the_node_speaks_from_its_address_among_the_pods(node: Rig) -> None:
    def vmac(net: Net) -> None:
        parent = hostnet.get_link(net, "up1").index
        net.change("make", "vmac0", "link", "add", kind="macvlan", ifname="vmac0", link=parent)
        link = hostnet.get_link(net, "vmac0")
        for text in ("10.1.0.250/24", "fd00:1::fa/64"):
            hostnet.add_address(net, link, ip_interface(text))
        hostnet.set_up(net, link)

    run_in(node.node, vmac)
    node.apply(RoutesDriver(Kernel()), WANTED)
    assert [way[2] for _, way in sorted(ours(node).items())] == ["10.1.0.250", "fd00:1::fa"]


def test_others_routes_are_told_of_and_left(node: Rig) -> None:
    def theirs(net: Net) -> None:
        link = hostnet.get_link(net, "up2")
        gateway = ip_address("172.16.2.254")
        hostnet.add_route(net, link, hostnet.Route(FAR[0], gateway, priority=50))

    run_in(node.node, theirs)
    before = others(node)
    driver = RoutesDriver(Kernel())
    done = node.inside(lambda: driver(WANTED))
    assert ["10.2.0.0/16" in fault for fault in done.faults] == [True]
    assert [*ours(node)] == ["fd00:2::/48"]
    assert others(node) == before
    node.apply(driver, DesiredNode())
    assert ours(node) == {}
    assert others(node) == before


def test_a_way_that_is_lost_is_told_and_the_route_stays(node: Rig) -> None:
    driver = RoutesDriver(Kernel())
    node.apply(driver, WANTED)

    def lose(net: Net) -> None:
        link = hostnet.get_link(net, "up1")
        route = hostnet.Route(ip_network("192.0.2.0/24"), ip_address("172.16.1.254"))
        assert hostnet.delete_route(net, link, route)

    run_in(node.node, lose)
    done = node.inside(lambda: driver(WANTED))
    assert any("192.0.2.99" in fault for fault in done.faults)
    assert "10.2.0.0/16" in ours(node)


def test_a_way_that_leads_nowhere_is_told_and_the_others_go_on(node: Rig) -> None:
    def nowhere(net: Net) -> None:
        net.change("add", "a route", "route", "add", dst="192.0.2.99/32", type="blackhole")

    run_in(node.node, nowhere)
    driver = RoutesDriver(Kernel())
    done = node.inside(lambda: driver(WANTED))
    [fault] = done.faults
    assert "192.0.2.99" in fault and "10.2.0.0/16" in fault
    assert [*ours(node)] == ["fd00:2::/48"]
    assert done.left == ()


def test_what_is_shut_before_the_node_is_known_leaves_all_that_is_there(
    node: Rig, tmp_path: Path
) -> None:
    into = for_kernel(Policy("fwd", FAR[0], LOCAL[0], local="192.0.2.1", reqid=7))
    run_in(node.node, lambda net: change_policies(net, [Change("add", into)]))
    node.apply(RoutesDriver(Kernel()), WANTED)
    block = Policy("block", EVERYTHING[4], FAR[0])
    closed = DesiredNode(policies=(block,), pod_routes=(PodRoute(FAR[0]),), local=LOCAL)
    file = tmp_path / "federation.json"
    config = FederationAgentConfig(cluster="c", node="n", handover=file)

    async def shut() -> None:
        async def tunnels(_: DesiredNode) -> Done:
            return Done()

        await Parts(config, Kernel(), DataPlane(), tunnels).shut(closed)

    for _ in range(2):
        node.inside(shut)
        assert set(run_in(node.node, list_policies)) == {into, for_kernel(block)}
        assert handover.read(file).local == tuple(map(str, LOCAL))
    assert set(ours(node)) == set(map(str, FAR))


def test_what_is_missing_in_the_file_is_added_and_the_rest_stays(tmp_path: Path) -> None:
    driver = HandoverDriver(tmp_path / "federation.json")
    measured = replace(WANTED, pod_routes=(PodRoute(FAR[0], 1400, 1360),))
    asyncio.run(driver(measured))
    closed = replace(WANTED, pod_routes=(PodRoute(FAR[0]), PodRoute(FAR[1])))
    assert asyncio.run(driver.add(closed)).changes
    found = handover.read(tmp_path / "federation.json")
    assert [(each.destination, each.mtu) for each in found.routes] == [
        ("10.2.0.0/16", 1400),
        ("fd00:2::/48", 0),
    ]
    assert asyncio.run(driver.add(closed)).changes == ()


def test_the_file_for_the_node_agent_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "run" / "federation.json"
    driver = HandoverDriver(path)
    wanted = replace(WANTED, pod_routes=(PodRoute(FAR[0], 1400, 1360),))

    def apply(desired: DesiredNode) -> tuple[str, ...]:
        return asyncio.run(driver(desired)).changes

    assert apply(DesiredNode()) == ()
    assert apply(wanted)
    found = handover.read(path)
    assert found.routes == (handover.HandedRoute(destination="10.2.0.0/16", mtu=1400, advmss=1360),)
    assert found.local == tuple(map(str, LOCAL))
    stamp = path.stat().st_ino
    assert apply(wanted) == ()
    assert path.stat().st_ino == stamp
    assert apply(DesiredNode()) and not path.exists()
    assert [*path.parent.iterdir()] == []
