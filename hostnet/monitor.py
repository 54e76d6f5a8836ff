"""News of a namespace's links, addresses, routes, settings and neighbours, as the kernel sends it.

Source: rtnetlink(7), netlink(7) for what an overflow means, NETLINK_ROUTE's groups in
linux/rtnetlink.h. Arrivals and departures of macvlans on a link come as news of that link, even
when the macvlan is in another namespace.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal

from hostnet.errors import from_errno
from hostnet.rtnetlink import DELLINK, attributes, parts

Kind = Literal["link", "address", "route", "setting", "neighbour", "all"]

_GROUPS: Final = (1, 5, 7, 9, 11, 24, 25)
"""RTNLGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE, IPV4_NETCONF, IPV6_NETCONF."""
_NEIGHBOURS: Final = 3
"""RTNLGRP_NEIGH, which tells of forwarding entries too."""
_SO_RCVBUFFORCE: Final = 33
_BUFFER: Final = 1 << 20
_DATAGRAM: Final = 1 << 16
_KINDS: Final[dict[int, Kind]] = {
    16: "link",
    17: "link",
    20: "address",
    21: "address",
    24: "route",
    25: "route",
    80: "setting",
    81: "setting",
    28: "neighbour",
    29: "neighbour",
}
_IFLA_IFNAME: Final = 3
_RTA_OIF: Final = 4
_NETCONFA_IFINDEX: Final = 1


@dataclass(frozen=True, slots=True)
class News:
    """Something of the link with this index changed; 0: it names none. ``name``: the link's, for
    kind "link". Kind "all": news was lost, and anything may have changed."""

    kind: Kind
    index: int = 0
    name: str = ""


LOST: Final = News("all")


class Monitor:
    """An asynchronous iterator over lists of ``News``, of the namespace that the thread is in which
    makes it. What the kernel could not deliver is ``LOST``. ``neighbours``: of neighbour and
    forwarding entries too, of which there may be many."""

    def __init__(self, *, buffer: int = _BUFFER, neighbours: bool = False) -> None:
        self._socket = _opened((*_GROUPS, _NEIGHBOURS) if neighbours else _GROUPS)
        # Where the limit may not be passed the default stays: news is lost sooner, which is seen.
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> Monitor:
        return self

    async def __anext__(self) -> list[News]:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self._socket, _DATAGRAM)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return [LOST]
                raise from_errno(
                    error.errno or 0, "", "read", "news of the kernel's links"
                ) from None
            if found := list(parse_news(data)):
                return found


class Departure:
    """News of one link's end, of the namespace that the thread is in which makes it.

    The kernel tells of it when nothing leaves or enters by the link any more. The request to delete
    it is answered after a grace period of RCU, 10 to 30 ms later (net/core/dev.c,
    ``unregister_netdevice_many`` and ``netdev_run_todo``)."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._socket = _opened((1,))

    def fileno(self) -> int:
        """To wait for: it is readable when there is news."""
        return self._socket.fileno()

    def seen(self) -> bool:
        """Whether the link has ended, by the news that is there now. What was lost is not seen."""
        with suppress(OSError):
            while True:
                for part in parts(self._socket.recv(_DATAGRAM)):
                    if part.type == DELLINK and _news("link", part.body).index == self._index:
                        return True
        return False

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _opened(groups: Iterable[int]) -> socket.socket:
    """A socket that takes news of these groups and never waits."""
    try:
        opened = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            socket.NETLINK_ROUTE,
        )
    except OSError as error:
        raise from_errno(error.errno or 0, "", "open", "a netlink socket") from None
    opened.bind((0, sum(1 << (group - 1) for group in groups)))
    return opened


def parse_news(data: bytes) -> Iterator[News]:
    """The news of one datagram; messages of other kinds are passed over."""
    try:
        for part in parts(data):
            if (kind := _KINDS.get(part.type)) is not None:
                yield _news(kind, part.body)
    except (ValueError, struct.error):
        yield LOST


def _news(kind: Kind, body: bytes) -> News:
    if kind == "link":
        name = attributes(body, 16).get(_IFLA_IFNAME, b"").rstrip(b"\0")
        return News(kind, struct.unpack_from("=i", body, 4)[0], os.fsdecode(name))
    if kind in ("address", "neighbour"):
        return News(kind, struct.unpack_from("=I", body, 4)[0])
    at, wanted = (12, _RTA_OIF) if kind == "route" else (4, _NETCONFA_IFINDEX)
    index = attributes(body, at).get(wanted, b"")
    # Settings of "all" and "default" have the indices -1 and -2.
    return News(kind, max(struct.unpack("=i", index)[0], 0) if index else 0)
