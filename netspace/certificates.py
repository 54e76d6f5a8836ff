"""The server's own certificate while it runs: renewed from its files, and watched for its end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from netspace.tls import LOOK, Renewed, Tls, server_context, validity

log = logging.getLogger(__name__)

NEAR: Final = 14 * 86400.0
"""Seconds before its end from which a certificate is spoken of; a fifth of its time if shorter."""

SAID_EVERY: Final = 86400.0
"""Seconds between two words about it."""


class Certificates:
    """Raises `Problem` where the files cannot be used. `watch` runs until it is cancelled.
    `expires` is told when the certificate ends, as a POSIX time."""

    def __init__(self, tls: Tls, expires: Callable[[float], None]) -> None:
        self.renewed = Renewed(tls, server_context)
        self._expires = expires
        self._cert = tls.cert
        self._said = float("-inf")
        self._tell()

    def look(self) -> None:
        """Looks at the files at once, as on SIGHUP."""
        if self.renewed.look():
            self._said = float("-inf")
        self._tell()

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            self.look()

    def _tell(self) -> None:
        begin, end = validity(self.renewed.context)
        self._expires(end)
        left = end - time.time()
        if expires_soon(begin, end, left) and time.monotonic() - self._said > SAID_EVERY:
            self._said = time.monotonic()
            log.warning(
                "the server's certificate %s", "expires soon" if left > 0 else "has expired",
                extra={"cert": str(self._cert), "expires": datetime.fromtimestamp(end, UTC)},
            )  # fmt: skip


def expires_soon(begin: float, end: float, left: float) -> bool:
    """Whether somebody must be told: `left` seconds of the time from `begin` to `end`."""
    return left < min(NEAR, (end - begin) / 5)
