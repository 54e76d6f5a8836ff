"""Which bucket a flow is in: as a number, and as a classic BPF program for iptables' `-m bpf`.

The program sees a packet from its network header (xt_bpf) and keeps no state. The bucket comes from
the addresses, the protocol and the ports; of fragments, and of what has no ports, from addresses
and protocol. Ports are those of TCP, UDP and SCTP, after IPv4's options or straight after the fixed
header of IPv6. iptables takes at most 64 instructions.

Addresses are multiplied and folded; the ports are added last, times a constant by which 64 flows
whose ports follow one another in steps of one or two lie in 63 or 64 different buckets: whatever
half of the buckets a gateway has, it has half of them.

Source: bpf(4), linux/filter.h, iptables-extensions(8).
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal

from federation.desired import BUCKETS

PORTED: Final = (6, 17, 132)
_WORD: Final = 0xFFFFFFFF
_ADDRESS: Final = 0x9E3779B1
"""2^32 divided by the golden ratio, made odd."""
_FOLD: Final = 0x85EBCA6B
_PORTS: Final = 0x7E087E08
"""For source * 2^16 + destination: each port's step turns the bucket by 63/128 of the circle and
1/8192 more, so that steps of 2 go through neighbouring buckets, steps of 1 through both halves in
turn, and those of 128 do not stay in one."""
_TOP: Final = 26

_LD_IMM, _LD_W, _LD_H, _LD_B, _LD_W_X = 0x00, 0x20, 0x28, 0x30, 0x40
_LDX_IP_HEADER, _LD_MEM, _ST = 0xB1, 0x60, 0x02
_ADD_X, _MUL_K, _XOR_X, _RSH_K, _RSH_X, _AND_K = 0x0C, 0x24, 0xAC, 0x74, 0x7C, 0x54
_JEQ, _JGE, _JSET, _JA = 0x15, 0x35, 0x45, 0x05
_TAX, _RET_A = 0x07, 0x16

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand."""


def bucket(
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
    protocol: int,
    sport: int = 0,
    dport: int = 0,
) -> int:
    """The bucket, 0 to 63. Ports count for TCP, UDP and SCTP; give 0 for fragments."""
    hashed = 0
    for byte in range(0, len(source.packed), 4):
        hashed = (hashed * _ADDRESS + int.from_bytes(source.packed[byte : byte + 4])) & _WORD
    for byte in range(0, len(destination.packed), 4):
        hashed = (hashed * _ADDRESS + int.from_bytes(destination.packed[byte : byte + 4])) & _WORD
    hashed = (hashed * _ADDRESS + protocol) & _WORD
    hashed = ((hashed ^ hashed >> 15) * _FOLD) & _WORD
    if protocol in PORTED:
        hashed = (hashed + (sport << 16 | dport) * _PORTS) & _WORD
    return hashed >> _TOP


def program(buckets: Collection[int], family: Literal[4, 6]) -> list[Instruction]:
    """The program that returns 1 for packets whose flow is in one of the buckets, else 0."""
    first, last, protocol = (12, 20, 9) if family == 4 else (8, 40, 6)
    code: list[Instruction] = [(_LD_W, 0, 0, first)]
    for offset in range(first + 4, last, 4):
        code += [
            (_MUL_K, 0, 0, _ADDRESS),
            (_TAX, 0, 0, 0),
            (_LD_W, 0, 0, offset),
            (_ADD_X, 0, 0, 0),
        ]
    code += [
        (_MUL_K, 0, 0, _ADDRESS),
        (_TAX, 0, 0, 0),
        (_LD_B, 0, 0, protocol),
        (_ADD_X, 0, 0, 0),
        # Folded: A ^= A >> 15, times a constant; kept in M[0].
        (_ST, 0, 0, 0),
        (_RSH_K, 0, 0, 15),
        (_TAX, 0, 0, 0),
        (_LD_MEM, 0, 0, 0),
        (_XOR_X, 0, 0, 0),
        (_MUL_K, 0, 0, _FOLD),
        (_ST, 0, 0, 0),
    ]
    ports: list[Instruction] = []
    if family == 4:
        ports += [(_LDX_IP_HEADER, 0, 0, 0), (_LD_W_X, 0, 0, 0)]
    else:
        ports += [(_LD_W, 0, 0, 40)]
    ports += [(_MUL_K, 0, 0, _PORTS), (_TAX, 0, 0, 0), (_LD_MEM, 0, 0, 0), (_ADD_X, 0, 0, 0)]
    # With ports: on to them; without: over them, to the kept hash.
    skip: Instruction = (_JA, 0, 0, len(ports))
    checks: list[Instruction] = []
    if family == 4:
        # More fragments, or an offset: no ports to be seen in all of them.
        checks += [(_LD_H, 0, 0, 6), (_JSET, len(PORTED) + 1, 0, 0x3FFF)]
    checks += [(_LD_B, 0, 0, protocol)]
    for place, one in enumerate(PORTED):
        checks.append((_JEQ, len(PORTED) - place + 1, 0, one))
    code += [*checks, (_LD_MEM, 0, 0, 0), skip, *ports]
    low = sum(1 << each for each in set(buckets) if each < BUCKETS // 2)
    high = sum(1 << each - BUCKETS // 2 for each in set(buckets) if each >= BUCKETS // 2)
    code += [
        (_RSH_K, 0, 0, _TOP),
        (_JGE, 3, 0, BUCKETS // 2),
        (_TAX, 0, 0, 0),
        (_LD_IMM, 0, 0, low),
        (_JA, 0, 0, 3),
        (_AND_K, 0, 0, BUCKETS // 2 - 1),
        (_TAX, 0, 0, 0),
        (_LD_IMM, 0, 0, high),
        (_RSH_X, 0, 0, 0),
        (_AND_K, 0, 0, 1),
        (_RET_A, 0, 0, 0),
    ]
    return code


def bytecode(buckets: Collection[int], family: Literal[4, 6]) -> str:
    """The program as `iptables -m bpf --bytecode` takes it."""
    code = program(buckets, family)
    return f"{len(code)}," + ",".join(" ".join(map(str, one)) for one in code)
