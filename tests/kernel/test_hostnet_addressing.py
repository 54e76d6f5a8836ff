"""Addresses, routes and sysctls of a pod, in namespaces of the test's own."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from hostnet import (
    AlreadyThere,
    GatewayUnreachable,
    InvalidValue,
    Ipv6Missing,
    LinkDown,
    Net,
    Netns,
    NotPermitted,
    Refused,
    Route,
    RouteConflict,
    SysctlMissing,
    add_address,
    add_route,
    default_route,
    delete_address,
    delete_route,
    get_link,
    has_ipv6,
    list_addresses,
    list_routes,
    prepare_pod_link,
    read_sysctl,
    replace_route,
    run_between,
    run_in,
    set_down,
    set_up,
    write_sysctl,
)
from hostnet.rtnetlink import link_settings
from tests.wires import namespaces, wire

NAME = "eth0.5"
FOUR, SIX = ip_interface("10.9.1.5/24"), ip_interface("fd00:9::5/64")
CLONE_NEWNS, MS_RDONLY, MS_REMOUNT, MS_BIND, MS_PRIVATE = 0x20000, 1, 32, 4096, 0x44000


@pytest.fixture
def pod() -> Iterator[Netns]:
    """A pod whose link, down, has a dot in its name; the other end is up."""
    with namespaces(2) as (pod, peer):
        wire(pod, NAME, peer, "port0")
        run_in(pod, lambda net: set_down(net, get_link(net, NAME)))
        yield pod


@pytest.fixture
def ready(pod: Netns) -> Netns:
    """The same, up and with one address of either family."""

    def configure(net: Net) -> None:
        link = get_link(net, NAME)
        for interface in (FOUR, SIX):
            add_address(net, link, interface)
        set_up(net, link)

    run_in(pod, configure)
    return pod


def test_addresses_are_added_once_however_often_it_is_asked(pod: Netns) -> None:
    def job(net: Net) -> list[bool]:
        link = get_link(net, NAME)
        return [add_address(net, link, i) for i in (FOUR, SIX, FOUR, SIX)]

    assert run_in(pod, job) == [True, True, False, False]


def test_an_address_is_usable_at_once(ready: Netns) -> None:
    found = {a.interface: a for a in run_in(ready, list_addresses)}
    assert {FOUR, SIX} <= set(found)
    assert not found[SIX].tentative
    assert found[SIX].scope == "global"


def test_duplicate_detection_can_be_wanted(ready: Netns) -> None:
    def job(net: Net) -> bool:
        link = get_link(net, NAME)
        add_address(net, link, ip_interface("fd00:9::6/64"), nodad=False)
        addresses = list_addresses(net, link)
        return next(a for a in addresses if str(a.interface.ip) == "fd00:9::6").tentative

    assert run_in(ready, job)


def test_an_address_is_taken_away_any_number_of_times(ready: Netns) -> None:
    def job(net: Net) -> list[bool]:
        link = get_link(net, NAME)
        return [delete_address(net, link, i) for i in (FOUR, SIX, FOUR, SIX)]

    assert run_in(ready, job) == [True, True, False, False]
    left = run_in(ready, lambda net: list_addresses(net, get_link(net, NAME)))
    assert [a.scope for a in left] == ["link"]


def test_an_ipv6_address_with_another_prefix_is_not_the_same(ready: Netns) -> None:
    with pytest.raises(AlreadyThere, match="another prefix length"):
        run_in(
            ready, lambda net: add_address(net, get_link(net, NAME), ip_interface("fd00:9::5/72"))
        )


def test_an_ipv6_address_needs_ipv6_on_the_link(pod: Netns) -> None:
    def job(net: Net) -> None:
        write_sysctl(net, "1", "ipv6", "conf", NAME, "disable_ipv6")
        link = get_link(net, NAME)
        set_up(net, link)
        add_address(net, link, SIX)

    with pytest.raises(Ipv6Missing, match="set disable_ipv6=0"):
        run_in(pod, job)
    run_in(pod, lambda net: prepare_pod_link(net, get_link(net, NAME), ipv6=True))
    assert run_in(pod, lambda net: add_address(net, get_link(net, NAME), SIX))


def test_default_routes_go_by_the_gateways_and_may_be_added_again(ready: Netns) -> None:
    gateways = [ip_address("10.9.1.1"), ip_address("fd00:9::1")]

    def job(net: Net) -> list[bool]:
        link = get_link(net, NAME)
        return [add_route(net, link, default_route(g)) for g in gateways * 2]

    assert run_in(ready, job) == [True, True, False, False]
    routes = [r.route for r in run_in(ready, list_routes)]
    assert [r.gateway for r in routes if r.destination.prefixlen == 0] == gateways


@pytest.mark.parametrize(
    "route",
    [
        Route(ip_network("10.0.0.0/8"), ip_address("10.9.1.1"), mtu=1300, advmss=1260, priority=7),
        Route(ip_network("fd01::/48"), ip_address("fd00:9::1"), mtu=1300, advmss=1240, priority=7),
        Route(ip_network("10.1.0.0/16"), scope="link", source=FOUR.ip),
        Route(ip_network("10.2.0.0/16"), ip_address("192.0.2.1"), onlink=True, table=910),
        Route(ip_network("fd02::/48"), ip_address("fd77::1"), onlink=True, table=910),
        Route(ip_network("10.3.0.1/32")),
    ],
    ids=str,
)
def test_a_route_is_what_was_asked_for_and_comes_and_goes_once(ready: Netns, route: Route) -> None:
    def job(net: Net) -> None:
        link = get_link(net, NAME)
        assert add_route(net, link, route)
        assert not add_route(net, link, route)
        found = [r for r in list_routes(net, link, table=route.table) if r.protocol == 4]
        assert [r.route.destination for r in found] == [route.destination]
        shown = found[0].route
        for name in ("gateway", "source", "mtu", "advmss", "table", "onlink"):
            assert getattr(shown, name) == getattr(route, name)
        assert replace_route(net, link, shown)
        assert delete_route(net, link, route)
        assert not delete_route(net, link, route)

    run_in(ready, job)


@pytest.mark.parametrize("gateway", ["192.0.2.1", "fd77::1"])
def test_a_gateway_outside_of_the_links_networks_must_be_said_to_be_on_link(
    ready: Netns, gateway: str
) -> None:
    wrong = default_route(ip_address(gateway))
    with pytest.raises(GatewayUnreachable, match=f"gateway {gateway} is in no network"):
        run_in(ready, lambda net: add_route(net, get_link(net, NAME), wrong))
    right = default_route(ip_address(gateway), onlink=True)
    assert run_in(ready, lambda net: add_route(net, get_link(net, NAME), right))


@pytest.mark.parametrize(
    ("first", "second"), [("10.9.1.1", "10.9.1.2"), ("fd00:9::1", "fd00:9::2")]
)
def test_another_route_to_the_same_place_is_a_conflict_until_replaced(
    ready: Netns, first: str, second: str
) -> None:
    def job(net: Net) -> list[str]:
        link = get_link(net, NAME)
        add_route(net, link, default_route(ip_address(first)))
        other = default_route(ip_address(second))
        with pytest.raises(RouteConflict, match=first):
            add_route(net, link, other)
        replace_route(net, link, other)
        return [
            str(r.route.gateway) for r in list_routes(net) if r.route.destination.prefixlen == 0
        ]

    assert run_in(ready, job) == [second]


def test_a_route_needs_its_link_up(pod: Netns) -> None:
    with pytest.raises(LinkDown):
        run_in(
            pod, lambda net: add_route(net, get_link(net, NAME), Route(ip_network("10.0.0.0/8")))
        )


@pytest.mark.parametrize(
    "route",
    [
        Route(ip_network("10.0.0.0/8"), ip_address("fd00:9::1")),
        Route(ip_network("10.0.0.0/8"), scope="planet"),
    ],
    ids=str,
)
def test_a_route_that_contradicts_itself_is_refused(ready: Netns, route: Route) -> None:
    with pytest.raises(InvalidValue):
        run_in(ready, lambda net: add_route(net, get_link(net, NAME), route))


def test_a_job_sees_the_sysctls_of_its_own_namespace(pod: Netns) -> None:
    with namespaces(1) as (other,):
        setting = ("ipv4", "conf", "all", "arp_announce")
        assert run_in(pod, lambda net: write_sysctl(net, "2", *setting)) == "0"
        assert run_in(pod, lambda net: read_sysctl(net, *setting)) == "2"
        assert run_in(other, lambda net: read_sysctl(net, *setting)) == "0"


def test_a_sysctl_is_written_only_where_it_differs(pod: Netns) -> None:
    steps: list[str] = []
    for _ in range(2):
        run_in(
            pod,
            lambda net: write_sysctl(net, "1", "ipv4", "conf", NAME, "arp_notify"),
            steps.append,
        )
    assert steps == ["sysctl write"]


def test_a_pods_link_gets_its_sysctls_before_and_after_it_goes_up(pod: Netns) -> None:
    def found(net: Net) -> dict[str, str]:
        wanted = ("ndisc_notify", "accept_ra", "disable_ipv6", "keep_addr_on_down")
        values = {s: read_sysctl(net, "ipv6", "conf", NAME, s) for s in wanted}
        values["arp_notify"] = read_sysctl(net, "ipv4", "conf", NAME, "arp_notify")
        values["lo"] = read_sysctl(net, "ipv6", "conf", "lo", "disable_ipv6")
        return values

    def job(net: Net) -> tuple[dict[str, str], dict[str, str]]:
        link = get_link(net, NAME)
        prepare_pod_link(net, link, ipv6=True)
        before = found(net)
        set_up(net, link)
        prepare_pod_link(net, link, ipv6=True, up=True)
        return before, found(net)

    before = {
        "arp_notify": "0",
        "ndisc_notify": "0",
        "accept_ra": "0",
        "disable_ipv6": "0",
        "keep_addr_on_down": "1",
        "lo": "0",
    }
    assert run_in(pod, job) == (before, {**before, "arp_notify": "1", "ndisc_notify": "1"})


def test_a_setting_of_a_link_is_told_with_it(pod: Netns) -> None:
    def job(net: Net) -> None:
        for value in ("1", "0"):
            for family, setting in link_settings(get_link(net, NAME).settings):
                write_sysctl(net, value, family, "conf", NAME, setting)
            told = link_settings(get_link(net, NAME).settings)
            assert len(told) == 6
            for (family, setting), number in told.items():
                assert str(number) == read_sysctl(net, family, "conf", NAME, setting)

    run_in(pod, job)


def test_the_addresses_of_a_prepared_link_outlive_its_going_down(pod: Netns) -> None:
    def job(net: Net) -> list[str]:
        prepare_pod_link(net, get_link(net, NAME), ipv6=True)
        link = get_link(net, NAME)
        add_address(net, link, SIX)
        set_up(net, link)
        set_down(net, link)
        return [str(a.interface) for a in list_addresses(net, link)]

    assert str(SIX) in run_in(pod, job)


@pytest.mark.parametrize("segment", ["", ".", "..", "a/b", "a\0"])
def test_a_segment_cannot_leave_its_place(pod: Netns, segment: str) -> None:
    with pytest.raises(InvalidValue):
        run_in(pod, lambda net: read_sysctl(net, "ipv4", "conf", segment, "forwarding"))


def test_a_setting_or_link_that_is_missing_is_named(pod: Netns) -> None:
    with pytest.raises(SysctlMissing, match="net/ipv4/conf/eth7/arp_notify"):
        run_in(pod, lambda net: read_sysctl(net, "ipv4", "conf", "eth7", "arp_notify"))


def test_a_value_that_the_kernel_does_not_take_is_refused(pod: Netns) -> None:
    with pytest.raises(Refused):
        run_in(pod, lambda net: write_sysctl(net, "many", "ipv4", "ip_forward"))


def test_the_hosts_side_of_a_job_between_has_no_sysctls(pod: Netns) -> None:
    with pytest.raises(RuntimeError, match="another namespace"):
        run_between(pod, lambda host, _: read_sysctl(host, "ipv4", "ip_forward"))


def cover_sysctls(kind: str) -> None:
    """Change what the calling thread, and only it, sees under /proc/sys/net."""
    libc = ctypes.CDLL(None, use_errno=True)
    net = b"/proc/sys/net"
    assert libc.unshare(CLONE_NEWNS) == 0
    assert libc.mount(b"none", b"/", None, MS_PRIVATE, None) == 0
    if kind == "without IPv6":
        assert libc.mount(b"none", net, b"tmpfs", 0, None) == 0
    else:
        assert libc.mount(net, net, None, MS_BIND, None) == 0
        assert libc.mount(b"none", net, None, MS_REMOUNT | MS_BIND | MS_RDONLY, None) == 0


def test_a_kernel_without_ipv6_is_said_to_be_one(pod: Netns) -> None:
    def job(net: Net) -> None:
        cover_sysctls("without IPv6")
        assert not has_ipv6()
        with pytest.raises(Ipv6Missing, match="this kernel has no IPv6"):
            prepare_pod_link(net, get_link(net, NAME), ipv6=True)

    run_in(pod, job)
    assert has_ipv6()


def test_sysctls_that_may_only_be_read_are_said_to_be(pod: Netns) -> None:
    def job(net: Net) -> None:
        cover_sysctls("read-only")
        with pytest.raises(NotPermitted, match="mount /proc/sys writable"):
            write_sysctl(net, "1", "ipv4", "conf", NAME, "arp_notify")

    run_in(pod, job)
