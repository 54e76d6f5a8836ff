"""A node's own addresses that move with a card into its bond, and come back when that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from cni_plugins.node_state.desired import WantedBond
from cni_plugins.node_state.links import Bonds
from cni_plugins.node_state.moving import Journal
from cni_plugins.node_state.report import Report
from hostnet import (
    Belongings,
    Bond,
    CardHasAddresses,
    GatewaySilent,
    Moving,
    Net,
    Netns,
    Route,
    Take,
    add_address,
    add_route,
    default_route,
    ensure_bond,
    find_link,
    get_link,
    list_addresses,
    list_routes,
    put_back,
    run_in,
    who_has,
    write_sysctl,
)
from hostnet.uplinks import moving_with, strip_all
from tests.nodes import links
from tests.wires import InjectedError, fail_after, namespaces, wire

BOND = Bond("bond0", ("card1", "card2"), primary="card1")
ADDRESSES = {"10.7.0.2/24", "fd07::2/64"}
ROUTES = {
    ("0.0.0.0/0", "10.7.0.1"),
    ("::/0", "fd07::1"),
    ("10.8.0.0/16", "10.7.0.3"),
}


@dataclass
class Uplink:
    """A node with its addresses on `card1`, and the gateway behind the wire of that card."""

    node: Netns
    router: Netns

    def on(self, name: str) -> tuple[set[str], set[tuple[str, str]]]:
        """The addresses and the routes with a gateway of a link."""

        def job(net: Net) -> tuple[set[str], set[tuple[str, str]]]:
            if (link := find_link(net, name)) is None:
                return set(), set()
            addresses = {str(a.interface) for a in list_addresses(net, link) if a.scope != "link"}
            routes = [found.route for found in list_routes(net, link) if found.route.gateway]
            return addresses, {(str(r.destination), str(r.gateway)) for r in routes}

        return run_in(self.node, job)

    def lose_the_second_wire(self) -> None:
        """Nobody answers behind `card2` any more."""

        def job(net: Net) -> None:
            write_sysctl(net, "1", "ipv4", "conf", "far2", "arp_ignore")

        run_in(self.router, job)


@pytest.fixture
def uplink() -> Iterator[Uplink]:
    with namespaces(2) as (node, router):
        wire(node, "card1", router, "far1")
        wire(node, "card2", router, "far2")

        def gateway(net: Net) -> None:
            link = get_link(net, "far1")
            for address in ("10.7.0.1/24", "10.7.0.3/24", "fd07::1/64"):
                add_address(net, link, ip_interface(address))

        def own(net: Net) -> None:
            link = get_link(net, "card1")
            for address in ADDRESSES:
                add_address(net, link, ip_interface(address))
            add_route(net, link, default_route(IPv4Address("10.7.0.1")))
            add_route(net, link, default_route(IPv6Address("fd07::1")))
            add_route(net, link, Route(ip_network("10.8.0.0/16"), ip_address("10.7.0.3")))

        run_in(router, gateway)
        run_in(node, own)
        yield Uplink(node, router)


def taking(wait: float = 5.0) -> tuple[Take, list[Moving]]:
    told: list[Moving] = []
    return Take(wait, told.append), told


def test_a_card_with_addresses_is_refused_unless_they_may_move(uplink: Uplink) -> None:
    with pytest.raises(CardHasAddresses, match="take_addresses"):
        run_in(uplink.node, lambda net: ensure_bond(net, BOND))
    assert uplink.on("card1") == (ADDRESSES, ROUTES)


def test_addresses_and_routes_move_with_the_card_and_the_gateway_is_there(uplink: Uplink) -> None:
    take, told = taking()
    run_in(uplink.node, lambda net: ensure_bond(net, BOND, take))
    assert uplink.on("bond0") == (ADDRESSES, ROUTES)
    assert uplink.on("card1") == (set(), set())
    assert [set(moving) for moving in told] == [{"card1"}]

    def reached(net: Net) -> str | None:
        source = IPv4Address("10.7.0.2")
        return who_has(net, get_link(net, "bond0"), IPv4Address("10.7.0.1"), source=source)

    far = run_in(uplink.router, lambda net: get_link(net, "far1").mac)
    assert run_in(uplink.node, reached) == far


def test_all_is_put_back_where_the_gateway_does_not_answer_on_the_bond(uplink: Uplink) -> None:
    uplink.lose_the_second_wire()
    bond = Bond("bond0", ("card1", "card2"), primary="card2")
    take, _ = taking(1.0)
    with pytest.raises(GatewaySilent, match="put back"):
        run_in(uplink.node, lambda net: ensure_bond(net, bond, take))
    assert uplink.on("card1") == (ADDRESSES, ROUTES)
    assert links(uplink.node) == ["card1", "card2"]


def test_nothing_is_touched_where_the_gateway_does_not_answer_before(uplink: Uplink) -> None:
    run_in(uplink.router, lambda net: write_sysctl(net, "8", "ipv4", "conf", "far1", "arp_ignore"))
    take, told = taking()
    steps: list[str] = []
    with pytest.raises(GatewaySilent, match="nothing was changed"):
        run_in(uplink.node, lambda net: ensure_bond(net, BOND, take), steps.append)
    assert (steps, told) == ([], [])


def test_a_failure_after_every_single_change_puts_all_back(uplink: Uplink) -> None:
    take, _ = taking()
    number = 0
    while True:
        try:
            run_in(uplink.node, lambda net: ensure_bond(net, BOND, take), fail_after(number))
        except InjectedError:
            assert uplink.on("card1") == (ADDRESSES, ROUTES), f"after change {number}"
            assert links(uplink.node) == ["card1", "card2"], f"after change {number}"
            number += 1
            continue
        break
    assert number > 10
    assert uplink.on("bond0") == (ADDRESSES, ROUTES)


def test_a_move_that_was_cut_off_is_undone_from_what_was_written_down(
    uplink: Uplink, tmp_path: Path
) -> None:
    journal = Journal(tmp_path)
    take = Take(5.0, lambda moving: journal.write("bond0", moving))
    run_in(uplink.node, lambda net: ensure_bond(net, BOND, take))
    moving = journal.read("bond0")
    assert moving is not None
    run_in(uplink.node, lambda net: put_back(net, "bond0", moving))
    assert uplink.on("card1") == (ADDRESSES, ROUTES)
    assert uplink.on("bond0") == (set(), set())
    journal.done("bond0")
    assert journal.read("bond0") is None


def test_the_agent_tries_once_and_then_leaves_the_bond_alone(
    uplink: Uplink, tmp_path: Path
) -> None:
    uplink.lose_the_second_wire()
    bonds = Bonds(Journal(tmp_path))
    wanted = WantedBond(Bond("bond0", ("card1", "card2"), primary="card2"), 1.0)
    steps: list[str] = []
    for _ in range(2):
        steps.clear()
        report = Report()
        run_in(uplink.node, partial(bonds.mend, bonds=[wanted], report=report), steps.append)
        assert "did not answer" in report.of("bond bond0")
    assert steps == []
    assert uplink.on("card1") == (ADDRESSES, ROUTES)
    assert Journal(tmp_path).read("bond0") is None


def test_the_agent_undoes_a_move_that_was_cut_off_and_makes_it_anew(
    uplink: Uplink, tmp_path: Path
) -> None:
    journal = Journal(tmp_path)

    def half_way(net: Net) -> None:
        moving = moving_with(net, "bond0", [get_link(net, "card1")], Take(1.0, lambda _: None))
        journal.write("bond0", moving)
        strip_all(net, get_link(net, "card1"), moving)

    run_in(uplink.node, half_way)
    report = Report()
    wanted = WantedBond(BOND, 5.0)
    run_in(uplink.node, lambda net: Bonds(journal).mend(net, [wanted], report))
    assert report.failures == []
    assert "10.7.0.2/24" in report.of("bond bond0")
    assert uplink.on("bond0") == (ADDRESSES, ROUTES)
    assert journal.read("bond0") is None


def test_what_is_written_down_is_what_was_there(tmp_path: Path) -> None:
    route = Route(
        ip_network("10.8.0.0/16"),
        ip_address("10.7.0.3"),
        "global",
        ip_address("10.7.0.2"),
        1400,
        1360,
        5,
        100,
        True,
    )
    goods = Belongings((ip_interface("10.7.0.2/24"), ip_interface("fd07::2/64")), (route,))
    journal = Journal(tmp_path)
    journal.write("bond0", {"card1": goods})
    assert journal.read("bond0") == {"card1": goods}
    assert json.loads((tmp_path / "moving" / "bond0.json").read_text())
