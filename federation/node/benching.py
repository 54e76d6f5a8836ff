"""What a path carries: small probes one after the other, then a load of whole packets at a given
rate, through the very tunnel that flows take. The far end's responder says which arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass
from statistics import median
from typing import Final

from federation.node.mtu import HEADERS, LEAST
from federation.node.prober import Target, connected
from federation.node.probing import SIZE, Mark, mark_of, probe
from netspace.messages.federation_trials import BenchedPath

PROBES: Final = 10
"""Small ones, of whose answers the round trip is told."""
SPACING: Final = 0.05
TICK: Final = 0.005
LATE: Final = 1.0
"""Seconds that answers are waited for after the last packet."""
_BEHIND: Final = 0.05
"""Seconds of the load that are sent at once, at most, where this process was late."""
_ROOM: Final = 4 << 20


@dataclass(slots=True)
class _Sent:
    """When each packet went, until it is answered; `rtts` of those that were, seconds."""

    waiting: dict[Mark, float]
    rtts: list[float]
    count: int = 0


async def bench(
    node: str, target: Target, size: int | None, seconds: float, rate: int
) -> BenchedPath:
    """`size`: bytes of a whole packet that goes through in one piece, None where it is not known;
    `rate`: bits a second, 0 for the round trip alone."""
    size = size or LEAST[target.family]
    try:
        sock = connected(target)
    except OSError as error:
        return BenchedPath(node=node, why=f"no packet can be sent: {error.strerror or error}")
    loop = asyncio.get_running_loop()
    sent = _Sent({}, [])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
    loop.add_reader(sock, _read, sock, sent)
    try:
        for _ in range(PROBES):
            _send(sock, sent, SIZE)
            await asyncio.sleep(SPACING)
        await _answers(sent)
        if not sent.rtts:
            return BenchedPath(node=node, why=f"none of {sent.count} probes was answered")
        rtt = median(sent.rtts)
        load = _Sent({}, [])
        loop.remove_reader(sock)
        loop.add_reader(sock, _read, sock, load)
        lasted = await _load(sock, load, size - HEADERS[target.family], seconds, rate / 8 / size)
    finally:
        loop.remove_reader(sock)
        sock.close()
    return benched(node, rtt, size, load.count, len(load.rtts), lasted)


def benched(
    node: str, rtt: float, size: int, sent: int, answered: int, seconds: float
) -> BenchedPath:
    """The figures of a load that took so long; pure."""
    bits = 8 * size / seconds if seconds else 0.0
    return BenchedPath(
        node=node,
        rtt=round(rtt, 6),
        size=size,
        asked=round(sent * bits),
        got=round(answered * bits),
        loss=round(1 - answered / sent, 4) if sent else 0.0,
    )


async def _load(
    sock: socket.socket, sent: _Sent, payload: int, seconds: float, per_second: float
) -> float:
    """Sends so many packets a second; how many seconds it took."""
    loop = asyncio.get_running_loop()
    began = last = loop.time()
    owed = 1.0 if per_second else 0.0
    while (now := loop.time()) - began < seconds and per_second:
        owed += min(now - last, _BEHIND) * per_second
        last = now
        while owed >= 1:
            owed -= 1
            _send(sock, sent, payload)
        await asyncio.sleep(TICK)
    lasted = loop.time() - began
    await _answers(sent)
    return lasted


async def _answers(sent: _Sent) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + LATE
    while sent.waiting and loop.time() < end:
        await asyncio.sleep(SPACING)


def _send(sock: socket.socket, sent: _Sent, payload: int) -> None:
    mark = Mark(sent.count & 0xFFFFFFFF, os.urandom(16))
    sent.count += 1
    sent.waiting[mark] = asyncio.get_running_loop().time()
    # What cannot be sent is lost, and counted so.
    with contextlib.suppress(OSError):
        sock.send(probe(mark, payload))


def _read(sock: socket.socket, sent: _Sent) -> None:
    now = asyncio.get_running_loop().time()
    for _ in range(256):
        try:
            mark = mark_of(sock.recv(SIZE + 1))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            continue  # ICMP's word about an earlier packet.
        began = None if mark is None else sent.waiting.pop(mark, None)
        if began is not None:
            sent.rtts.append(now - began)
