"""News that IPsec policies of a namespace were added, replaced, deleted or flushed.

Source: linux/xfrm.h (XFRMNLGRP_POLICY). Who flushes policies opens the way for clear text, so
that whoever keeps some wants to know at once.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from types import TracebackType
from typing import Final

from hostnet.errors import from_errno
from hostnet.xfrm import XFRM

_POLICY_GROUP: Final = 4
_DATAGRAM: Final = 1 << 16


class PolicyMonitor:
    """Tells of changes, of the namespace that the thread is in which makes it; one's own too."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
                XFRM,
            )
            self._socket.bind((0, 1 << (_POLICY_GROUP - 1)))
        except OSError as error:
            raise from_errno(error.errno or 0, "", "open", "a netlink socket") from None

    async def changed(self) -> None:
        """Returns when there was a change since the last call, with all that are told by then."""
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_recv(self._socket, _DATAGRAM)
            while True:
                self._socket.recv(_DATAGRAM)
        except BlockingIOError:
            return
        except OSError as error:
            # What was lost is news as well.
            if error.errno != errno.ENOBUFS:
                raise from_errno(error.errno or 0, "", "read", "news of IPsec policies") from None

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> PolicyMonitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
