"""The tools that look at the traffic of joined clusters: what they say of packets and flows that
are known."""

from __future__ import annotations

import math
import socket
import struct
from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_network
from itertools import combinations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from lab.federation import layout, wiring
from lab.federation.capture import Instruction, pods_only
from lab.federation.flows import Flow, Record, longest_gap_ms, lost, shares
from lab.federation.measure import summary
from lab.federation.packets import ESP, TCP, UDP, Packet, esp_keys, read
from lab.federation.traffic import between

POD4, FAR4 = "10.101.0.32", "10.102.3.12"
POD6, FAR6 = "fd00:101::20", "fd00:102:0:3::c"
NODE4, GATEWAY4 = "172.31.1.12", "172.31.2.11"
NODE6, GATEWAY6 = "fd31:1::c", "fd31:2::b"
KEY = bytes(range(36))
SPI = 0xC0FFEE01


def ip(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    if ":" in source:
        head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
        return head + IPv6Address(source).packed + IPv6Address(target).packed + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    return head + IPv4Address(source).packed + IPv4Address(target).packed + payload


def udp(source: str, target: str, ports: tuple[int, int], payload: bytes) -> bytes:
    return ip(source, target, UDP, struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload)


def frame(packet: bytes) -> bytes:
    kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    return bytes(12) + struct.pack("!H", kind) + packet


def sealed(packet: bytes, *, high: bool = True) -> bytes:
    """The packet in ESP, AES-GCM; `high`: with an extended sequence number."""
    number, vector = 7, 42
    padding = -(len(packet) + 2) % 4
    protocol = 4 if packet[0] >> 4 == 4 else 41
    plain = packet + bytes(range(1, padding + 1)) + bytes([padding, protocol])
    known = struct.pack("!III", SPI, 0, number) if high else struct.pack("!II", SPI, number)
    nonce = KEY[-4:] + struct.pack("!Q", vector)
    return struct.pack("!IIQ", SPI, number, vector) + AESGCM(KEY[:-4]).encrypt(nonce, plain, known)


def seen(packet: bytes, keys: dict[int, bytes] | None = None) -> Packet:
    found = read(frame(packet), layout.POD_NETWORKS, keys)
    assert found is not None
    return found


INNER4 = udp(POD4, FAR4, (20000, 7000), bytes(100))
INNER6 = udp(POD6, FAR6, (20001, 7000), bytes(100))


@pytest.mark.parametrize("inner", [INNER4, INNER6])
@pytest.mark.parametrize("high", [True, False])
def test_an_esp_packet_is_opened_with_its_key_and_its_overhead_counted(
    inner: bytes, high: bool
) -> None:
    outer = ip(NODE4, GATEWAY4, ESP, sealed(inner, high=high))
    found = seen(outer, {SPI: KEY})
    assert (found.kind, found.outer_headers) == ("esp", 1)
    assert found.overhead == len(outer) - len(inner)
    assert found.headers[-1].ports[1] == 7000


def test_an_esp_packet_without_its_key_is_one_of_which_nothing_is_said() -> None:
    for keys in ({}, {SPI: bytes(36)}):
        found = seen(ip(NODE4, GATEWAY4, ESP, sealed(INNER4)), keys)
        assert (found.kind, found.outer_headers, found.overhead) == ("esp", None, None)


def test_esp_behind_nat_and_ike_are_told_apart_by_the_marker() -> None:
    behind = udp(NODE4, GATEWAY4, (4500, 4500), sealed(INNER4))
    assert seen(behind, {SPI: KEY}).overhead == len(behind) - len(INNER4)
    assert seen(udp(NODE4, GATEWAY4, (4500, 4500), bytes(4) + b"ike")).kind == "ike"
    assert seen(udp(NODE4, GATEWAY4, (500, 500), b"ike")).kind == "ike"


@pytest.mark.parametrize("ends", [(NODE4, GATEWAY4), (NODE6, GATEWAY6)])
def test_a_vxlan_packet_has_fifty_bytes_around_it_under_ipv4(ends: tuple[str, str]) -> None:
    outer = udp(*ends, (50000, 4789), bytes(8) + frame(INNER6))
    found = seen(outer)
    assert (found.kind, found.outer_headers) == ("vxlan", 1)
    assert found.overhead == (50 if ends == (NODE4, GATEWAY4) else 70)


def test_a_second_tunnel_inside_the_first_is_a_second_outer_header() -> None:
    twice = udp(NODE4, GATEWAY4, (50000, 4789), bytes(8) + frame(INNER4))
    found = seen(ip(NODE4, GATEWAY4, ESP, sealed(twice)), {SPI: KEY})
    assert found.outer_headers == 2


@pytest.mark.parametrize("packet", [INNER4, INNER6, udp(NODE4, FAR4, (1, 2), b"")])
def test_what_is_from_or_to_a_pod_with_nothing_around_it_is_clear(packet: bytes) -> None:
    assert seen(packet).kind == "clear"


def test_what_is_between_nodes_is_not_clear() -> None:
    assert seen(udp(NODE4, GATEWAY4, (1000, 2000), b"")).kind == "other"
    assert read(b"too short", layout.POD_NETWORKS) is None


@given(st.binary(max_size=200))
def test_no_bytes_on_the_wire_are_too_strange_to_be_looked_at(data: bytes) -> None:
    for kind in (0x0800, 0x86DD, 0x0806):
        read(bytes(12) + struct.pack("!H", kind) + data, layout.POD_NETWORKS, {SPI: KEY})


def test_keys_are_read_from_what_ip_says() -> None:
    said = (
        "src 172.31.1.12 dst 172.31.2.11\n\tproto esp spi 0xc0ffee01 reqid 1 mode tunnel\n"
        f"\taead rfc4106(gcm(aes)) 0x{KEY.hex()} 128\n\tanti-replay context: seq 0x0\n"
        "src 172.31.1.12 dst 172.31.2.11\n\tproto esp spi 0x00000002 reqid 1 mode tunnel\n"
        "\tenc cbc(aes) 0x00\n"
    )
    assert esp_keys(said) == {SPI: KEY}


def test_a_link_is_summed_up_by_what_was_opened_on_it() -> None:
    packets = [
        seen(ip(NODE4, GATEWAY4, ESP, sealed(INNER4)), {SPI: KEY}),
        seen(ip(NODE4, GATEWAY4, ESP, sealed(INNER6 + b"x" * 3)), {SPI: KEY}),
        seen(ip(NODE4, GATEWAY4, ESP, sealed(INNER4)), {}),
        None,
    ]
    wire = summary(3, packets)
    assert (wire.clear, wire.kinds, wire.opened, wire.outer) == (3, Counter(esp=3), 2, (1,))
    assert 54 <= wire.overhead["esp"] <= 60


# The filter of clear packets, run as the kernel runs it.


def accepted(program: list[Instruction], data: bytes) -> bool:
    at = value = 0
    while True:
        code, if_true, if_false, constant = program[at]
        at += 1
        if code == 0x06:
            return constant > 0
        if code == 0x15:
            at += if_true if value == constant else if_false
        else:
            size = {0x28: 2, 0x30: 1}[code]
            if constant + size > len(data):
                return False
            value = int.from_bytes(data[constant : constant + size], "big")


@pytest.mark.parametrize(
    ("packet", "passes"),
    [
        (INNER4, True),
        (INNER6, True),
        (udp(NODE4, FAR4, (1, 2), b""), True),
        (udp(POD4, GATEWAY4, (1, 2), b""), True),
        (udp(NODE6, FAR6, (1, 2), b""), True),
        (udp(POD6, GATEWAY6, (1, 2), b""), True),
        (udp(NODE4, GATEWAY4, (1, 2), b""), False),
        (udp(NODE6, GATEWAY6, (1, 2), b""), False),
        (ip(NODE4, GATEWAY4, ESP, sealed(INNER4)), False),
    ],
)
def test_the_kernel_hands_over_packets_of_pods_alone(packet: bytes, passes: bool) -> None:
    assert accepted(pods_only(), frame(packet)) is passes


def test_the_filter_takes_neither_arp_nor_what_is_cut_short() -> None:
    assert not accepted(pods_only(), bytes(12) + b"\x08\x06" + bytes(40))
    assert not accepted(pods_only(), frame(INNER4)[:20])


# Flows


def record(arrived: Iterable[float], tick: float = 0.01) -> Record:
    """A flow whose packets were sent every tick from 1.0 on; 0.0 for those that were lost."""
    made = Record(Flow("f", "udp", "h", POD4, "t", FAR4, (1, 2)))
    for number, came in enumerate(arrived):
        made.send(1.0 + number * tick)
        if came:
            made.arrive(number, came)
    return made


def test_a_gap_lasts_from_the_last_arrival_before_it_to_the_first_after_it() -> None:
    times = [1.0 + n * 0.01 + 0.001 for n in range(100)]
    times[40:60] = [0.0] * 20
    assert record(times).gap() == pytest.approx(0.21)
    assert record(times).lost() == 20
    assert lost([record(times)], until=1.5) == 10
    assert longest_gap_ms([record(times)], since=1.7) == pytest.approx(10, abs=0.1)


def test_what_never_comes_back_is_a_gap_to_the_end() -> None:
    times = [1.001 + n * 0.01 for n in range(50)] + [0.0] * 50
    assert record(times).gap() == pytest.approx(0.5, abs=0.011)
    assert math.isinf(record([0.0] * 10).gap())


@given(st.lists(st.booleans(), min_size=2, max_size=200))
def test_a_gap_is_never_shorter_than_the_longest_run_of_losses(came: list[bool]) -> None:
    made = record(1.0 + n * 0.01 + 0.002 if ok else 0.0 for n, ok in enumerate(came))
    longest = max(map(len, "".join("1" if ok else "0" for ok in came).split("1")))
    assert made.lost() == came.count(False)
    if any(came):
        assert made.gap() > (longest - 1) * 0.01 - 0.003
        assert made.gap() <= (longest + 1) * 0.01 + 0.003


def test_a_packet_that_comes_twice_is_one_that_arrived() -> None:
    made = record([1.001, 1.011])
    made.arrive(1, 1.02)
    assert (made.repeated, made.lost()) == (1, 0)


def test_shares_are_parts_of_all_flows() -> None:
    assert shares(["b1", "b2", "b1", "b1"]) == {"b1": 0.75, "b2": 0.25}
    assert shares([]) == {}


def test_flows_between_two_pods_differ_in_their_ports_and_name_their_family() -> None:
    made = between("x", ("n1", (POD4, POD6)), ("n2", (FAR4, FAR6)), 5, transports=("udp", "tcp"))
    assert len({flow.key for flow in made}) == len(made) == 20
    assert Counter((flow.transport, ":" in flow.target) for flow in made) == {
        ("udp", False): 5, ("udp", True): 5, ("tcp", False): 5, ("tcp", True): 5,
    }  # fmt: skip


# The place


def test_no_two_networks_of_the_lab_overlap() -> None:
    networks = []
    for cluster in layout.CLUSTERS:
        networks += [ip_network(text) for text in cluster.ranges]
        networks += [ip_network(f"172.31.{cluster.number}.0/24")]
        networks += [ip_network(f"fd31:{cluster.number}::/64")]
    for one, other in combinations(networks, 2):
        assert one.version != other.version or not one.overlaps(other), (one, other)
    for cluster in layout.CLUSTERS:
        for text in cluster.ranges:
            inside = ip_network(text)
            assert any(
                inside.version == pods.version and inside.subnet_of(pods)  # type: ignore[arg-type]
                for pods in layout.POD_NETWORKS
            )


def test_every_node_has_addresses_of_its_own_and_its_pods_lie_in_its_ranges() -> None:
    nodes = [node for cluster in layout.CLUSTERS for node in cluster.nodes]
    addresses = [address for node in nodes for address in node.underlay]
    assert len(set(addresses)) == len(addresses)
    for node in nodes:
        for address, text in zip(node.pod(77), node.ranges, strict=True):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            packed = socket.inet_pton(family, address)
            assert ip_network((packed, ip_network(text).max_prefixlen)).subnet_of(
                ip_network(text)  # type: ignore[arg-type]
            )


def test_b_enters_by_two_of_its_three_nodes_and_one_link_is_narrower() -> None:
    assert [node.gateway for node in layout.B.nodes] == [True, True, False]
    assert sorted(mtu for *_, mtu in layout.links()) == [1400, 1500, 1500]


def test_a_routers_guard_lets_no_packet_of_a_pod_in_from_another_router() -> None:
    for family, pods in ((4, "10.0.0.0/8"), (6, "fd00::/16")):
        text = wiring.guard_text(layout.A, family)
        for port in ("to-rb", "to-rc"):
            for side in ("-s", "-d"):
                assert f"-A FORWARD -i {port} {side} {pods} -j DROP" in text


def test_foreign_rules_drop_invalid_packets_ahead_of_everything() -> None:
    rules = [line for line in wiring.foreign_text(layout.B, 4).splitlines() if "FORWARD" in line]
    assert rules[0] == ":FORWARD DROP [0:0]"
    assert rules[2] == "-A FORWARD -m conntrack --ctstate INVALID -j DROP"


def test_tcp_is_a_protocol_with_ports() -> None:
    packet = ip(POD4, FAR4, TCP, struct.pack("!HH", 20000, 8080) + bytes(16))
    assert seen(packet).headers[0].ports == (20000, 8080)
