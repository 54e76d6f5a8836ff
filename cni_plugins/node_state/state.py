"""`NodeState`: the node brought to what it should be, and kept there.

It looks at everything when it starts, whenever the kernel tells of a change of one of its links,
when `changed` is called, and every `FULL` seconds; at settings, of which the kernel tells nothing,
every `TICK` seconds. A look that finds nothing changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

from cni_plugins.attachment import Host
from cni_plugins.node_config import NodeConfig
from cni_plugins.node_state.desired import Desired, desired
from cni_plugins.node_state.guards import Guards
from cni_plugins.node_state.links import Bonds, mend_links, settings_differ, settings_of
from cni_plugins.node_state.moving import Journal
from cni_plugins.node_state.pods import fence, mend_pods
from cni_plugins.node_state.report import Change, Failure, Report
from cni_plugins.records import Key, Record
from cni_plugins.steps import in_thread
from hostnet import Kernel, KernelError, Monitor, News
from netspace.messages import Network
from netspace.upkeep import Dispute

logger = logging.getLogger(__name__)

TICK: Final = 0.5
FULL: Final = 30.0
SHORTEST: Final = 0.5
LONG: Final = 1.0
_PART: Final = 4
"""Seconds from the end of a look to the next one: so many times as long as the look took, within
these bounds."""
LONGEST: Final = 5.0
"""The same where look after look finds something: another program does not want what we want."""
_PATIENCE: Final = 20
"""So many looks in a row may find something before the pauses get longer."""

RETRY: Final = 5.0
"""Seconds after which what failed is tried again, though the kernel told nothing."""


class Services(Protocol):
    """The way to Services and to the node itself: vmac, routes, chains, sets."""

    async def __call__(
        self, networks: Sequence[Network] | None, records: Sequence[Record]
    ) -> list[str]:
        """Brings it to what these want (networks None: the server said nothing yet); what was
        changed, in words. Raises `KernelError`."""

    async def differ(self) -> bool:
        """Whether it has to be looked at; cheap, since asked every `TICK` seconds."""

    def rebuilt(self, key: Key) -> None:
        """The interface of this attachment was built again."""

    def links(self) -> frozenset[str]:
        """The names of its own links: news of them is news for it."""


class NodeState:
    """The state of one node. `networks` is what the server said last, None before it said
    anything; whoever sets it calls `changed`. `looks`: how often everything was looked at."""

    def __init__(
        self, config: NodeConfig, kernel: Kernel, host: Host, services: Services | None = None
    ) -> None:
        self.networks: Sequence[Network] | None = None
        self.looks = 0
        self._config = config
        self._kernel = kernel
        self._host = host
        self._services = services
        self._guards = Guards()
        self._bonds = Bonds(Journal(Path(config.state_dir)))
        self._wake = asyncio.Event()
        self._one = asyncio.Lock()
        self._wanted: Desired | None = None
        self._watched: frozenset[int] = frozenset()
        self._names: frozenset[str] = frozenset()
        self._failures: frozenset[Failure] = frozenset()
        # Until each pod on them was looked at, also one that a call was just at.
        self._lowered: dict[str, set[int]] = {}

    def changed(self) -> None:
        """Networks or records are others than before: look soon."""
        self._wake.set()

    async def fence(self, disputes: Iterable[Dispute]) -> bool:
        """Takes down the interfaces whose slots are somebody else's, by the server's last answer
        to a report of live attachments; what is no longer disputed comes back. Both with the next
        look; False where nothing is new."""
        new = await fence(self._host, disputes)
        if new:
            self.changed()
        return new

    async def reconcile(self) -> Report:
        """One look at everything, and what it put right; tells the log."""
        async with self._one:
            report = Report(lowered=self._lowered)
            records = await in_thread(self._host.records.all)
            wanted = desired(self._config, self.networks, records)
            # From before the look on: what happens to them meanwhile is news.
            names = _names_of(wanted)
            self._names |= names
            await mend_links(self._kernel, self._host, self._bonds, wanted, report)
            await mend_pods(self._kernel, self._host, wanted.pods, self._guards, report)
            if self._services is not None:
                for key in report.mended:
                    self._services.rebuilt(key)
                try:
                    for done in await self._services(self.networks, records):
                        report.changes.append(Change("services", "not as it should be", done))
                except KernelError as error:
                    report.failures.append(Failure("services", str(error)))
            self._lowered = report.lowered if report.passed else {}
            self._remember(wanted, names, report)
            self._tell(report)
            self.looks += 1
            return report

    async def run(self) -> None:
        """Keeps the node as it should be until cancelled."""
        with Monitor() as monitor:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(monitor))
                group.create_task(self._keep())

    async def _keep(self) -> None:
        restless = 0
        while True:
            self._wake.clear()
            began = time.monotonic()
            report = await self._tried()
            took = time.monotonic() - began
            restless = restless + 1 if report is None or report.changes else 0
            # However much news there is, looking takes a part of the time and never all of it.
            pause = min(LONG, max(SHORTEST, _PART * took))
            await asyncio.sleep(min(LONGEST, pause * 2 ** max(0, min(restless - _PATIENCE, 10))))
            failed = report is None or bool(report.failures)
            full = time.monotonic() + (RETRY if failed else FULL)
            while not self._wake.is_set() and time.monotonic() < full:
                if report is None or report.again or await self._differs():
                    break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), TICK)

    async def _tried(self) -> Report | None:
        try:
            return await self.reconcile()
        except (KernelError, OSError):
            logger.exception("the node could not be looked at")
            return None

    async def _listen(self, monitor: Monitor) -> None:
        async for news in monitor:
            if any(map(self._concerns, news)):
                self._wake.set()

    def _concerns(self, news: News) -> bool:
        if news.kind == "all" or news.index in self._watched or news.name in self._names:
            return True
        return self._services is not None and news.name in self._services.links()

    async def _differs(self) -> bool:
        """Whether something is other than it should be of which the kernel tells nothing."""
        wanted = self._wanted
        if wanted is None:
            return True
        try:
            made = await in_thread(self._host.records.made.all)
            there = settings_of(wanted, made)
            if await self._kernel.run(None, lambda net: settings_differ(net, there)):
                return True
            return self._services is not None and await self._services.differ()
        except (KernelError, OSError):
            return True

    def _remember(self, wanted: Desired, names: frozenset[str], report: Report) -> None:
        self._names = names
        if self._services is not None:
            names |= self._services.links()
        self._wanted = wanted
        self._watched = frozenset(
            link.index for link in report.links.values() if link.name in names
        )

    def _tell(self, report: Report) -> None:
        for change in report.changes:
            fields = {"subject": change.subject, "found": change.found, "done": change.done}
            logger.warning("put right", extra=fields)
        # What goes on failing is said once, and again when it is another failure.
        for failure in report.failures:
            if failure not in self._failures:
                fields = {"subject": failure.subject, "error": failure.why}
                logger.error("not as it should be", extra=fields)
        self._failures = frozenset(report.failures)


def _names_of(wanted: Desired) -> frozenset[str]:
    names = {name for parent in wanted.parents for name in (parent.master, parent.name)}
    for each in wanted.bonds:
        names |= {each.bond.name, *each.bond.slaves}
    return frozenset(names)
