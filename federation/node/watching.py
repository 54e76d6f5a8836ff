"""The view of all federations as this node has it: from its cluster's server, and on disk, so that
a node that starts while its server is away goes on with what it knew.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from netspace.disk import read_whole, write_synced
from netspace.messages.federation import View
from netspace.problems import Problem

logger = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 3.0
AT_MOST: Final = 0.05
"""Seconds between two questions at least, whatever the server answers."""

Ask = Callable[[int], Awaitable[View]]
"""The view after this number, or the same after the server's patience. Raises `Problem`."""


class Watching:
    """`view`: the one that counts, None where there was none ever; `heard`: when the server last
    answered (Unix seconds); `why` it does not, empty where it does."""

    def __init__(self, cluster: str, file: Path, ask: Ask, changed: Callable[[], None]) -> None:
        self._cluster, self._file, self._ask, self._changed = cluster, file, ask, changed
        self.view: View | None = None
        self.heard: float | None = None
        self.why = "the server has not answered yet"

    def load(self) -> None:
        """Takes up what was known when the node's agent last ran."""
        try:
            view = msgspec.json.decode(read_whole(self._file), type=View)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            logger.warning("the last view cannot be read", extra={"why": str(error)})
            return
        if view.cluster == self._cluster:
            self.view = view

    def forget(self) -> None:
        """Takes the file away."""
        self._file.unlink(missing_ok=True)

    async def run(self) -> None:
        failures = 0
        # What is on disk may be of a state that was restored since: it is asked for anew.
        after = 0
        while True:
            try:
                view = await self._ask(after)
            except Problem as problem:
                self._silent(str(problem))
                failures += 1
                longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 10))
                await asyncio.sleep(longest * random.uniform(0.5, 1.0))
                continue
            failures = 0
            self.heard = time.time()
            if self.why:
                logger.info("the server answers", extra={"number": view.number})
                self.why = ""
            if view.number != after:
                after = view.number
                await self._take(view)
            else:
                # The same, but for when other members were last heard of.
                self.view = view
                await asyncio.sleep(AT_MOST)

    async def _take(self, view: View) -> None:
        if view == self.view:
            return
        self.view = view
        self._changed()
        try:
            await asyncio.to_thread(write_synced, self._file, msgspec.json.encode(view))
        except OSError as error:
            logger.error("the view cannot be kept", extra={"why": str(error)})

    def _silent(self, why: str) -> None:
        if not self.why or self.heard is None:
            logger.warning("the server does not answer", extra={"why": why})
        self.why = why
        if self.heard is None:
            self.heard = 0.0
