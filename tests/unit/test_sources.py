"""What a pod may send: the rules, and the program made of them, decide alike."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from hostnet.sources import (
    Rule,
    Sources,
    bpf_program,
    link_local,
    nft_rule,
    rules_of,
    template,
)

MAC = bytes.fromhex("02aabbccdd01")
FOUR, SIX = IPv4Address("10.1.0.5"), IPv6Address("fd00:1::5")
RULES = rules_of(Sources(MAC, (FOUR, SIX)))
KINDS = (b"\x08\x00", b"\x08\x06", b"\x86\xdd", b"\x81\x00", b"\x88\xb5")
PIECES = (MAC, FOUR.packed, SIX.packed, link_local(MAC).packed, bytes(16), bytes(4))


def accepted(rules: tuple[Rule, ...], frame: bytes) -> bool:
    for rule in rules:
        if all((frame[m.at : m.at + len(m.value)] == m.value) != m.other for m in rule.matches):
            return rule.accept
    return False


def run(program: bytes, frame: bytes) -> int:
    """The classic BPF machine, as far as the programs need it."""
    code = list(struct.iter_unpack("=HBBI", program))
    at = value = 0
    while True:
        kind, hit, miss, number = code[at]
        at += 1
        if kind == 0x06:
            return int(number)
        if kind == 0x15:
            at += hit if value == number else miss
            continue
        width = {0x20: 4, 0x28: 2, 0x30: 1}[kind]
        value = int.from_bytes(frame[number : number + width], "big")


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Frames near to what the rules look for: own and other values in all the places."""
    frame = bytearray(draw(st.binary(min_size=80, max_size=80)))
    frame[6:12] = draw(st.sampled_from((MAC, b"\x02" + bytes(5))))
    frame[12:14] = draw(st.sampled_from(KINDS))
    frame[20] = draw(st.sampled_from((0, 6, 17, 44, 58, 60)))
    frame[21] = draw(st.sampled_from((1, 64, 255)))
    frame[54] = draw(st.sampled_from((128, 133, 134, 135, 136, 137, 143)))
    for place in (22, 26, 28, 62):
        piece = draw(st.sampled_from((*PIECES, b"")))
        frame[place : place + len(piece)] = piece
    return bytes(frame[:80])


@given(frames())
def test_the_program_decides_as_the_rules_do(frame: bytes) -> None:
    assert (run(bpf_program(RULES), frame) == 0) == accepted(RULES, frame)


@given(frames())
def test_what_passes_has_the_pods_mac_and_of_ip_one_of_its_sources(frame: bytes) -> None:
    if accepted(RULES, frame):
        assert frame[6:12] == MAC
        if frame[12:14] == b"\x08\x00":
            assert frame[26:30] == FOUR.packed
        if frame[12:14] == b"\x86\xdd":
            own = (SIX.packed, link_local(MAC).packed, bytes(16))
            assert frame[22:38] in own
            assert frame[20] != 58 or frame[54] not in (134, 137)


@given(st.sets(st.integers(0, 2**128 - 1).map(IPv6Address), min_size=1, max_size=16))
def test_sixteen_addresses_fit_into_a_program(addresses: set[IPv6Address]) -> None:
    rules = rules_of(Sources(MAC, tuple(addresses)))
    size = len(bpf_program(rules)) // 8
    assert size <= 4096
    assert max(rule.count(b"payload\0") for rule in map(nft_rule, rules)) <= 128


def as_nftables(own: Sources) -> bytes:
    return b"".join(map(nft_rule, rules_of(own)))


@given(
    st.binary(min_size=6, max_size=6),
    st.lists(st.integers(0, 2**32 - 1).map(IPv4Address), max_size=8),
    st.lists(st.integers(0, 2**128 - 1).map(IPv6Address), max_size=8),
)
def test_a_filled_template_is_what_would_have_been_made_anew(
    mac: bytes, four: list[IPv4Address], six: list[IPv6Address]
) -> None:
    own = Sources(mac, (*four, *six))
    assert template(len(four), len(six), as_nftables).filled(own) == as_nftables(own)
