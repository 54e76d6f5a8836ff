"""The responder: answers other nodes' probes, on a UDP port of this node.

It keeps nothing, answers only what is a probe, never with more bytes than it got, from the address
that was asked, and not more than `RATE` times a second. It has a thread of its own: a node that is
busy with its plan forwards as well as ever. Sources: ip(7) IP_PKTINFO, ipv6(7), RFC 3542.
"""

from __future__ import annotations

import errno
import logging
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterable
from typing import Final

from federation.node.probing import answer_to
from netspace.problems import Problem

logger = logging.getLogger(__name__)

RATE: Final = 20_000
"""Answers a second at most; what comes beyond is passed over."""
_BATCH: Final = 64
_LARGEST: Final = 65_535
_ROOM: Final = 256
_IP_PKTINFO: Final = 8
_INFO4: Final = struct.Struct("=i4s4s")
_INFO6: Final = struct.Struct("=16si")


class Responder:
    """Answers on the ports it is told. `answered`: how many probes since it began."""

    def __init__(self) -> None:
        self.answered = 0
        self.refused = 0
        self._sockets: dict[int, list[socket.socket]] = {}
        self._second, self._left = 0, RATE
        self._thread: threading.Thread | None = None
        self._wake = -1

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(self._sockets)

    def serve(self, ports: Iterable[int]) -> None:
        """Listens on exactly these ports from now on. `Problem` where one cannot be had; the
        others are listened on."""
        wanted = set(ports)
        taken = []
        if wanted != set(self._sockets):
            self._stop()
            for port in set(self._sockets) - wanted:
                _close(self._sockets.pop(port))
            for port in sorted(wanted - set(self._sockets)):
                try:
                    self._sockets[port] = _opened(port)
                except OSError as error:
                    taken.append(f"UDP port {port}: {error.strerror or error}")
            self._start()
        if taken:
            raise Problem(
                "invalid",
                f"probes of other nodes cannot be answered: {'; '.join(taken)}",
                do="free the port, or give the federation another probe_port",
            )

    def close(self) -> None:
        self._stop()
        for sockets in self._sockets.values():
            _close(sockets)
        self._sockets.clear()

    def _start(self) -> None:
        sockets = [sock for made in self._sockets.values() for sock in made]
        if sockets:
            self._wake = os.eventfd(0)
            arguments = (self._wake, sockets)
            self._thread = threading.Thread(
                target=self._answer, args=arguments, name="responder", daemon=True
            )
            self._thread.start()

    def _stop(self) -> None:
        """Sockets are opened and closed while nobody waits for them."""
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            os.close(self._wake)
            self._thread = None

    def _answer(self, wake: int, sockets: list[socket.socket]) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(wake, selectors.EVENT_READ)
            for sock in sockets:
                selector.register(sock, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if wake in ready:
                    return
                for each in ready:
                    assert isinstance(each, socket.socket)
                    self._readable(each)

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                data, ancillary, _, sender = sock.recvmsg(_LARGEST, _ROOM)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                # An ICMP error about an earlier answer; the next datagram is another's.
                logger.debug("a probe could not be read", extra={"why": error.strerror})
                continue
            answer = answer_to(data)
            if answer is None or not self._may():
                self.refused += 1
                continue
            try:
                sock.sendmsg([answer], _back(ancillary), 0, sender)
                self.answered += 1
            except OSError:
                self.refused += 1

    def _may(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._left = second, RATE
        self._left -= 1
        return self._left >= 0


def _opened(port: int) -> list[socket.socket]:
    made: list[socket.socket] = []
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                made.append(_bound(family, port))
            except OSError as error:
                # A kernel without IPv6, or with IPv6 turned off.
                if family == socket.AF_INET or error.errno not in (
                    errno.EAFNOSUPPORT,
                    errno.EADDRNOTAVAIL,
                ):
                    raise
    except OSError:
        _close(made)
        raise
    return made


def _close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def _bound(family: socket.AddressFamily, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("", port))
    except OSError:
        sock.close()
        raise
    return sock


def _back(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """What makes the answer come from the address that was asked."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            _, own, _ = _INFO4.unpack(data[: _INFO4.size])
            return [(level, kind, _INFO4.pack(0, own, bytes(4)))]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            own, index = _INFO6.unpack(data[: _INFO6.size])
            scoped = own.startswith(b"\xfe\x80")
            return [(level, kind, _INFO6.pack(own, index if scoped else 0))]
    return []
