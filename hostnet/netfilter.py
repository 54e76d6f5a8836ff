"""Messages for the kernel's netfilter: nftables and sets of addresses, as bytes.

Source: netlink(7), linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final

from hostnet import calls
from hostnet.errors import from_errno
from hostnet.netlink import Net
from hostnet.rtnetlink import Part, parts

_NETFILTER: Final = 12
_SECONDS: Final = 5.0


def talk(
    net: Net, what: str, which: str, data: bytes, *, protocol: int = _NETFILTER
) -> Iterator[Part]:
    """What the kernel answers to the messages, without an end: the caller knows when it has all.
    They are for the namespace that the job's thread is in. ``protocol``: netlink's, where it is
    another of those that speak alike."""
    if not net.entered:
        raise RuntimeError("this Net's thread is in another namespace: the message would miss")
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        # Closing it waits until what was deleted is freed, after a grace period of RCU.
        net.late.callback(opened.close)
        opened.send(data)
        opened.settimeout(_SECONDS)
        while True:
            yield from parts(_received(opened))
    except OSError as error:
        raise from_errno(error.errno or 11, "", what, which) from None


def _received(opened: socket.socket) -> bytes:
    # Nearly always the answer is there as soon as the request was sent.
    try:
        return calls.receive(opened.fileno())
    except BlockingIOError:
        return opened.recv(calls.MOST_BYTES)
