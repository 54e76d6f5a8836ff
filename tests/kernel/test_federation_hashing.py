"""The kernel's packet filter and iptables find the bucket of a flow that the function says."""

from __future__ import annotations

import ctypes
import random
import socket
import struct
import subprocess
from collections.abc import Iterable
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal

import pytest

from federation.desired import BUCKETS
from federation.plan.hashing import PORTED, bucket, bytecode, program
from hostnet import Net, Netns, run_in
from lab import programs
from tests.federation_packets import packet4, packet6
from tests.wires import namespaces

_SO_ATTACH_FILTER: Final = 26
_ETH: Final[dict[int, int]] = {4: 0x0800, 6: 0x86DD}
Family = Literal[4, 6]


def attach(taking: socket.socket, buckets: Iterable[int], family: Family) -> None:
    """struct sock_fprog of linux/filter.h."""
    code = b"".join(struct.pack("HBBI", *one) for one in program(set(buckets), family))
    kept = ctypes.create_string_buffer(code, len(code))
    taking.setsockopt(
        socket.SOL_SOCKET,
        _SO_ATTACH_FILTER,
        struct.pack("HL", len(code) // 8, ctypes.addressof(kept)),
    )


def packets(family: Family) -> list[tuple[int, bytes]]:
    """Buckets as the function says, and packets of them."""
    chance = random.Random(family)
    made = []
    for place in range(300):
        protocol = chance.choice([*PORTED, 1, 47, 58])
        ports = chance.randrange(65536), chance.randrange(65536)
        if family == 4:
            ends = IPv4Address(chance.getrandbits(32)), IPv4Address(chance.getrandbits(32))
            fragment = chance.choice([0, 0, 0x4000, 0x2000, 0x00B9])
            seen = ports if fragment in (0, 0x4000) else (0, 0)
            options = place % 11
            packet = packet4(*ends, protocol, *ports, options=options, fragment=fragment)
            made.append((bucket(*ends, protocol, *seen), packet))
        else:
            far = IPv6Address(chance.getrandbits(128)), IPv6Address(chance.getrandbits(128))
            made.append((bucket(*far, protocol, *ports), packet6(*far, protocol, *ports)))
    return made


@pytest.mark.parametrize("family", [4, 6])
def test_the_kernels_filter_finds_the_bucket_that_the_function_says(family: Family) -> None:
    """One socket for each bit of the bucket's number: those that get a packet spell it."""
    with ExitStack() as opened:
        (netns,) = opened.enter_context(namespaces(1))

        def found(net: Net) -> list[tuple[int, int]]:
            net.change("set up", "lo", "link", "set", index=1, state="up")
            kind = socket.SOCK_DGRAM
            takers = []
            for bit in range(6):
                taker = opened.enter_context(socket.socket(socket.AF_PACKET, kind, 0))
                attach(taker, (one for one in range(BUCKETS) if one >> bit & 1), family)
                taker.bind(("lo", _ETH[family]))
                taker.settimeout(0.0)
                takers.append(taker)
            sender = opened.enter_context(socket.socket(socket.AF_PACKET, kind, 0))
            return [
                (said, seen_of(sender, takers, packet, family)) for said, packet in packets(family)
            ]

        pairs = run_in(netns, found)
    assert [said for said, _ in pairs] == [seen for _, seen in pairs]
    assert len({said for said, _ in pairs}) > BUCKETS * 0.9


def seen_of(
    sender: socket.socket, takers: list[socket.socket], packet: bytes, family: Family
) -> int:
    """The number that the sockets spell. On loopback a packet is delivered before `send` returns,
    once on its way out and once in."""
    sender.sendto(packet, ("lo", _ETH[family], 0, 0, b"\xff" * 6))
    number = 0
    for bit, taker in enumerate(takers):
        while True:
            try:
                taker.recv(64)
            except BlockingIOError:
                break
            number |= 1 << bit
    return number


@pytest.mark.parametrize("family", [4, 6])
def test_iptables_takes_the_filter_and_matches_the_flows_of_its_buckets(family: Family) -> None:
    program = "iptables-legacy" if family == 4 else "ip6tables-legacy"
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    held = set(range(0, BUCKETS, 2))
    with namespaces(1) as (netns,):
        run_in(netns, lambda net: net.change("up", "lo", "link", "set", index=1, state="up"))
        table(netns, program, "-A", "OUTPUT", "-m", "bpf", "--bytecode", bytecode(held, family))
        near = IPv4Address("127.0.0.1") if family == 4 else IPv6Address("::1")
        expected = 0

        def send(_: Net) -> int:
            count = 0
            for port in range(20_000, 20_100):
                with socket.socket(kind, socket.SOCK_DGRAM) as sender:
                    sender.bind((str(near), port))
                    sender.sendto(b"", (str(near), 9))
                count += bucket(near, near, 17, port, 9) in held
            return count

        # What answers that nobody listens is ICMP, a flow of its own.
        table(netns, program, "-I", "OUTPUT", "!", "-p", "udp", "-j", "ACCEPT")
        expected = run_in(netns, send)
        listed = table(netns, program, "-vnxL", "OUTPUT")
        (rule,) = [line for line in listed.splitlines() if "match bpf" in line]
        assert int(rule.split()[0]) == expected
        assert 40 <= expected <= 60


def table(netns: Netns, program: str, *arguments: str) -> str:
    """Run iptables on the mangle table of a namespace; what it printed."""

    def run(_: Net) -> str:
        done = subprocess.run(
            [str(programs.find(program)), "-w", "-t", "mangle", *arguments],
            env=programs.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode and "do you need to insmod?" in done.stderr:
            pytest.skip(f"this kernel has no mangle table of {program}")
        if done.returncode and "No chain/target/match" in done.stderr:
            pytest.skip("this kernel has no packet filter match (xt_bpf)")
        assert not done.returncode, done.stderr
        return done.stdout

    return run_in(netns, run)
