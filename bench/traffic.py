"""Traffic between two network namespaces: what a TCP stream carries, how long an answer takes.

The far end is a process of its own (`python -m bench.traffic ADDRESS`), which throws away what
streams bring, says how much it was, and sends datagrams back.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
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
_CHUNK = 1 << 18
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


def megabits(far: Far, seconds: float) -> float:
    """Mbit/s of one TCP stream that is sent for so long."""
    target = (far.address, far.stream)
    data = bytes(_CHUNK)
    with run_in(far.here, lambda _: socket.create_connection(target, _PATIENCE)) as sender:
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds:
            sender.sendall(data)
        sender.shutdown(socket.SHUT_WR)
        received = int(sender.makefile().readline())
        return received * 8e-6 / (time.perf_counter() - begun)


def round_trip(far: Far, count: int) -> float:
    """Microseconds until a datagram of 64 bytes is back, the median of so many."""
    times = []
    with run_in(far.here, lambda _: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.settimeout(_PATIENCE)
        sender.connect((far.address, far.datagrams))
        sender.send(_DATAGRAM)  # the first one waits for the neighbour to be found
        sender.recv(100)
        sender.settimeout(None)
        for _ in range(count):
            begun = time.perf_counter()
            sender.send(_DATAGRAM)
            sender.recv(100)
            times.append(time.perf_counter() - begun)
    return median(times) * 1e6


def _serve(address: str) -> None:
    stream = socket.create_server((address, 0))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((address, 0))
    threading.Thread(target=_echo, args=(datagrams,), daemon=True).start()
    print(json.dumps([stream.getsockname()[1], datagrams.getsockname()[1]]), flush=True)
    room = bytearray(_CHUNK)
    while True:
        with stream.accept()[0] as receiver:
            received = 0
            while size := receiver.recv_into(room):
                received += size
            receiver.sendall(f"{received}\n".encode())


def _echo(datagrams: socket.socket) -> None:
    while True:
        data, sender = datagrams.recvfrom(100)
        datagrams.sendto(data, sender)


if __name__ == "__main__":
    _serve(sys.argv[1])
