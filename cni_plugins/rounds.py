"""What the running agent does of its own accord: reports and pending releases, again and again.

Both begin at the start, come back after a while, sooner when something changed, and with growing
pauses while the server is away. The networks are asked for besides, at once, when a pod comes to
one that the last list has not. The records are the truth: nothing is remembered here but when to
look again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from asyncio import FIRST_COMPLETED
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec

from cni_plugins.hosts import Hosts, Kept
from cni_plugins.leftovers import sweep
from cni_plugins.protocol import Invocation
from cni_plugins.reporting import Outcome, replay, report_live, report_node
from cni_plugins.serving import Witness
from hostnet import Kernel
from netspace.messages import Network, NetworkView
from netspace.problems import Problem
from netspace.upkeep import Dispute

logger = logging.getLogger(__name__)

SETTLE: Final = 30.0
"""Seconds from a change to the report that tells of it: pods come and go in bursts, and a report
looks at each of them."""
LOOK: Final = 300.0
"""Seconds after which pending releases are looked for though nobody said that there are any."""
SPARING: Final = 1.0
"""Seconds between two questions for the networks on account of pods, at least."""
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0


class Backoff:
    """Growing pauses, in seconds. A part of each is left to chance, so that the nodes of a cluster
    do not all come at once when their server is back."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()
        self._next = FIRST_PAUSE

    def pause(self) -> float:
        """The next pause."""
        pause, self._next = self._next, min(2 * self._next, LONGEST_PAUSE)
        return pause * self._chance.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._next = FIRST_PAUSE


class Said(msgspec.Struct, frozen=True):
    """What came of something when it was last tried."""

    at: str
    said: str


class Repairs(Protocol):
    """What keeps the node as it should be (`node_state`), until its configuration changes."""

    networks: Sequence[Network] | None

    def changed(self) -> None:
        """Networks or records are others than before."""

    async def fence(self, disputes: Sequence[Dispute]) -> bool:
        """Has the interfaces of these attachments stay down."""

    async def run(self) -> None:
        """Looks and repairs until it is cancelled."""


Lane = tuple[str, str, int | None]
"""A network's UID, parent and VLAN: what the way to its pods depends on."""


def _lane(network: Network | NetworkView) -> Lane:
    return network.uid, network.parent, network.vlan


class Rounds(Witness):
    """The reports and releases of the node that the configuration at `path` describes. Made in the
    event loop that runs it."""

    def __init__(
        self,
        hosts: Hosts,
        path: str,
        kernel: Kernel,
        repairs: Callable[[Kept], Repairs] | None = None,
        settle: float = SETTLE,
    ) -> None:
        self.said: dict[str, Said] = {}
        self.networks: Sequence[Network] | None = None
        self._hosts, self._path, self._kernel, self._settle = hosts, path, kernel, settle
        self._loop = asyncio.get_running_loop()
        self._woken, self._pending = asyncio.Event(), asyncio.Event()
        self._lanes: frozenset[Lane] = frozenset()
        self._unlisted: set[Lane] = set()
        self._missed, self._asking = asyncio.Event(), asyncio.Lock()
        self._soonest = math.inf
        self._left = 0
        self._make_repairs = repairs
        self._repairs: Repairs | None = None
        self._reloaded = asyncio.Event()

    async def run(self) -> None:
        """Reports and replays until it is cancelled."""
        await self._sweep()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reports())
            group.create_task(self._releases())
            group.create_task(self._new_networks())
            if self._make_repairs is not None:
                group.create_task(self._repairing(self._make_repairs))

    def reload(self) -> None:
        """The configuration may be another one: all begins anew, now."""
        self._reloaded.set()
        self._soonest = 0.0
        self._woken.set()
        self._pending.set()

    def succeeded(self, invocation: Invocation, networks: Sequence[NetworkView]) -> None:
        for network in networks:
            if (lane := _lane(network)) not in self._lanes:
                self._unlisted.add(lane)
                self._missed.set()
        if invocation.command in ("ADD", "DEL", "GC"):
            self._soonest = min(self._soonest, self._loop.time() + self._settle)
            self._woken.set()
            self._tell_repairs()
        if self._left and invocation.command == "ADD":
            # The server gave an address, so it takes one back too.
            self._pending.set()

    def left_pending(self) -> None:
        self._pending.set()

    async def _reports(self) -> None:
        backoff = Backoff()
        while True:
            self._soonest = math.inf
            outcome, period = await self._report()
            if outcome.server_away:
                pause = backoff.pause()
            else:
                backoff.reset()
                pause = period
            await self._until_due(pause)

    async def _until_due(self, pause: float) -> None:
        """Returns after the pause, or sooner where a report is due sooner."""
        due = self._loop.time() + pause
        while (left := min(due, self._soonest) - self._loop.time()) > 0:
            self._woken.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._woken.wait()

    async def _report(self) -> tuple[Outcome, float]:
        """One report; what came of it, and how many seconds later the next is due."""
        outcome = Outcome()
        try:
            with self._hosts.using(self._path) as kept:
                await self._report_from(kept, outcome)
                return outcome, kept.config.agent.report
        except Problem as problem:
            self._say(f"configuration: {problem}")
            outcome.server_away = True
        except Exception as error:
            logger.exception("a report failed", exc_info=error)
            outcome.server_away = True
        return outcome, LONGEST_PAUSE

    async def _report_from(self, kept: Kept, outcome: Outcome) -> None:
        config, client = kept.config, kept.client
        try:
            networks = await self._ask_networks(kept)
        except Problem as problem:
            outcome.server_away = True
            self._say(f"server: {problem}")
            return
        await report_node(config, self._kernel, client, networks, self._say, outcome)
        if not outcome.server_away:
            disputes = await report_live(client, kept.host, self._say, outcome)
            if disputes is not None and self._repairs is not None:
                await self._repairs.fence(disputes)

    async def _ask_networks(self, kept: Kept) -> Sequence[Network]:
        """The networks there are now, of which the repairs are told. Raises `Problem`."""
        # One at a time: an older answer must not come after a newer one.
        async with self._asking:
            self.networks = networks = await kept.client.networks(kept.config.cluster)
            self._lanes = frozenset(map(_lane, networks))
            self._unlisted -= self._lanes
        self._say(f"server: it answers, {len(networks)} networks")
        self._tell_repairs()
        return networks

    async def _new_networks(self) -> None:
        """Asks for the networks when pods came to one that was made since the last list."""
        backoff = Backoff()
        while True:
            while not self._unlisted:
                self._missed.clear()
                await self._missed.wait()
            pause = SPARING
            unlisted, self._unlisted = self._unlisted, set()
            if await self._listed_anew():
                backoff.reset()
            else:
                self._unlisted |= unlisted
                pause = max(SPARING, backoff.pause())
            await asyncio.sleep(pause)

    async def _listed_anew(self) -> bool:
        try:
            with self._hosts.using(self._path) as kept:
                await self._ask_networks(kept)
        except Problem:
            return False  # A report says what is wrong with configuration or server.
        except Exception as error:
            logger.exception("the networks were not asked for", exc_info=error)
            return False
        return True

    async def _releases(self) -> None:
        backoff = Backoff()
        while True:
            self._pending.clear()
            try:
                with self._hosts.using(self._path) as kept:
                    self._left = await replay(kept.host, self._say, Outcome())
            except Problem:
                self._left = 0  # The report says what is wrong with the configuration.
            except Exception as error:
                logger.exception("pending releases were not replayed", exc_info=error)
            if self._left:
                pause = backoff.pause()
            else:
                backoff.reset()
                pause = LOOK
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._pending.wait()

    async def _repairing(self, make: Callable[[Kept], Repairs]) -> None:
        while True:
            self._reloaded.clear()
            reloaded = asyncio.ensure_future(self._reloaded.wait())
            try:
                with self._hosts.using(self._path) as kept:
                    self._repairs = repairs = make(kept)
                    self._tell_repairs()
                    running = asyncio.ensure_future(repairs.run())
                    try:
                        await asyncio.wait({running, reloaded}, return_when=FIRST_COMPLETED)
                        if running.done():
                            await running
                    finally:
                        running.cancel()
                        await asyncio.wait({running})
            except Problem:
                await reloaded  # A report says what is wrong with the configuration.
            except Exception as error:
                logger.exception("repairing failed, it begins anew", exc_info=error)
                await asyncio.sleep(LONGEST_PAUSE)
            finally:
                reloaded.cancel()

    def _tell_repairs(self) -> None:
        if self._repairs is not None:
            self._repairs.networks = self.networks
            self._repairs.changed()

    async def _sweep(self) -> None:
        try:
            with self._hosts.using(self._path) as kept:
                await sweep(kept.host)
        except (Problem, OSError) as error:
            logger.warning("leftovers were not swept", extra={"error": str(error)})

    def _say(self, line: str) -> None:
        """Keeps what was said of a subject, and puts it in the log when it is something new."""
        subject, _, said = line.partition(": ")
        before = self.said.get(subject)
        self.said[subject] = Said(datetime.now(UTC).isoformat(timespec="seconds"), said)
        if before is None or before.said != said:
            logger.info(subject, extra={"said": said})
