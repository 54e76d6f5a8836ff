"""The bucket of a flow, and the packet filter that finds the same one."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.desired import BUCKETS
from federation.plan.gateways import buckets
from federation.plan.hashing import PORTED, bucket, bytecode
from tests.federation_packets import packet4, packet6

V4 = st.integers(0, 2**32 - 1).map(IPv4Address)
V6 = st.integers(0, 2**128 - 1).map(IPv6Address)
PORT = st.integers(0, 65535)
PROTOCOL = st.sampled_from([*PORTED, 1, 47, 50, 58]) | st.integers(0, 255)
MOST_INSTRUCTIONS = 64
"""XT_BPF_MAX_NUM_INSTR of linux/netfilter/xt_bpf.h."""


def run(code: str, packet: bytes) -> int:
    """What a classic BPF machine returns (bpf(4)); reading past the packet's end returns 0."""
    count, *lines = code.split(",")
    program = [tuple(map(int, line.split())) for line in lines]
    assert len(program) == int(count)
    a = x = at = 0
    memory = [0] * 16
    while True:
        op, jt, jf, k = program[at]
        at += 1
        match op:
            case 0x00:
                a = k
            case 0x20 | 0x28 | 0x30 | 0x40:
                size = {0x20: 4, 0x28: 2, 0x30: 1, 0x40: 4}[op]
                start = k + (x if op == 0x40 else 0)
                if start + size > len(packet):
                    return 0
                a = int.from_bytes(packet[start : start + size])
            case 0xB1:
                x = 4 * (packet[k] & 15)
            case 0x60:
                a = memory[k]
            case 0x02:
                memory[k] = a
            case 0x0C:
                a = a + x & 0xFFFFFFFF
            case 0x24:
                a = a * k & 0xFFFFFFFF
            case 0xAC:
                a ^= x
            case 0x74:
                a >>= k
            case 0x7C:
                assert x < 32
                a >>= x
            case 0x54:
                a &= k
            case 0x15:
                at += jt if a == k else jf
            case 0x35:
                at += jt if a >= k else jf
            case 0x45:
                at += jt if a & k else jf
            case 0x05:
                at += k
            case 0x07:
                x = a
            case 0x16:
                return a
            case _:
                raise AssertionError(f"no such instruction: {op:#x}")


@given(V4, V4, PROTOCOL, PORT, PORT, st.integers(0, 10), st.integers(0, BUCKETS - 1))
def test_the_filter_and_the_function_agree_on_ipv4_with_any_options(
    source: IPv4Address,
    destination: IPv4Address,
    protocol: int,
    sport: int,
    dport: int,
    options: int,
    other: int,
) -> None:
    packet = packet4(source, destination, protocol, sport, dport, options=options)
    here = bucket(source, destination, protocol, sport, dport)
    assert 0 <= here < BUCKETS
    assert run(bytecode({here}, 4), packet) == 1
    assert run(bytecode({other}, 4), packet) == (other == here)
    assert run(bytecode(set(range(BUCKETS)) - {here}, 4), packet) == 0


@given(V6, V6, PROTOCOL, PORT, PORT, st.integers(0, BUCKETS - 1))
def test_the_filter_and_the_function_agree_on_ipv6(
    source: IPv6Address,
    destination: IPv6Address,
    protocol: int,
    sport: int,
    dport: int,
    other: int,
) -> None:
    packet = packet6(source, destination, protocol, sport, dport)
    here = bucket(source, destination, protocol, sport, dport)
    assert run(bytecode({here}, 6), packet) == 1
    assert run(bytecode({other}, 6), packet) == (other == here)


@given(V4, V4, st.sampled_from(PORTED), PORT, PORT, st.sampled_from([0x2000, 1, 0x1FFF, 0x20B9]))
def test_all_fragments_of_a_packet_are_in_one_bucket(
    source: IPv4Address, destination: IPv4Address, protocol: int, sport: int, dport: int, field: int
) -> None:
    packet = packet4(source, destination, protocol, sport, dport, fragment=field)
    assert run(bytecode({bucket(source, destination, protocol)}, 4), packet) == 1


def test_that_a_packet_may_not_be_fragmented_makes_it_none() -> None:
    ends = IPv4Address("10.1.0.1"), IPv4Address("10.2.0.1")
    packet = packet4(*ends, 6, 40000, 80, fragment=0x4000)
    assert run(bytecode({bucket(*ends, 6, 40000, 80)}, 4), packet) == 1


def test_an_echo_has_no_ports() -> None:
    ends = IPv4Address("10.1.0.1"), IPv4Address("10.2.0.1")
    assert bucket(*ends, 1, 8, 77) == bucket(*ends, 1)


@given(st.sets(st.integers(0, BUCKETS - 1)))
def test_the_filter_is_short_enough_for_iptables(held: set[int]) -> None:
    for family in (4, 6):
        code = bytecode(held, family)
        assert int(code.split(",")[0]) <= MOST_INSTRUCTIONS


ENDS = st.tuples(V4, V4) | st.tuples(V6, V6)


@given(
    ENDS,
    st.sampled_from([6, 17]),
    PORT,
    st.integers(1024, 65535 - 128),
    st.sampled_from([1, 2]),
    st.sets(st.integers(0, BUCKETS - 1), min_size=32, max_size=32),
)
def test_flows_with_ports_in_sequence_spread_evenly_over_any_half_of_the_buckets(
    ends: tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address],
    protocol: int,
    dport: int,
    first: int,
    step: int,
    half: set[int],
) -> None:
    flows = [bucket(ends[0], ends[1], protocol, first + step * each, dport) for each in range(64)]
    assert len(set(flows)) >= 62
    assert 64 * 0.4 <= sum(flow in half for flow in flows) <= 64 * 0.6


@given(st.frozensets(st.integers(1, 14), min_size=2, max_size=2), ENDS, st.integers(1024, 65400))
def test_of_two_gateways_neither_gets_more_than_six_in_ten_of_sequential_flows(
    chosen: frozenset[int],
    ends: tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address],
    first: int,
) -> None:
    gateway = buckets(chosen, chosen)
    flows = Counter(
        gateway[bucket(ends[0], ends[1], 6, first + 2 * each, 5201)] for each in range(64)
    )
    assert max(flows.values()) <= 64 * 0.6


@given(ENDS, PORT, st.integers(1024, 60000))
def test_flows_to_ports_in_sequence_spread_too(
    ends: tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address], sport: int, first: int
) -> None:
    assert len({bucket(ends[0], ends[1], 6, sport, first + each) for each in range(64)}) >= 62


@pytest.mark.parametrize("step", [4, 8, 16, 32, 64, 128, 256])
def test_flows_with_ports_in_larger_steps_use_most_buckets(step: int) -> None:
    ends = IPv4Address("10.1.0.1"), IPv4Address("10.2.0.1")
    count = min(64, 65536 // step)
    assert len({bucket(*ends, 6, step * each, 443) for each in range(count)}) >= count / 2


@given(st.integers(0, 2**32 - 2**13), st.integers(0, 2**32 - 1))
def test_pods_next_to_one_another_use_all_buckets_alike(first: int, destination: int) -> None:
    shares = Counter(
        bucket(IPv4Address(first + each), IPv4Address(destination), 6, 40000, 80)
        for each in range(4096)
    )
    assert len(shares) == BUCKETS
    assert max(shares.values()) <= 2 * 4096 / BUCKETS
