"""Who reaches whom: pings and TCP from pod to pod, many at once."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import subprocess
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from hostnet import open_netns
from lab import programs, topology
from lab.federation.traffic import in_netns
from lab.federation.wiring import LabPod

PORT: Final = 8080
PIECE: Final = 200_000
"""Bytes of a TCP transfer: many full segments."""
_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Way:
    """From a pod to an address of another one."""

    source: LabPod
    target: LabPod
    address: str

    def __str__(self) -> str:
        return f"{self.source.name} → {self.target.name} {self.address}"


def ways(pairs: Iterable[tuple[LabPod, LabPod]]) -> list[Way]:
    """Both directions of each pair, in both families."""
    return [
        Way(here, there, address)
        for one, other in pairs
        for here, there in ((one, other), (other, one))
        for address in there.addresses
    ]


def silent(asked: Sequence[Way], seconds: int, count: int = 1) -> list[Way]:
    """Those of the ways on which no ping was answered; all are tried at the same time."""
    started = []
    for way in asked:
        words = f"-n -q -c {count} -w {seconds} -W {seconds} {way.address}".split()
        started.append(
            topology.within(
                way.source.netns,
                lambda _, words=words: subprocess.Popen(  # type: ignore[misc]
                    [str(programs.find("ping")), *words],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=programs.environment(),
                ),
            )
        )
    return [way for way, ping in zip(asked, started, strict=True) if ping.wait() != 0]


def broken(asked: Sequence[Way]) -> dict[Way, str]:
    """Those of the ways on which a TCP transfer did not arrive whole, and why."""
    found = {}
    for way in asked:
        try:
            transfer(way)
        except OSError as error:
            found[way] = str(error) or type(error).__name__
    return found


def transfer(way: Way) -> None:
    """Sends a piece over TCP, gets its digest back. Raises OSError."""
    family = socket.AF_INET6 if ":" in way.address else socket.AF_INET
    data = hashlib.shake_128(way.address.encode()).digest(PIECE)
    with contextlib.ExitStack() as opened:

        def made(pod: LabPod) -> socket.socket:
            with open_netns(str(topology.NETNS / pod.netns)) as space:
                new = in_netns(space, lambda: socket.socket(family, socket.SOCK_STREAM))
            opened.enter_context(new)
            new.settimeout(_SECONDS)
            return new

        door, sender = made(way.target), made(way.source)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind((way.address, PORT))
        door.listen()

        def answer() -> None:
            with contextlib.suppress(OSError):
                taken, _ = door.accept()
                with taken:
                    taken.settimeout(_SECONDS)
                    read = b""
                    while part := taken.recv(1 << 16):
                        read += part
                    taken.sendall(hashlib.sha256(read).digest())

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        sender.connect((way.address, PORT))
        sender.sendall(data)
        sender.shutdown(socket.SHUT_WR)
        said = sender.recv(64)
        thread.join(_SECONDS)
        if said != hashlib.sha256(data).digest():
            raise OSError("what arrived is not what was sent")
