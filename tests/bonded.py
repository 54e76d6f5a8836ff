"""Nodes with two network cards each on a switch that filters VLANs, for tests of bonds.

The cards are veth ends; the switch is a bridge in a namespace of its own.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from ipaddress import ip_interface

from hostnet import (
    Bond,
    BondState,
    Link,
    Macvlan,
    Net,
    Netns,
    add_address,
    add_macvlan,
    announce,
    anonymous_netns,
    bond_state,
    ensure_bond,
    ensure_vlan,
    get_link,
    list_links,
    prepare_pod_link,
    run_in,
    set_up,
)
from tests.wires import between, wire

BOND = Bond("bond0", ("card0", "card1"))
SWITCH_PORTS = ("a0", "a1", "b0", "b1")


class Place:
    """Two nodes, a and b, with two cards each on one switch; ``node`` is a."""

    def __init__(self, opened: ExitStack) -> None:
        self._opened = opened
        self.node, self.other, self.switch = (self.namespace() for _ in range(3))
        run_in(self.switch, _make_switch)
        for node, ports in ((self.node, "a"), (self.other, "b")):
            for number in "01":
                wire(node, f"card{number}", self.switch, ports + number)
        run_in(self.switch, _join_ports)

    def namespace(self) -> Netns:
        return self._opened.enter_context(anonymous_netns())

    def ensure(self, bond: Bond = BOND) -> BondState:
        return run_in(self.node, lambda net: ensure_bond(net, bond))

    def links(self) -> dict[str, Link]:
        return {link.name: link for link in run_in(self.node, list_links)}

    def pod(self, node: Netns, vlan_id: int, *addresses: str) -> Netns:
        """A pod with a macvlan eth0 on the node's VLAN, announced."""
        pod = self.namespace()
        interfaces = [ip_interface(a) for a in addresses]

        def job(home: Net, there: Net) -> None:
            parent = ensure_vlan(home, "bond0", vlan_id)
            link = add_macvlan(home, there, pod, Macvlan("eth0", parent.name))
            prepare_pod_link(there, link, ipv6=True)
            for interface in interfaces:
                add_address(there, link, interface)
            set_up(there, link)
            assert announce(there, link, [i.ip for i in interfaces])

        between(node, pod, job)
        return pod


def _make_switch(net: Net) -> None:
    net.change("make", "sw", "link", "add", kind="bridge", ifname="sw", br_vlan_filtering=1)
    set_up(net, get_link(net, "sw"))


def _join_ports(net: Net) -> None:
    bridge = get_link(net, "sw").index
    for name in SWITCH_PORTS:
        port = get_link(net, name).index
        net.change("join", name, "link", "set", index=port, master=bridge)
        for vlan_id in (910, 920):
            info = {"vid": vlan_id}
            net.change("tag", name, "vlan_filter", "add", index=port, vlan_info=info)


def wait_for_active(place: Place, card: str) -> BondState:
    """The state of node a's bond once the card carries its traffic."""
    for _ in range(200):
        state = run_in(place.node, lambda net: bond_state(net, "bond0"))
        if state.active == card:
            return state
        time.sleep(0.01)
    raise AssertionError(f"{card} never became active: {state}")
