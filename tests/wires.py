"""Virtual wires between network namespaces that a test made, and what is on them.

Nothing here touches the machine's own namespace: every namespace is anonymous and ends
with its handle.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from scapy.layers.l2 import Ether

from hostnet import Net, Netns, Observer, anonymous_netns, get_link, run_between, run_in, set_up

T = TypeVar("T")
_SOL_PACKET, _PACKET_AUXDATA, _VLAN_VALID = 263, 8, 0x10
_PACKET_QDISC_BYPASS = 20
_ALL_PROTOCOLS = 0x0003


@contextmanager
def namespaces(count: int) -> Iterator[list[Netns]]:
    """Fresh, empty network namespaces."""
    made = [anonymous_netns() for _ in range(count)]
    try:
        yield made
    finally:
        for netns in made:
            netns.close()


def between(
    host: Netns, pod: Netns, job: Callable[[Net, Net], T], observer: Observer | None = None
) -> T:
    """``run_between`` seen from the namespace ``host`` rather than from the machine's own."""
    return run_in(host, lambda _: run_between(pod, job, observer))


def wire(one: Netns, name: str, other: Netns, other_name: str) -> None:
    """A veth pair, both ends up: ``name`` in ``one``, ``other_name`` in ``other``."""

    def make(net: Net) -> None:
        peer = {"ifname": other_name, "net_ns_fd": other.fd}
        net.change("make the wire", name, "link", "add", kind="veth", ifname=name, peer=peer)
        set_up(net, get_link(net, name))

    run_in(one, make)
    run_in(other, lambda net: set_up(net, get_link(net, other_name)))


class InjectedError(Exception):
    """What ``fail_after`` raises."""


def fail_after(steps: int) -> Observer:
    """An observer that lets ``steps`` changes pass, fails after the next and never again."""
    left = [steps]

    def observe(step: str) -> None:
        left[0] -= 1
        if left[0] == -1:
            raise InjectedError(step)

    return observe


class Tap:
    """All frames on one link, VLAN tags included, from the moment it is made."""

    def __init__(self, netns: Netns, link: str) -> None:
        def listen(_: Net) -> socket.socket:
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
            tap.bind((link, _ALL_PROTOCOLS))
            tap.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
            return tap

        self._socket = run_in(netns, listen)

    def frames(self, seconds: float, enough: Callable[[list[Any]], bool]) -> list[Any]:
        """The frames seen (scapy), until they are ``enough`` or the time is over."""
        seen: list[Any] = []
        deadline = time.monotonic() + seconds
        while not enough(seen) and (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                data, extra, _, _ = self._socket.recvmsg(65536, 256)
            except TimeoutError:
                break
            seen.append(Ether(_with_tag(data, extra)))
        return seen

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def send_here(link: str, frames: Iterable[bytes], *, bypass: bool = False) -> int:
    """Sends the frames by the link in the thread's namespace, with `bypass` past its queues; how
    many the kernel took: of those that it drops it says so."""
    taken = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
        sender.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, int(bypass))
        sender.bind((link, 0))
        for frame in frames:
            try:
                sender.send(frame)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
            else:
                taken += 1
    return taken


def send_from(netns: Netns, link: str, frames: Iterable[bytes], *, bypass: bool = False) -> int:
    """The same in another namespace."""
    return run_in(netns, lambda _: send_here(link, frames, bypass=bypass))


def udp(netns: Netns, address: str) -> socket.socket:
    """A UDP socket in the namespace, bound to a free port of the address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def make(_: Net) -> socket.socket:
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.bind((address, 0))
        made.settimeout(0.1)
        return made

    return run_in(netns, make)


def arrives(sender: socket.socket, receiver: socket.socket, tries: int = 20) -> bool:
    """Whether one of some datagrams, 0.1 s apart, gets from one socket to the other."""
    for number in range(tries):
        text = f"datagram {number}".encode()
        sender.sendto(text, receiver.getsockname()[:2])
        with suppress(TimeoutError):
            if receiver.recv(100) == text:
                return True
    return False


def _with_tag(data: bytes, extra: list[tuple[int, int, bytes]]) -> bytes:
    # The kernel takes the tag out of the frame and tells it beside (packet(7)).
    for level, kind, value in extra:
        if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
            status, _, _, _, _, tci, tpid = struct.unpack("=IIIHHHH", value[:20])
            if status & _VLAN_VALID:
                return data[:12] + struct.pack("!HH", tpid or 0x8100, tci) + data[12:]
    return data
