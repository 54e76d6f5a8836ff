"""Sends many flows from pod to pod at a steady pace, in one thread, and records what arrives.

A UDP flow sends a numbered datagram at every tick, a TCP flow a numbered piece on one connection.
All sockets are this process's, in the pods' namespaces; both ends have one clock.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar

from hostnet import Netns, open_netns
from lab import topology
from lab.federation.flows import Flow, Record

T = TypeVar("T")

TICK: Final = 0.01
"""Seconds between two packets of a flow."""
LATE: Final = 1.0
"""Seconds without an arrival after which nothing of what was sent last is waited for."""
SIZE: Final = 64
"""Bytes of a datagram's or a piece's payload."""
PATIENCE: Final = 10.0
"""Seconds that a TCP connection may take to be there."""
_HEAD: Final = struct.Struct("!II")
_BUFFER: Final = 1 << 21
_RESET: Final = struct.pack("ii", 1, 0)
"""Of SO_LINGER (socket(7))."""


class TrafficError(RuntimeError):
    """A flow could not begin; says which and why."""


class Traffic:
    """Runs within `with`; leaving it waits for what is under way. `records` are by flow, in the
    flows' order; times are `time.monotonic`'s."""

    def __init__(self, flows: Sequence[Flow], tick: float = TICK) -> None:
        self.records = [Record(flow) for flow in flows]
        self._tick = tick
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._sockets = contextlib.ExitStack()
        self._senders: list[socket.socket] = []
        self._receivers: dict[int, tuple[socket.socket, int]] = {}
        """By descriptor; the number is the TCP flow's, or -1 where datagrams name theirs."""
        self._parts: dict[int, bytearray] = {}
        self._waiting: dict[int, bytearray] = {}
        self._poll = select.epoll()
        self.worst_tick = 0.0
        """Seconds: the longest time between two ticks; more than the pace where the machine is too
        slow for so many flows."""

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._sockets.close()
            raise
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
        """Sends no more, waits a little for what is under way, closes everything."""
        if self._thread.is_alive():
            self._stopping.set()
            self._thread.join()
        self._sockets.close()

    def _open(self) -> None:
        self._sockets.callback(self._poll.close)
        with contextlib.ExitStack() as opened:
            spaces: dict[str, Netns] = {}
            for record in self.records:
                for name in (record.flow.here, record.flow.there):
                    if name not in spaces:
                        path = str(topology.NETNS / name)
                        spaces[name] = opened.enter_context(open_netns(path, allow_own=True))
            targets: dict[tuple[str, str, int], socket.socket] = {}
            for number, record in enumerate(self.records):
                flow = record.flow
                try:
                    if flow.transport == "udp":
                        self._open_datagrams(flow, spaces, targets)
                    else:
                        self._open_stream(number, flow, spaces)
                except OSError as error:
                    raise TrafficError(f"flow {flow.name} to {flow.target}: {error}") from error

    def _open_datagrams(
        self,
        flow: Flow,
        spaces: dict[str, Netns],
        targets: dict[tuple[str, str, int], socket.socket],
    ) -> None:
        place = (flow.there, flow.target, flow.ports[1])
        if place not in targets:
            target = self._socket(flow, spaces[flow.there], socket.SOCK_DGRAM)
            target.bind((flow.target, flow.ports[1]))
            target.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._listen(target, -1)
            targets[place] = target
        sender = self._socket(flow, spaces[flow.here], socket.SOCK_DGRAM)
        sender.bind((flow.source, flow.ports[0]))
        sender.connect((flow.target, flow.ports[1]))
        sender.setblocking(False)
        self._senders.append(sender)

    def _open_stream(self, number: int, flow: Flow, spaces: dict[str, Netns]) -> None:
        sender, target = connected(flow, spaces[flow.here], spaces[flow.there], self._sockets)
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sender.setblocking(False)
        self._senders.append(sender)
        self._listen(target, number)
        self._parts[number] = bytearray()
        self._waiting[number] = bytearray()

    def _socket(self, flow: Flow, space: Netns, kind: int) -> socket.socket:
        return self._sockets.enter_context(_socket(flow, space, kind))

    def _listen(self, target: socket.socket, number: int) -> None:
        target.setblocking(False)
        self._receivers[target.fileno()] = (target, number)
        self._poll.register(target.fileno(), select.EPOLLIN)

    def _run(self) -> None:
        due = previous = time.monotonic()
        while not self._stopping.is_set():
            now = time.monotonic()
            if now >= due:
                self.worst_tick = max(self.worst_tick, now - previous)
                previous = now
                self._send(now)
                # What was late is not made up for: a burst would be another traffic.
                due = max(due + self._tick, now)
            self._receive(max(0.0, due - time.monotonic()))
        while any(record.lost() for record in self.records) and self._receive(LATE):
            pass

    def _send(self, now: float) -> None:
        for number, (record, sender) in enumerate(zip(self.records, self._senders, strict=True)):
            if record.broken:
                continue
            text = _HEAD.pack(number, record.send(now)).ljust(SIZE, b"\0")
            try:
                if record.flow.transport == "udp":
                    sender.send(text)
                else:
                    waiting = self._waiting[number]
                    waiting += text
                    del waiting[: sender.send(waiting)]
            except BlockingIOError:
                pass
            except OSError as error:
                # Datagrams go on: a router that says "unreachable" now may know the way soon.
                if record.flow.transport == "tcp":
                    record.broken = str(error)

    def _receive(self, seconds: float) -> bool:
        """Takes what arrives within so many seconds; whether anything did."""
        ready = self._poll.poll(seconds)
        now = time.monotonic()
        for descriptor, _ in ready:
            target, number = self._receivers[descriptor]
            try:
                if number < 0:
                    while True:
                        flow, packet = _HEAD.unpack_from(target.recv(2048))
                        self.records[flow].arrive(packet, now)
                elif not self._take(number, target.recv(1 << 16), now):
                    self.records[number].broken = "closed by the other end"
                    self._poll.unregister(descriptor)
            except BlockingIOError:
                pass
            except OSError as error:
                if number >= 0:
                    self.records[number].broken = str(error)
                    self._poll.unregister(descriptor)
        return bool(ready)

    def _take(self, number: int, data: bytes, now: float) -> bool:
        parts = self._parts[number]
        parts += data
        while len(parts) >= SIZE:
            self.records[number].arrive(_HEAD.unpack_from(parts)[1], now)
            del parts[:SIZE]
        return bool(data)


def connected(
    flow: Flow, here: Netns, there: Netns, opened: contextlib.ExitStack
) -> tuple[socket.socket, socket.socket]:
    """The sending and the receiving end of a TCP flow, which `opened` closes: by a reset, so that
    the next flow may have the same ports at once. Raises `OSError`."""
    with _socket(flow, there, socket.SOCK_STREAM) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind((flow.target, flow.ports[1]))
        door.listen()
        door.settimeout(PATIENCE)
        sender = opened.enter_context(_socket(flow, here, socket.SOCK_STREAM))
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sender.bind((flow.source, flow.ports[0]))
        sender.settimeout(PATIENCE)
        sender.connect((flow.target, flow.ports[1]))
        receiver = opened.enter_context(door.accept()[0])
    for each in (sender, receiver):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return sender, receiver


def _socket(flow: Flow, space: Netns, kind: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in flow.target else socket.AF_INET
    return in_netns(space, lambda: socket.socket(family, kind))


def in_netns(space: Netns, job: Callable[[], T]) -> T:
    """What the job gives, in a thread that is in the namespace. Cheaper than `hostnet.run_in`,
    which opens netlink."""
    told: list[T | BaseException] = []

    def body() -> None:
        try:
            space.enter()
            told.append(job())
        except BaseException as error:
            told.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if isinstance(told[0], BaseException):
        raise told[0]
    return told[0]


def between(
    name: str,
    here: tuple[str, Sequence[str]],
    there: tuple[str, Sequence[str]],
    count: int,
    first_port: int = 20000,
    transports: Iterable[str] = ("udp",),
) -> list[Flow]:
    """`count` flows of each transport and family from a pod to a pod (namespace, addresses), each
    from a port of its own."""
    made: list[Flow] = []
    for transport in transports:
        for source, target in zip(here[1], there[1], strict=True):
            for at in range(count):
                port = first_port + len(made)
                to = port if transport == "tcp" else 7000
                made.append(
                    Flow(
                        f"{name} {transport}{6 if ':' in source else 4} {at + 1}",
                        "tcp" if transport == "tcp" else "udp",
                        here[0], source, there[0], target, (port, to),
                    )
                )  # fmt: skip
    return made
