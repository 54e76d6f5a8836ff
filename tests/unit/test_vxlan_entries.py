"""A VXLAN mesh's entries as bytes, and what of them changes."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from hostnet.neighbours import PERMANENT, read_neighbour, set_forwarding, set_neighbour
from hostnet.route_messages import gateway_attribute, read_route, set_route
from hostnet.vxlan import Remote, entries_of, key_of, network_of

MAC = "02:00:00:00:00:0a"
RAW = bytes.fromhex(MAC.replace(":", ""))
BEYOND = ip_address("fe80::ff:fe00:a").packed


def test_a_remote_host_is_found_by_its_underlay_and_its_link_local_address() -> None:
    ranges = [ip_network("10.2.0.0/24"), ip_network("fd00:2::/64")]
    found = entries_of([Remote(MAC, ip_address("192.0.2.1"), ranges)])
    underlay = ip_address("192.0.2.1").packed
    assert found.forwarding == {RAW: underlay}
    assert found.neighbours == {BEYOND: RAW, underlay: RAW}
    assert found.routes == {key_of(ranges[0]): underlay, key_of(ranges[1]): BEYOND}


def test_over_an_ipv6_underlay_ipv4_goes_by_the_link_local_address_too() -> None:
    found = entries_of([Remote(MAC, ip_address("2001:db8::1"), [ip_network("10.2.0.1/32")])])
    assert found.neighbours == {BEYOND: RAW}
    assert found.routes == {key_of(ip_network("10.2.0.1/32")): BEYOND}


def test_the_hosts_own_address_goes_with_the_routes_of_its_family() -> None:
    ranges = [ip_network("10.2.0.0/24"), ip_network("fd00:2::/64")]
    remote = Remote(MAC, ip_address("192.0.2.1"), ranges)
    found = entries_of([remote], [ip_address("10.1.0.1")])
    assert found.routes[key_of(ranges[0])].endswith(ip_address("10.1.0.1").packed)
    assert found.routes[key_of(ranges[1])] == BEYOND


@given(
    st.one_of(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda t: (4, *t)),
        st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(lambda t: (6, *t)),
    )
)
def test_a_key_is_its_subnet(made: tuple[int, int, int]) -> None:
    version, number, length = made
    raw = number.to_bytes(4 if version == 4 else 16)
    network = ip_network((raw, length), strict=False)
    assert network_of(key_of(network)) == network


def test_what_is_packed_is_read_again() -> None:
    entry = read_neighbour(set_neighbour(7, BEYOND, RAW).body)
    assert (entry.link, entry.address, entry.mac, entry.state) == (7, BEYOND, RAW, PERMANENT)
    entry = read_neighbour(set_forwarding(7, RAW, bytes(4)).body)
    assert (entry.address, entry.mac) == (bytes(4), RAW)
    message = set_route(
        "add", 7, bytes((10, 2, 0, 0)), 16, scope=0, table=254, gateway=BEYOND,
        source=bytes((10, 1, 0, 1)), metrics={"mtu": 1400}, protocol=78, priority=9,
    )  # fmt: skip
    route = read_route(message.body)
    assert route is not None
    assert (route.destination, route.prefixlen) == (bytes((10, 2, 0, 0)), 16)
    assert (route.gateway, route.source) == (BEYOND, bytes((10, 1, 0, 1)))
    assert (route.protocol, route.mtu, route.priority, route.link) == (78, 1400, 9, 7)
    assert gateway_attribute(BEYOND, 4) in message.body
