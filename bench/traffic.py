"""Traffic between two network namespaces: what a TCP stream carries, how long an answer takes.

The far end is a process of its own (`python -m bench.traffic ADDRESS`), which throws away what
streams bring, says when it has all of it, and sends datagrams back. Connections stay, so that a
round can be short; and each end has a processor of its own, since it makes more of a difference
than anything else on which ones the scheduler puts them.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

from hostnet import Netns, run_in
from lab import programs
from lab.processes import bound

_PATIENCE = 10.0
_CHUNK = bytes(1 << 18)
_CHUNKS = struct.Struct("!I")
_DATAGRAM = bytes(64)


class Far(NamedTuple):
    """Where a far end is reached from the namespace `here`."""

    here: Netns
    address: str
    stream: int
    datagrams: int


def inside(netns: Netns) -> list[str]:
    """What to put before a command that is to run in the namespace and end with its starter."""
    return [*bound(), str(programs.find("nsenter")), f"--net=/proc/{os.getpid()}/fd/{netns.fd}"]


@contextlib.contextmanager
def far_end(here: Netns, there: Netns, address: str) -> Iterator[Far]:
    """A far end on the address, which `there` has."""
    process = subprocess.Popen(
        [*inside(there), sys.executable, "-m", "bench.traffic", address],
        cwd=programs.CLONE,
        env=programs.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        stream, datagrams = json.loads(process.stdout.readline())
        yield Far(here, address, stream, datagrams)
    finally:
        process.kill()
        process.communicate()


class Near:
    """The near end of connections to a far end."""

    def __init__(self, far: Far) -> None:
        target = (far.address, far.stream)
        self._stream = run_in(far.here, lambda _: socket.create_connection(target, _PATIENCE))
        self._datagrams = run_in(
            far.here, lambda _: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        )
        self._datagrams.settimeout(_PATIENCE)
        self._datagrams.connect((far.address, far.datagrams))
        self.round_trip(1)  # the first one waits for the neighbour to be found
        self._datagrams.settimeout(None)

    def megabits(self, chunks: int) -> float:
        """Mbit/s of so many chunks of 256 KiB, until the other end has the last one."""
        begun = time.perf_counter()
        self._stream.sendall(_CHUNKS.pack(chunks))
        for _ in range(chunks):
            self._stream.sendall(_CHUNK)
        if not self._stream.recv(1):
            raise ConnectionError("the far end is gone")
        return chunks * len(_CHUNK) * 8e-6 / (time.perf_counter() - begun)

    def round_trip(self, count: int) -> float:
        """Microseconds until a datagram of 64 bytes is back, the median of so many."""
        times = []
        for _ in range(count):
            begun = time.perf_counter()
            self._datagrams.send(_DATAGRAM)
            self._datagrams.recv(100)
            times.append(time.perf_counter() - begun)
        return median(times) * 1e6

    def close(self) -> None:
        self._stream.close()
        self._datagrams.close()


@contextlib.contextmanager
def on_processor(number: int) -> Iterator[None]:
    """Keeps the calling thread on one of its processors, as far as it has so many."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed)[number % len(allowed)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _serve(address: str) -> None:
    stream = socket.create_server((address, 0))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((address, 0))
    with on_processor(1):
        threading.Thread(target=_echo, args=(datagrams,), daemon=True).start()
        print(json.dumps([stream.getsockname()[1], datagrams.getsockname()[1]]), flush=True)
        room = bytearray(len(_CHUNK))
        while True:
            with stream.accept()[0] as receiver:
                while head := receiver.recv(_CHUNKS.size, socket.MSG_WAITALL):
                    for _ in range(_CHUNKS.unpack(head)[0]):
                        receiver.recv_into(room, 0, socket.MSG_WAITALL)
                    receiver.sendall(b".")


def _echo(datagrams: socket.socket) -> None:
    while True:
        data, sender = datagrams.recvfrom(100)
        datagrams.sendto(data, sender)


if __name__ == "__main__":
    _serve(sys.argv[1])
