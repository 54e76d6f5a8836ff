"""The prober: asks the responders of other nodes, through the very tunnels that flows take.

Each ESP tunnel has a socket of its own whose packets carry the tunnel's mark; VXLAN paths share
one, over the link-local addresses of the device. What became of each probe is told at once. Sizes
are tried with DF set and without what the kernel remembers of the path (IP_PMTUDISC_PROBE, ip(7)).
"""

from __future__ import annotations

import asyncio
import errno
import heapq
import os
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final, Literal

from federation.desired import Path
from federation.node.mtu import HEADERS, LEAST, Trying
from federation.node.probing import LATE, NONCE, SIZE, Due, Mark, Window, mark_of, probe

BIG: Final = 10
"""One in so many probes is followed by one of the size that was measured."""
BIG_LOSSES: Final = 3
"""So many of these lost in a row while small ones are answered: the path has another MTU now."""
AGAIN: Final = 5.0
"""Seconds after which a path whose MTU could not be found is measured again."""
MESH_WINDOW: Final = 20
"""Of so many probes of a VXLAN path loss and round trip are told at most."""
_PROBE: Final = 3
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23
_SO_MARK: Final = 36
_MOST_READ: Final = 256

Told = Callable[[Path, bool], None]
"""Told of every probe of a path whether it was answered."""
Sized = Callable[[Path, int], None]
"""Told what a path's MTU was found to be, bytes; 0: not even the least went through."""


@dataclass(frozen=True, slots=True)
class Target:
    """How a path is probed. `mark`: of the tunnel's packets, 0 over VXLAN; `link`: the VXLAN device
    that the link-local `remote` lies on, empty for a tunnel; `most`: bytes of a packet on the way
    to the tunnel, or of one on the device, at most."""

    remote: str
    port: int
    interval: float
    most: int
    local: str = ""
    mark: int = 0
    link: str = ""

    @property
    def family(self) -> int:
        return ip_address(self.remote).version


class _Line:
    """One path as it is probed."""

    def __init__(self, path: Path, target: Target, due: Due, window: Window) -> None:
        self.path, self.target, self.due, self.window = path, target, due, window
        self.socket: socket.socket | None = None
        self.alive = True
        self.count = self.big_row = 0
        self.mtu: int | None = None
        self.measured = float("-inf")
        self.trying: Trying | None = None
        self.tried: Mark | None = None
        self.big: Mark | None = None


class Prober:
    """Probes the paths that it is told. `run` until it is cancelled, then `close`."""

    def __init__(self, told: Told, sized: Sized, window: int = 100, remeasure: float = 600) -> None:
        self._loop = asyncio.get_running_loop()
        self._told, self._sized = told, sized
        self._window, self._remeasure = window, remeasure
        self._lines: dict[Path, _Line] = {}
        self._waiting: dict[Mark, _Line] = {}
        self._agenda: list[tuple[float, int, _Line, Mark | None]] = []
        self._shared: socket.socket | None = None
        self._number = 0
        self._woken = asyncio.Event()

    def targets(self) -> Mapping[Path, Target]:
        """How each path is probed."""
        return {path: line.target for path, line in self._lines.items()}

    def windows(self) -> Mapping[Path, Window]:
        """What became of the probes of each path."""
        return {path: line.window for path, line in self._lines.items()}

    def mtu(self, path: Path) -> int | None:
        """Bytes, as measured last; None where that is not done."""
        line = self._lines.get(path)
        return None if line is None else line.mtu

    def want(self, targets: Mapping[Path, Target]) -> None:
        """Probes exactly these from now on; a path whose target stays goes on undisturbed."""
        for path in [path for path in self._lines if path not in targets]:
            self._drop(self._lines.pop(path))
        now = self._loop.time()
        fresh = [path for path in targets if path not in self._lines]
        for at, path in enumerate(fresh):
            target = targets[path]
            # The first ones are spread over an interval, so that they do not come all at once.
            first = now + target.interval * at / max(1, len(fresh)) if target.link else now
            self._add(path, target, first)
        for path, target in targets.items():
            line = self._lines[path]
            if replace(line.target, interval=target.interval) != target:
                self._drop(line)
                self._add(path, target, now)
            elif line.target != target:
                line.target = target
                line.due.interval = line.window.interval = target.interval
        self._woken.set()

    def remeasure(self, path: Path) -> None:
        """Measures the path's MTU with its next answer."""
        if (line := self._lines.get(path)) is not None:
            line.measured = float("-inf")

    async def run(self) -> None:
        while True:
            self._woken.clear()
            wait = self._agenda[0][0] - self._loop.time() if self._agenda else None
            if wait is None or wait > 0:
                try:
                    async with asyncio.timeout(wait):
                        await self._woken.wait()
                except TimeoutError:
                    pass
                continue
            # What has arrived meanwhile is no loss, however late this process is.
            self._read_all()
            now = self._loop.time()
            while self._agenda and self._agenda[0][0] <= now:
                _, _, line, mark = heapq.heappop(self._agenda)
                if not line.alive:
                    if mark is not None:
                        self._waiting.pop(mark, None)
                elif mark is None:
                    self._probe(line, now)
                else:
                    self._judge(line, mark, now)
            await asyncio.sleep(0)

    def close(self) -> None:
        for line in self._lines.values():
            self._drop(line)
        self._lines.clear()
        if self._shared is not None:
            self._closed(self._shared)
            self._shared = None

    def _add(self, path: Path, target: Target, first: float) -> None:
        due = Due(target.interval, first)
        # There may be thousands of VXLAN paths, and each is probed seldom.
        size = min(self._window, MESH_WINDOW) if target.link else self._window
        line = _Line(path, target, due, Window(target.interval, size))
        self._lines[path] = line
        self._at(first, line, None)

    def _drop(self, line: _Line) -> None:
        line.alive = False
        if line.socket is not None:
            self._closed(line.socket)
            line.socket = None

    def _closed(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock)
        sock.close()

    def _at(self, when: float, line: _Line, mark: Mark | None) -> None:
        self._number += 1
        heapq.heappush(self._agenda, (when, self._number, line, mark))

    def _probe(self, line: _Line, now: float) -> None:
        line.due.taken(now)
        self._at(line.due.next, line, None)
        mark = self._mark()
        line.window.sent(mark, now)
        if self._send(line, mark, SIZE) != "sent":
            line.window.failed(mark)
            self._told(line.path, False)
            return
        self._expect(line, mark, now)
        line.count += 1
        if line.mtu and line.trying is None and line.count % BIG == 0:
            line.big = self._mark()
            self._sized_probe(line, line.big, line.mtu, now)

    def _judge(self, line: _Line, mark: Mark, now: float) -> None:
        """The time of a probe is over."""
        if mark in (line.tried, line.big):
            if self._waiting.pop(mark, None) is not None:
                self._sized_lost(line, mark, now)
            return
        if mark not in self._waiting:
            return
        if line.window.lost(mark):
            self._told(line.path, False)
            # A late answer still says that the path is there.
            self._at(now + LATE, line, mark)
        else:
            del self._waiting[mark]

    def _sized_probe(self, line: _Line, mark: Mark, size: int, now: float) -> None:
        payload = size - HEADERS[line.target.family]
        for _ in range(2):
            # What the kernel says may be about an earlier packet: only twice is it about this one.
            said = self._send(line, mark, payload)
            if said != "too long":
                break
        if said == "too long":
            self._sized_lost(line, mark, now, surely=True)
        else:
            # What could not be sent is lost when its time is over: not again at once.
            self._expect(line, mark, now)

    def _sized_lost(self, line: _Line, mark: Mark, now: float, *, surely: bool = False) -> None:
        if mark == line.big:
            line.big = None
            line.big_row += 1
            if surely or (line.big_row >= BIG_LOSSES and line.window.row == 0):
                self._measure(line, now)
        elif line.trying is not None:
            # While small ones are lost too, it says nothing of sizes, and is asked once more.
            if surely or line.window.row == 0:
                line.trying.lost(surely=surely)
            self._go_on(line, now)

    def _measure(self, line: _Line, now: float) -> None:
        line.big_row, line.measured = 0, now
        family = line.target.family
        line.trying = Trying(min(LEAST[family], line.target.most), line.target.most, line.mtu or 0)
        self._go_on(line, now)

    def _go_on(self, line: _Line, now: float) -> None:
        trying = line.trying
        assert trying is not None
        if trying.size is not None:
            line.tried = self._mark()
            # Not from here: a kernel that refuses size after size would nest as deep.
            self._loop.call_soon(self._try, line, line.tried, trying.size)
            return
        line.trying = line.tried = None
        line.mtu = trying.result or None
        if not trying.result:
            # Nothing went through, though small ones do: a bad moment, or the fault of the way.
            line.measured = now - self._remeasure + AGAIN
        self._sized(line.path, trying.result or 0)

    def _try(self, line: _Line, mark: Mark, size: int) -> None:
        if line.alive:
            self._sized_probe(line, mark, size, self._loop.time())

    def _expect(self, line: _Line, mark: Mark, now: float) -> None:
        self._waiting[mark] = line
        self._at(now + line.window.timeout, line, mark)

    def _mark(self) -> Mark:
        self._number += 1
        return Mark(self._number & 0xFFFFFFFF, os.urandom(NONCE))

    def _send(self, line: _Line, mark: Mark, size: int) -> Literal["sent", "too long", "failed"]:
        target = line.target
        try:
            data = probe(mark, size)
            if target.link:
                scope = socket.if_nametoindex(target.link)
                self._vxlan().sendto(data, (target.remote, target.port, 0, scope))
            else:
                if line.socket is None:
                    line.socket = self._tunnel(target)
                line.socket.send(data)
        except OSError as error:
            return "too long" if error.errno == errno.EMSGSIZE else "failed"
        return "sent"

    def _tunnel(self, target: Target) -> socket.socket:
        sock = connected(target)
        self._loop.add_reader(sock, self._read, sock)
        return sock

    def _vxlan(self) -> socket.socket:
        if self._shared is None:
            self._shared = _opened(socket.AF_INET6)
            self._loop.add_reader(self._shared, self._read, self._shared)
        return self._shared

    def _read_all(self) -> None:
        if self._shared is not None:
            self._read(self._shared)
        for line in list(self._lines.values()):
            if line.socket is not None:
                self._read(line.socket)

    def _read(self, sock: socket.socket) -> None:
        now = self._loop.time()
        for _ in range(_MOST_READ):
            try:
                data = sock.recv(SIZE + 1)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # ICMP's word about an earlier probe, which is lost by its time too.
            if (mark := mark_of(data)) is not None:
                self._answered(mark, now)

    def _answered(self, mark: Mark, now: float) -> None:
        line = self._waiting.pop(mark, None)
        if line is None or not line.alive:
            return
        if mark == line.tried and line.trying is not None:
            line.trying.through()
            self._go_on(line, now)
        elif mark == line.big:
            line.big, line.big_row = None, 0
        elif line.window.answered(mark, now) is not None:
            self._told(line.path, True)
            if line.trying is None and now - line.measured >= self._remeasure:
                self._measure(line, now)


def connected(target: Target) -> socket.socket:
    """A socket whose datagrams go to the path's far end by that path. `OSError`."""
    sock = _opened(socket.AF_INET if target.family == 4 else socket.AF_INET6)
    try:
        if target.link:
            scope = socket.if_nametoindex(target.link)
            sock.connect((target.remote, target.port, 0, scope))
        else:
            sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, struct.pack("=I", target.mark))
            sock.bind((target.local, 0))
            sock.connect((target.remote, target.port))
    except OSError:
        sock.close()
        raise
    return sock


def _opened(family: socket.AddressFamily) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PROBE)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PROBE)
    return sock
