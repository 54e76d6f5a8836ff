"""A node between a pod of its own cluster and one of another, in namespaces of the test's own: what
tests of the federation's parts of a node need."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network
from typing import TypeVar

import hostnet
from federation.desired import DesiredNode
from federation.node.keeping import Done
from hostnet import Net, Netns, run_in
from hostnet.firewall import find_firewall, read_firewall, restore
from hostnet.leading import ensure_forwarding
from tests.wires import namespaces, wire

T = TypeVar("T")
LOCAL = (ip_network("10.1.0.0/16"), ip_network("fd00:1::/48"))
REMOTE = (ip_network("10.2.0.0/16"), ip_network("fd00:2::/48"))
HERE, THERE = ("10.1.0.5", "fd00:1::5"), ("10.2.0.5", "fd00:2::5")
Rules = dict[str, dict[str, list[str]]]


@dataclass
class Rig:
    """`node` has the link `near` to the pod `here`, and `far` to the pod `there`."""

    node: Netns
    here: Netns
    there: Netns

    def inside(self, work: Callable[[], Awaitable[T]]) -> T:
        """Runs the work on the node."""

        async def main() -> T:
            return await work()

        return run_in(self.node, lambda _: asyncio.run(main()))

    def apply(
        self, driver: Callable[[DesiredNode], Awaitable[Done]], wanted: DesiredNode
    ) -> tuple[str, ...]:
        """What the driver changed; that it could do all of it."""
        done = self.inside(lambda: driver(wanted))
        assert done.faults == ()
        return done.changes

    def feed(self, text: str, *, six: bool = False) -> None:
        """Another program changes the node's rules."""
        run_in(self.node, lambda net: restore(net, find_firewall(net, 6 if six else 4), text))

    def rules(self) -> Rules:
        """All rules of both families: those of IPv6 in tables with a 6."""

        def job(net: Net) -> Rules:
            four = read_firewall(net, find_firewall(net, 4)).tables
            six = read_firewall(net, find_firewall(net, 6)).tables
            return four | {f"{table}6": chains for table, chains in six.items()}

        return run_in(self.node, job)


@contextmanager
def rig() -> Iterator[Rig]:
    with namespaces(3) as (node, here, there):
        for each in (node, here, there):
            # Else nobody is asked for on another's behalf in the first second or two.
            run_in(each, _no_waiting)
        for pod, link, number, own in ((here, "near", 1, HERE), (there, "far", 2, THERE)):
            wire(node, link, pod, "eth0")
            gateways = (f"10.{number}.0.1/16", f"fd00:{number}::1/48")
            run_in(node, partial(_addressed, name=link, texts=gateways))
            lengths = zip(own, (16, 48), strict=True)
            texts = tuple(f"{address}/{length}" for address, length in lengths)
            run_in(pod, partial(_addressed, name="eth0", texts=texts))
            run_in(pod, partial(_routed, gateways=gateways))
        run_in(node, ensure_forwarding)
        yield Rig(node, here, there)


def foreign(tables: Rules) -> Rules:
    """What of the rules is not ours; tables that only ours are in count as empty ones."""
    found = {
        table: {
            chain: [rule for rule in rules if "NETSPACE" not in rule]
            for chain, rules in chains.items()
            if "NETSPACE" not in chain
        }
        for table, chains in tables.items()
    }
    return {table: chains for table, chains in found.items() if any(chains.values())}


def _no_waiting(net: Net) -> None:
    hostnet.write_sysctl(net, "0", "ipv6", "conf", "default", "dad_transmits")


def _addressed(net: Net, *, name: str, texts: tuple[str, ...]) -> None:
    hostnet.set_up(net, hostnet.get_link(net, "lo"))
    link = hostnet.get_link(net, name)
    for text in texts:
        hostnet.add_address(net, link, ip_interface(text))


def _routed(net: Net, *, gateways: tuple[str, ...]) -> None:
    link = hostnet.get_link(net, "eth0")
    for text in gateways:
        gateway = ip_address(text.partition("/")[0])
        hostnet.add_route(net, link, hostnet.default_route(gateway))
