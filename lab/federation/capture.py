"""What is on the wire of the lab: frames of an interface, taken with a packet socket, bounded.

The kernel filters what a capture is not about (classic BPF), so that watching for what must never
come costs nothing while other traffic runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from hostnet import open_netns
from lab import topology
from lab.federation.packets import ip_header
from lab.federation.traffic import in_netns

ETH_P_ALL: Final = 3
SO_ATTACH_FILTER: Final = 26
SO_RCVBUFFORCE: Final = 33
PACKET_OUTGOING: Final = 4
_SNAP: Final = 2048
_BUFFER: Final = 4 << 20
_BATCH: Final = 100
_REST: Final = 1.0
"""Seconds that reading what came before the end may take: more may come as fast as it is read."""
_VERSIONS: Final = {0x0800: 4, 0x86DD: 6}

Instruction = tuple[int, int, int, int]

_LOAD_HALF, _LOAD_BYTE, _EQUAL, _RETURN = 0x28, 0x30, 0x15, 0x06


def pods_only() -> list[Instruction]:
    """Frames whose outermost IP header has an address of 10.0.0.0/8 or fd00::/16 on either side."""
    return [
        (_LOAD_HALF, 0, 0, 12),
        (_EQUAL, 0, 4, 0x0800),
        (_LOAD_BYTE, 0, 0, 26),
        (_EQUAL, 7, 0, 10),
        (_LOAD_BYTE, 0, 0, 30),
        (_EQUAL, 5, 6, 10),
        (_EQUAL, 0, 5, 0x86DD),
        (_LOAD_HALF, 0, 0, 22),
        (_EQUAL, 2, 0, 0xFD00),
        (_LOAD_HALF, 0, 0, 38),
        (_EQUAL, 0, 1, 0xFD00),
        (_RETURN, 0, 0, 0x40000),
        (_RETURN, 0, 0, 0),
    ]


class Capture:
    """Frames seen while it is entered: how many, and the first `keep` of them. `link` None: of
    every interface of the namespace. `arriving`: not those that the namespace itself sends, which
    would count what is forwarded twice. `missed`: how many frames the buffer had no room for."""

    def __init__(
        self,
        space: str,
        link: str | None = None,
        *,
        keep: int = 1000,
        arriving: bool = True,
        program: Sequence[Instruction] = (),
        each: Callable[[bytes], None] | None = None,
    ) -> None:
        self.frames: list[bytes] = []
        self.count = 0
        self.missed = 0
        self._space, self._link, self._keep = space, link, keep
        self._arriving, self._program, self._each = arriving, program, each
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def __enter__(self) -> Self:
        with open_netns(str(topology.NETNS / topology.netns(self._space))) as space:
            self._socket = in_netns(space, self._opened)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends it once what has come is read."""
        if self._thread.is_alive():
            self._stopping.set()
            self._thread.join()
        with contextlib.suppress(OSError):
            # struct tpacket_stats: packets, dropped; asking resets them.
            found = self._socket.getsockopt(263, 6, 8)
            self.missed += struct.unpack("II", found)[1]
        self._socket.close()

    def _opened(self) -> socket.socket:
        # Of no protocol until filter and interface are set: else frames of others are in it. Of all
        # interfaces it begins with frames that the filter has not seen, which are thrown away.
        protocol = 0 if self._link else socket.htons(ETH_P_ALL)
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, protocol)
        try:
            opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _BUFFER)
            attach(opened, self._program)
            opened.setblocking(False)
            if self._link:
                opened.bind((self._link, ETH_P_ALL))
            else:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        opened.recv(1)
        except BaseException:
            opened.close()
            raise
        return opened

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        end = math.inf
        while time.monotonic() < end:
            stopping = self._stopping.is_set()
            if not poll.poll(0 if stopping else 50) and stopping:
                return
            if stopping and end == math.inf:
                end = time.monotonic() + _REST
            with contextlib.suppress(BlockingIOError):
                for _ in range(_BATCH):
                    frame, source = self._socket.recvfrom(_SNAP)
                    if not self._arriving or source[2] != PACKET_OUTGOING:
                        self._take(frame)

    def _take(self, frame: bytes) -> None:
        self.count += 1
        if len(self.frames) < self._keep:
            self.frames.append(frame)
        if self._each is not None:
            self._each(frame)


class Sightings:
    """Which flows a node forwards: by flow (`Flow.key`), how many of its packets were seen."""

    def __init__(self, space: str) -> None:
        self.seen: Counter[tuple[str, str, int, int]] = Counter()
        self._capture = Capture(space, keep=0, program=pods_only(), each=self._note)

    def __enter__(self) -> Self:
        self._capture.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._capture.stop()

    def _note(self, frame: bytes) -> None:
        version = _VERSIONS.get(int.from_bytes(frame[12:14], "big"))
        header = ip_header(frame, 14, version) if version else None
        if header is not None:
            self.seen[header.key] += 1


def attach(opened: socket.socket, program: Sequence[Instruction]) -> None:
    """Gives a socket a filter in classic BPF; none where there are no instructions."""
    if not program:
        return
    code = b"".join(struct.pack("HBBI", *each) for each in program)
    held = ctypes.create_string_buffer(code)
    filled = struct.pack("HL", len(program), ctypes.addressof(held))
    opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filled)
