"""The parts of the data plane as this node has them, and the news by which somebody else's changes
to them are noticed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

import hostnet
from federation.desired import DesiredNode, Policy
from federation.node import adopting, policies
from federation.node.chains import share
from federation.node.config import FederationAgentConfig
from federation.node.connections import PREFIX
from federation.node.firewall import FirewallDriver
from federation.node.handover import HandoverDriver, handed
from federation.node.ike import Ike, Lost, Refused, Section, sections
from federation.node.keeping import Apply, DataPlane, Done
from federation.node.routes import RoutesDriver
from federation.node.vxlan import VxlanDriver
from hostnet import Kernel, KernelError, Net, NotSupported, xfrm
from hostnet.xfrm import State, list_policies, list_states
from hostnet.xfrm_monitor import PolicyMonitor

logger = logging.getLogger(__name__)

TOGETHER: Final = 0.2
"""Seconds in which news come together to one look."""
FIREWALL: Final = 1.0
"""Seconds between two looks at whether the firewall is as it was left."""
_AGAIN: Final = 2.0


class Parts:
    """Makes the keepers of a `DataPlane`. `moved` is told when addresses of the node change."""

    def __init__(
        self, config: FederationAgentConfig, kernel: Kernel, plane: DataPlane, tunnels: Apply
    ) -> None:
        self._config, self._kernel, self._plane = config, kernel, plane
        self._tunnels = tunnels
        self._standing: frozenset[Policy] = frozenset()
        self.vxlan, self.routes = VxlanDriver(kernel), RoutesDriver(kernel)
        self.firewall = FirewallDriver(kernel)
        self._handover = HandoverDriver(config.handover)
        self.moved: Callable[[], None] = lambda: None

    async def shut(self, closed: DesiredNode) -> None:
        """Adds what blocks and pods' routes are missing, before anything else is known of the
        node; all that is there stays as it is."""
        try:
            result = await self._kernel.run(None, lambda net: policies.add(net, closed.policies))
            done, faults = list(result.done), list(result.faults)
            if not faults:
                # Never a route to where nothing blocks.
                done += (await self._handover.add(closed)).changes
        except (KernelError, OSError) as error:
            done, faults = [], [str(error)]
        if done:
            logger.info("changed", extra={"part": "blocks", "changes": done})
        for fault in faults:
            logger.warning("not as it should be", extra={"part": "blocks", "why": fault})

    async def begin(self) -> None:
        """Looks at what policies there are, and adds all parts to the data plane."""
        with suppress(KernelError):
            present = await self._kernel.run(None, list_policies)
            self._standing = frozenset(adopting.standing(present))
        plane = self._plane
        plane.blocked_by("policies", self._policies, lambda: self._standing)
        plane.add("vxlan", self.vxlan, lambda desired: (desired.vxlans, desired.local))
        plane.add("firewall", self.firewall, lambda desired: (share(desired), desired.flows))
        plane.emptied_by("firewall", "tunnels", self._tunnels, _of_tunnels)
        plane.add(
            "routes", self.routes, lambda desired: (desired.routes, desired.local), routing=True
        )
        plane.add("hand-over", self._handover, handed, routing=True)

    def close(self) -> None:
        """Ends what waits for something to do; the data plane stays as it is."""
        self.firewall.close()

    async def left_over(self) -> tuple[list[State], list[xfrm.Policy]]:
        """The kernel's ESP states and policies; none where it has no IPsec."""
        try:
            states = await self._kernel.run(None, list_states)
            return states, await self._kernel.run(None, list_policies)
        except KernelError:
            return [], []

    async def watch(self) -> None:
        """Has what somebody changed looked at, until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._links())
            group.create_task(self._foreign_policies())
            group.create_task(self._rules())

    async def rekeys(self, told: Callable[[], None]) -> None:
        """Tells when charon has renewed a tunnel's keys, until it is cancelled."""

        def event(name: str, section: Section) -> None:
            if any(each.startswith(PREFIX) for each, _ in sections(section)):
                told()

        while True:
            with suppress(Lost, Refused):
                async with Ike(self._config.vici, ("child-rekey",), event) as ike:
                    await ike.lost.wait()
            await asyncio.sleep(_AGAIN)

    async def left(self, within: float) -> bool:
        """Waits until charon has none of our connections; whether it has none, or does not run."""
        try:
            async with asyncio.timeout(within), Ike(self._config.vici) as ike:
                while True:
                    known = await ike.listed("list-conns", "list-conn")
                    names = [name for conns in known for name, _ in sections(conns)]
                    if not any(name.startswith(PREFIX) for name in names):
                        return True
                    await asyncio.sleep(TOGETHER)
        except (Lost, Refused):
            return True
        except TimeoutError:
            return False

    async def _policies(self, desired: DesiredNode) -> Done:
        def job(net: Net) -> tuple[policies.Result, frozenset[Policy]]:
            result = policies.reconcile(net, desired.policies)
            return result, frozenset(adopting.standing(list_policies(net)))

        try:
            result, self._standing = await self._kernel.run(None, job)
        except NotSupported:
            if not desired.policies:
                return Done()
            raise
        return Done(result.done, result.faults)

    async def _links(self) -> None:
        with hostnet.Monitor(neighbours=True) as monitor:
            async for batch in monitor:
                indices = {news.index for news in batch if news.kind != "all"}
                routed = {news.index for news in batch if news.kind not in ("all", "neighbour")}
                lost = any(news.kind == "all" for news in batch)
                if lost or any(self.vxlan.concerns(index) for index in indices):
                    self._plane.look("vxlan")
                if lost or any(self.routes.concerns(index) for index in routed):
                    self._plane.look("routes")
                if lost or any(news.kind in ("address", "link") for news in batch):
                    self.moved()
                await asyncio.sleep(TOGETHER)

    async def _foreign_policies(self) -> None:
        try:
            monitor = PolicyMonitor()
        except KernelError:
            return  # A kernel without IPsec has none.
        with monitor:
            while True:
                await monitor.changed()
                self._plane.look("policies")
                await asyncio.sleep(TOGETHER)

    async def _rules(self) -> None:
        while True:
            await asyncio.sleep(FIREWALL)
            if await self.firewall.differs():
                self._plane.look("firewall")


def _of_tunnels(desired: DesiredNode) -> object:
    tunnels = tuple(replace(tunnel, usable=False) for tunnel in desired.tunnels)
    return desired.mark, tunnels, desired.accepts
