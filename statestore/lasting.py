"""Work that goes on for as long as its server does, whatever etcd says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from statestore.errors import StoreError

log = logging.getLogger(__name__)

PAUSE: Final = 1.0
"""Seconds until it is begun anew after a failure."""


async def again_and_again(work: Callable[[], Awaitable[None]], what: str) -> None:
    """Does the work, and again whenever it has ended, until it is cancelled. What it does not get
    over itself, as a role in etcd that was taken away, is logged once and may be mended."""
    said = ""
    while True:
        try:
            await work()
            said = ""
        except StoreError as error:
            if str(error) != said:
                log.error("%s cannot go on, and is tried again: %s", what, error)
            said = str(error)
            await asyncio.sleep(PAUSE)
