"""Meshes of VXLAN devices between real namespaces, and what a node's driver makes of them."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Network, ip_address, ip_interface, ip_network

import pytest

import hostnet
from federation.desired import DesiredNode, Neighbour, Network, Vxlan
from federation.node.vxlan import VxlanDriver
from hostnet import Kernel, KernelError, Monitor, Net, Netns, run_in
from hostnet.leading import ensure_forwarding
from hostnet.neighbours import delete_forwarding, delete_neighbour
from hostnet.vxlan import look
from tests.federated import Rig
from tests.wires import arrives, namespaces, udp, wire

NAME, PROTOCOL = "nsf0000abcd", 78


@dataclass
class Host:
    """A host of the mesh: `ranges` lie behind it, and it answers at an address in each."""

    number: int
    netns: Netns
    driver: VxlanDriver
    ranges: tuple[Network, ...]

    @property
    def mac(self) -> str:
        return f"02:00:00:00:00:{self.number:02x}"

    @property
    def underlay(self) -> str:
        return f"192.0.2.{self.number}"

    @property
    def neighbour(self) -> Neighbour:
        return Neighbour(self.mac, self.underlay, self.ranges)

    def device(self, *others: Neighbour) -> Vxlan:
        return Vxlan("f", NAME, 7, 4789, self.underlay, self.mac, 1450, others)

    def apply(self, *others: Neighbour, local: Sequence[Network] = ()) -> tuple[str, ...]:
        wanted = DesiredNode(vxlans=(self.device(*others),), local=tuple(local))
        return Rig(self.netns, self.netns, self.netns).apply(self.driver, wanted)

    def address(self, at: int) -> str:
        return str(self.ranges[at][1])


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with two() as made:
        yield made


@contextmanager
def two() -> Iterator[tuple[Host, Host]]:
    with namespaces(2) as (one, other):
        wire(one, "up0", other, "up0")
        found = []
        for number, netns in ((1, one), (2, other)):
            ranges = (ip_network(f"10.{number}.0.0/16"), ip_network(f"fd00:{number}::/48"))
            host = Host(number, netns, VxlanDriver(Kernel()), ranges)
            run_in(netns, partial(_live, host=host))
            found.append(host)
        yield found[0], found[1]


def _live(net: Net, *, host: Host) -> None:
    lo, up = hostnet.get_link(net, "lo"), hostnet.get_link(net, "up0")
    hostnet.set_up(net, lo)
    hostnet.add_address(net, up, ip_interface(f"{host.underlay}/24"))
    for at, length in ((0, 32), (1, 128)):
        hostnet.add_address(net, lo, ip_interface(f"{host.address(at)}/{length}"))


def reaches(one: Host, other: Host, at: int, tries: int = 20) -> bool:
    with udp(one.netns, one.address(at)) as sender, udp(other.netns, other.address(at)) as receiver:
        try:
            return arrives(sender, receiver, tries)
        except OSError:
            return False


def routes(host: Host) -> set[tuple[str, str]]:
    """Subnet, and protocol and link, of each route of the main table."""

    def job(net: Net) -> set[tuple[str, str]]:
        links = {link.index: link.name for link in hostnet.list_links(net)}
        return {
            (str(each.route.destination), f"{each.protocol} {links[each.link]}")
            for each in hostnet.list_routes(net)
        }

    return run_in(host.netns, job)


def test_both_families_go_from_host_to_host(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    one.apply(other.neighbour)
    other.apply(one.neighbour)
    for at in (0, 1):
        assert reaches(one, other, at) and reaches(other, one, at)


def test_a_look_at_what_is_right_changes_nothing(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    assert one.apply(other.neighbour)
    assert one.apply(other.neighbour) == ()
    # After a start of the agent nothing is remembered, and all is found as it should be.
    one.driver = VxlanDriver(Kernel())
    assert one.apply(other.neighbour) == ()


def test_missing_entries_are_told_of_and_put_back(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    one.apply(other.neighbour)
    other.apply(one.neighbour)
    raw = bytes.fromhex(other.mac.replace(":", ""))

    def harm(net: Net) -> None:
        index = hostnet.get_link(net, NAME).index
        net.do("take", "an entry", delete_forwarding(index, raw))
        net.do("take", "a neighbour", delete_neighbour(index, ip_address(other.underlay).packed))
        link = hostnet.get_link(net, NAME)
        route = hostnet.Route(other.ranges[0], ip_address(other.underlay))
        assert hostnet.delete_route(net, link, route)

    def news(net: Net) -> set[str]:
        with Monitor(neighbours=True) as monitor:
            harm(net)
            index = hostnet.get_link(net, NAME).index
            assert one.driver.concerns(index)
            found: set[str] = set()
            while True:
                try:
                    data = monitor._socket.recv(1 << 16, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    return found
                found |= {n.kind for n in hostnet.monitor.parse_news(data) if n.index == index}

    assert run_in(one.netns, news) >= {"neighbour", "route"}
    assert not reaches(one, other, 0, tries=2)
    assert one.apply(other.neighbour) == (f"{NAME}: 3 entries",)
    assert reaches(one, other, 0)


def test_a_device_that_somebody_deleted_or_set_down_comes_back_whole(
    hosts: tuple[Host, Host],
) -> None:
    one, other = hosts
    one.apply(other.neighbour)
    other.apply(one.neighbour)
    for harm in (
        lambda net: hostnet.delete_link(net, NAME),
        lambda net: hostnet.set_down(net, hostnet.get_link(net, NAME)),
    ):
        run_in(one.netns, harm)
        assert one.apply(other.neighbour)
        assert reaches(one, other, 0) and reaches(one, other, 1)


def test_an_address_that_moves_is_replaced_in_one_step(hosts: tuple[Host, Host]) -> None:
    """Never is there no route: deleting would be told as a route that went."""
    one, other = hosts
    single: tuple[Network, ...] = (IPv4Network("10.2.0.9/32"), ip_network("fd00:2::9/128"))
    before = replace(other.neighbour, ranges=single)
    third = Neighbour("02:00:00:00:00:03", "192.0.2.3", ())
    one.apply(before, third)

    def move(net: Net) -> list[int]:
        with Monitor() as monitor:
            gone, moved = replace(before, ranges=()), replace(third, ranges=single)
            wanted = DesiredNode(vxlans=(one.device(gone, moved),))
            assert one.driver._ensure(net, wanted).faults == ()
            kinds: list[int] = []
            while True:
                try:
                    data = monitor._socket.recv(1 << 16, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    return kinds
                kinds += [part.type for part in hostnet.rtnetlink.parts(data)]

    kinds = run_in(one.netns, move)
    assert kinds.count(hostnet.rtnetlink.NEWROUTE) == 2
    assert hostnet.rtnetlink.DELROUTE not in kinds
    found = run_in(one.netns, lambda net: hostnet.find_route(net, ip_address("10.2.0.9")))
    assert found is not None and str(found.route.gateway) == "192.0.2.3"


def test_others_routes_are_told_of_and_left(hosts: tuple[Host, Host]) -> None:
    one, other = hosts

    def theirs(net: Net) -> None:
        link = hostnet.get_link(net, "up0")
        hostnet.add_route(net, link, hostnet.Route(other.ranges[0], ip_address("192.0.2.9")))

    run_in(one.netns, theirs)
    before = routes(one)
    wanted = DesiredNode(vxlans=(one.device(other.neighbour),))
    rig = Rig(one.netns, one.netns, one.netns)
    done = rig.inside(lambda: one.driver(wanted))
    assert any("10.2.0.0/16" in fault for fault in done.faults)
    after = routes(one)
    assert ("10.2.0.0/16", "4 up0") in after
    assert ("fd00:2::/48", f"78 {NAME}") in after
    assert {each for each in after if NAME not in each[1]} == before
    rig.apply(one.driver, DesiredNode())
    assert routes(one) == before


def test_what_does_not_fit_the_underlay_is_lost_and_not_fragmented() -> None:
    """There is a router between the hosts, whose second link takes 1400 bytes."""
    with namespaces(3) as (near, router, far):
        one, other = (
            Host(number, netns, VxlanDriver(Kernel()), (ip_network(f"10.{number}.0.0/16"),))
            for number, netns in ((1, near), (130, far))
        )
        for host, link, gateway in ((one, "r1", "192.0.2.126"), (other, "r2", "192.0.2.254")):
            wire(router, link, host.netns, "up0")
            run_in(router, partial(_addressed, name=link, address=gateway))
            run_in(host.netns, partial(_addressed, name="up0", address=host.underlay))
            run_in(host.netns, partial(_behind, host=host, gateway=gateway))
        run_in(router, ensure_forwarding)
        run_in(router, lambda net: hostnet.set_mtu(net, hostnet.get_link(net, "r2"), 1400))
        one.apply(other.neighbour)
        other.apply(one.neighbour)
        assert reaches(one, other, 0)
        assert arrives_with(one, other, 1350)
        assert not arrives_with(one, other, 1351)


def _addressed(net: Net, *, name: str, address: str) -> None:
    hostnet.add_address(net, hostnet.get_link(net, name), ip_interface(f"{address}/25"))


def _behind(net: Net, *, host: Host, gateway: str) -> None:
    lo, up = hostnet.get_link(net, "lo"), hostnet.get_link(net, "up0")
    hostnet.set_up(net, lo)
    hostnet.add_address(net, lo, ip_interface(f"{host.address(0)}/32"))
    hostnet.add_route(net, up, hostnet.Route(ip_network("192.0.2.0/24"), ip_address(gateway)))


def arrives_with(one: Host, other: Host, size: int) -> bool:
    """Whether a packet of so many bytes arrives, itself in one piece."""
    with udp(one.netns, one.address(0)) as sender, udp(other.netns, other.address(0)) as receiver:
        sender.setsockopt(socket.IPPROTO_IP, 10, 3)  # IP_MTU_DISCOVER, IP_PMTUDISC_PROBE
        receiver.settimeout(0.3)
        for _ in range(3):
            sender.sendto(bytes(size - 28), receiver.getsockname())
            try:
                return len(receiver.recv(1 << 16)) == size - 28
            except TimeoutError:
                continue
    return False


def test_a_route_has_the_mtu_that_was_measured_and_loses_it_again(
    hosts: tuple[Host, Host],
) -> None:
    one, other = hosts
    tight = replace(other.neighbour, mtu=1350)
    one.apply(tight)
    assert mtus(one) == {"10.2.0.0/16": 1350, "fd00:2::/48": 1350}
    one.driver = VxlanDriver(Kernel())
    assert one.apply(tight) == (), "it is found as it should be"
    assert one.apply(other.neighbour) == (f"{NAME}: 2 entries",)
    assert mtus(one) == {"10.2.0.0/16": 0, "fd00:2::/48": 0}
    one.apply(tight, local=one.ranges)
    assert mtus(one) == {"10.2.0.0/16": 1350, "fd00:2::/48": 1350}


def mtus(host: Host) -> dict[str, int]:
    """Of the routes by the device."""

    def job(net: Net) -> dict[str, int]:
        return {
            str(each.route.destination): each.route.mtu
            for each in hostnet.list_routes(net)
            if each.protocol == PROTOCOL
        }

    return run_in(host.netns, job)


def test_without_federations_only_our_devices_go(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    one.apply(other.neighbour)

    def theirs(net: Net) -> None:
        hostnet.vxlan.ensure_vxlan(
            net,
            hostnet.vxlan.Vxlan(
                "flannel.1", 1, 8472, ip_address(one.underlay), "02:00:00:00:01:00", 1450
            ),
        )

    run_in(one.netns, theirs)
    one.driver = VxlanDriver(Kernel())
    Rig(one.netns, one.netns, one.netns).apply(one.driver, DesiredNode())
    names = {link.name for link in run_in(one.netns, hostnet.list_links)}
    assert "flannel.1" in names and NAME not in names


def test_another_device_with_the_number_is_named(hosts: tuple[Host, Host]) -> None:
    one, _ = hosts
    device = hostnet.vxlan.Vxlan(
        "theirs", 7, 4789, ip_address(one.underlay), "02:00:00:00:01:00", 1450
    )
    run_in(one.netns, lambda net: hostnet.vxlan.ensure_vxlan(net, device))
    with pytest.raises(KernelError, match="another device has VNI 7 on port 4789"):
        run_in(one.netns, lambda net: hostnet.vxlan.ensure_vxlan(net, replace(device, name=NAME)))


@pytest.mark.parametrize(("version", "many"), [(4, 100_000), (6, 20_000)])
def test_a_hundred_thousand_single_addresses_take_seconds(
    hosts: tuple[Host, Host], version: int, many: int
) -> None:
    """Made, looked at, a tenth of them moved, taken away."""
    one, _ = hosts
    first = int(ip_address("10.128.0.0" if version == 4 else "fd00:9::"))
    length = 32 if version == 4 else 128

    single = [ip_network((first + at, length)) for at in range(many)]

    def neighbours(shift: int) -> list[Neighbour]:
        """A hundred addresses on each host."""
        shifted = single[shift:] + single[:shift]
        return [
            Neighbour(
                f"02:00:00:01:{at >> 8:02x}:{at & 255:02x}",
                str(ip_address(0xC6120000 + at)),
                tuple(shifted[at * 100 : at * 100 + 100]),
            )
            for at in range(many // 100)
        ]

    before, after = neighbours(0), neighbours(10)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    one.apply(*before)
    made = time.monotonic()
    assert one.apply(*before) == ()
    looked = time.monotonic()
    (line,) = one.apply(*after)
    moved = time.monotonic()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) // 1024
    assert line == f"{NAME}: {many // 10} entries"

    def seen(net: Net) -> int:
        return len(look(net, hostnet.get_link(net, NAME), PROTOCOL, {}).entries.routes)

    assert run_in(one.netns, seen) == many
    gone = time.monotonic()
    one.apply()
    assert run_in(one.netns, seen) == 0
    ended = time.monotonic()
    print(
        f"IPv{version}: made {made - began:.2f} s, looked at {looked - made:.2f}, a tenth moved "
        f"{moved - looked:.2f}, gone {ended - gone:.2f}; {grown} MiB"
    )
    assert moved - began + ended - gone < 20
    assert grown < 200
