"""The node's agent: a coroutine for each source of events, all of which end in one plan, to which
the parts of the data plane are kept.

Sources: the view of this cluster's server, tunnels' ups and downs, probes, the kernel's news, the
node's own addresses, its certificates, the clock. Stopping the agent leaves the data plane as it
is; one that starts takes it up as it finds it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, get_args

from federation.client import Client
from federation.desired import DesiredNode, Path
from federation.node import capabilities, knowing
from federation.node.capabilities import Ability
from federation.node.certificates import Certificates
from federation.node.config import FederationAgentConfig
from federation.node.connections import Membership
from federation.node.facts import Facts, Finder, remembered
from federation.node.findings import Book, Finding, finding
from federation.node.ipsec import IpsecDriver
from federation.node.keeping import DataPlane, Done
from federation.node.knowing import Known
from federation.node.metrics import Counts
from federation.node.moving import moved
from federation.node.parts import Parts
from federation.node.renewing import Renewing
from federation.node.reporting import PathHealth, Speaker, word_of
from federation.node.tracking import Heard, Tracking
from federation.node.trying import Trying
from federation.node.watching import Watching
from federation.plan.node import closed
from federation.plan.node import desired as plan
from hostnet import Kernel, KernelError
from netspace.messages.federation import Capability, NodeWord, View
from netspace.messages.federation_trials import NodeTrial

logger = logging.getLogger(__name__)

LOOK: Final = 1.0
"""Seconds between two looks at what is wrong, and whether the server is to hear of it."""
SMALL: Final = 1000
"""Paths of which this is quickly done; the looks at more are as much rarer."""
MANY: Final = 5000
"""Paths whose health may be a second old where it is told."""
FACTS: Final = 10.0
"""Seconds between two looks at the node's own addresses and ranges."""
CERTIFICATES: Final = 60.0
"""Seconds between two looks at the certificates."""
SETTLE: Final = 0.05
"""Seconds in which changes come together to one plan."""
MOVE: Final = 0.5
"""Seconds that the whole plan waits for when flows move."""
AGAIN: Final = 2.0
"""Seconds until what failed unexpectedly begins anew."""


class Agent:
    """One node. `run` until it is cancelled."""

    def __init__(
        self,
        config: FederationAgentConfig,
        client: Client,
        kernel: Kernel,
        environ: Mapping[str, str],
    ) -> None:
        self.config, self.counts, self.since = config, Counts(), datetime.now(UTC)
        self._client, self._kernel = client, kernel
        self._finder = Finder(config, environ, kernel)
        self.facts, self.ability = Facts(), Ability(frozenset())
        self.desired = DesiredNode()
        self.book = Book()
        cluster, node = config.cluster, config.node
        self.watching = Watching(
            cluster,
            config.state_dir / "view.json",
            lambda after: client.view(cluster, after),
            self._view_changed,
        )

        async def sign(federation: str, csr: str) -> str:
            return (await client.certify(cluster, federation, node, csr)).certificate

        folder = config.state_dir / "certificates"
        self.certificates = Certificates(folder, cluster, node, sign)
        self.tracking = Tracking(config.probes, Heard(self._moved, self._changed, self._lost))
        self.driver = IpsecDriver(config.vici, self.tracking.tunnel, kernel)
        self._renewing = Renewing()
        self.plane = DataPlane()
        self.parts = Parts(config, kernel, self.plane, self._tunnels)
        self.plane.told = self._plane_told
        self._refresh_facts = asyncio.Event()
        self.parts.moved = self._refresh_facts.set

        async def tell(trial: str, found: NodeTrial) -> None:
            await client.tell_trial(cluster, node, trial, found)

        self.trying = Trying(node, self.known, self.part_faults, tell)
        self.speaker = Speaker(self.word, self._say, config.report)
        self._replan, self._renew = asyncio.Event(), asyncio.Event()
        self._certified, self._driven = asyncio.Event(), asyncio.Event()
        self._planned = False
        self._health: tuple[float, dict[Path, PathHealth]] | None = None

    async def run(self) -> None:
        """Works for ever; what one coroutine cannot do stops no other."""
        self.watching.load()
        if self.watching.view is not None:
            # Whatever the rest waits for, nothing leaves in clear meanwhile.
            await self.parts.shut(closed(self.watching.view))
        self.ability = await capabilities.find(self._kernel)
        self.facts = await self._finder.find(remembered(self.watching.view, self.config.node))
        await self.parts.begin()
        workers: dict[str, Callable[[], Awaitable[None]]] = {
            "view": self.watching.run,
            "plan": self._plan,
            "data plane": self.plane.run,
            "tunnels": self._drive,
            "probes": self.tracking.prober.run,
            "facts": self._facts,
            "certificates": self._certificates,
            "news": self.parts.watch,
            "word": self.speaker.run,
            "look": self._look,
            "timer": self._timer,
        }
        self._replan.set()
        try:
            async with asyncio.TaskGroup() as group:
                for name, work in workers.items():
                    group.create_task(_forever(name, work), name=name)
        finally:
            self.trying.close()
            self.tracking.close()
            self.parts.close()
            await self._finder.close()

    def known(self) -> Known:
        """All that is known now."""
        prober = self.tracking.prober
        windows = prober.windows()
        return Known(
            facts=self.facts,
            ability=self.ability,
            view=self.watching.view,
            desired=self.desired,
            paths=self.tracking.paths,
            targets=prober.targets(),
            windows=windows,
            mtus={path: prober.mtu(path) for path in windows},
            whys={path: state.why for path, state in self.driver.states.items()},
        )

    def health(self) -> dict[Path, PathHealth]:
        """Of every path, as of now, or of a few seconds ago where there are thousands."""
        now, known = time.monotonic(), self._health
        if known is None or now - known[0] > len(known[1]) / MANY:
            known = self._health = now, knowing.health(self.known())
        return known[1]

    def word(self) -> NodeWord | None:
        """None while it is not known what Kubernetes says of this node, nor what it last said."""
        if not self._finder.complete:
            return None
        return word_of(
            self.config.node, self.facts, self.ability.can, self.health(), self.book.all()
        )

    def part_faults(self) -> dict[str, str]:
        """By part of the data plane what is wrong with it now."""
        faults = {name: "; ".join(each.faults) for name, each in self.plane.keepers.items()}
        if self.driver.faults:
            faults["tunnels"] = "; ".join(self.driver.faults)
        return faults

    async def _say(self, word: NodeWord) -> None:
        self.trying.take((await self._client.say(self.config.cluster, word)).trials)

    def findings(self) -> list[Finding]:
        """As of now, those of all sources."""
        self._find()
        return self.book.all()

    # Events

    def _view_changed(self) -> None:
        self._replan.set()
        self._renew.set()

    def _changed(self) -> None:
        self._replan.set()

    def _lost(self) -> None:
        self.counts.lost += 1

    def _moved(self) -> None:
        """The buckets at once, whatever else follows from it."""
        self.desired = moved(self.desired, self.tracking.paths)
        self.parts.firewall.hurry(self.desired)
        self.plane.want(self.desired)
        self.counts.moves += 1
        self._health = None
        # Both want the processor: what flows need goes first.
        asyncio.get_running_loop().call_later(MOVE, self._replan.set)
        self.speaker.look()

    def _plane_told(self) -> None:
        self.counts.rounds = sum(each.rounds for each in self.plane.keepers.values())
        self.counts.repairs = sum(each.repaired for each in self.plane.keepers.values())

    # Workers

    async def _plan(self) -> None:
        while True:
            await self._replan.wait()
            await asyncio.sleep(SETTLE)
            self._replan.clear()
            if (view := self.watching.view) is not None:
                await self._plan_for(view)

    async def _plan_for(self, view: View) -> None:
        tracking = self.tracking
        if not self._planned:
            tracking.adopt(await self._made(view), *await self.parts.left_over())
        made = await self._made(view)
        tracking.follow(made, view, self.driver.states)
        # Probes went on while the plan was made.
        self.desired = moved(made, tracking.paths)
        self._planned = True
        self.plane.want(self.desired)
        ipv6 = "ipv6" in self.ability.can
        self._found("probes", tracking.probe(self.desired, view, self.facts.mtu, ipv6=ipv6))

    async def _made(self, view: View) -> DesiredNode:
        paths, can, mtu = self.tracking.known(), self.ability.can, self.facts.mtu
        node = self.config.node
        return await asyncio.to_thread(lambda: plan(view, node, paths, can, mtu))

    async def _tunnels(self, desired: DesiredNode) -> Done:
        """Hands the IPsec driver what it keeps; not before the certificates were looked at: it ends
        tunnels that it has none for."""
        await self._certified.wait()
        self.driver.want(desired.tunnels, desired.accepts, self._memberships(desired.mark))
        self._driven.set()
        return Done()

    def _memberships(self, mask: int) -> list[Membership]:
        view, found = self.watching.view, []
        for one in () if view is None else view.federations:
            federation = one.federation
            shown = self.certificates.credentials.get(federation.name)
            if shown is not None:
                found.append(
                    Membership(
                        federation=federation.name,
                        node=self.config.node,
                        key=shown.key,
                        certificate=shown.certificate,
                        root=federation.root,
                        members={member.cluster: member.ca for member in federation.members},
                        mask=mask,
                        rekey=federation.settings.rekey,
                    )
                )
        return found

    async def _facts(self) -> None:
        node = self.config.node
        while True:
            await _event_or(self._refresh_facts, FACTS)
            known = self.facts if self._finder.complete else None
            facts = await self._finder.find(known or remembered(self.watching.view, node))
            self._found("facts", [finding("underlay", "node", why) for why in self._finder.faults])
            if facts != self.facts:
                logger.info("the node is another one", extra={"facts": repr(facts)})
                self.facts = facts
                self._replan.set()
                self._renew.set()
                self.speaker.look()

    async def _certificates(self) -> None:
        while True:
            if (view := self.watching.view) is not None:
                cluster = self.config.cluster
                authorities = {
                    one.federation.name: member.ca
                    for one in view.federations
                    for member in one.federation.members
                    if member.cluster == cluster
                }
                try:
                    if await self.certificates.keep(authorities, self.facts.addresses):
                        self.plane.look("tunnels")
                finally:
                    self._certified.set()
                self._found("certificates", self.certificates.findings)
            failed = any(each.verdict == "fault" for each in self.certificates.findings)
            await _event_or(self._renew, AGAIN if failed else CERTIFICATES)

    async def _drive(self) -> None:
        """Runs the IPsec driver, once it was told what to keep and there is anything to do."""
        await self._driven.wait()
        while not self._tunnelled() and not self.config.vici.exists():
            await asyncio.sleep(SETTLE)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.driver.run())
            group.create_task(self.parts.rekeys(self._rekeyed))

    def _tunnelled(self) -> bool:
        return bool(self.desired.tunnels or self.desired.accepts)

    def _rekeyed(self) -> None:
        self.counts.rekeys += 1

    async def _look(self) -> None:
        while True:
            self._find()
            self._renew_silent()
            self.speaker.look()
            await asyncio.sleep(LOOK * max(1, len(self.tracking.windows()) / SMALL))

    def _renew_silent(self) -> None:
        for path in self._renewing.due(self.tracking.paths, time.monotonic()):
            keys = {"path": f"{path.federation}/{path.cluster}/{path.node}"}
            logger.warning("the tunnel is up and silent, it gets new keys", extra=keys)
            self.driver.renew(path)

    async def _timer(self) -> None:
        while True:
            await asyncio.sleep(self.config.refresh)
            self.plane.look()
            if len(self.ability.can) < len(get_args(Capability)):
                # A module may have been loaded since.
                before, self.ability = self.ability, await capabilities.find(self._kernel)
                if self.ability != before:
                    self._replan.set()

    def _find(self) -> None:
        known = self.known()
        keepers = self.plane.keepers.values()
        self._found("node", knowing.findings(known, self.health(), keepers, time.time()))
        wrong = self.driver.faults if self._tunnelled() else []
        self._found("charon", [finding("charon", "tunnels", why) for why in wrong])
        left_out = self.parts.firewall.left_out
        self._found(
            "firewall", [finding("chain", "firewall", left_out, "warning")] if left_out else []
        )
        server = self.watching.why or self.speaker.why
        quiet = [] if not server else [finding("server", "server", server, "warning")]
        self._found("server", quiet)

    def _found(self, who: str, found: list[Finding]) -> None:
        new, gone = self.book.put(who, found, time.monotonic())
        for each in new:
            keys = {"cause": each.cause, "subject": each.subject, "do": each.do}
            level = logging.ERROR if each.verdict == "fault" else logging.WARNING
            logger.log(level, each.found, extra=keys)
        for each in gone:
            keys = {"cause": each.cause, "subject": each.subject}
            logger.info("it is well again", extra=keys)

    async def leave(self, within: float) -> bool:
        """Takes all that is ours off this node, what blocks clear text last; whether it is done."""
        await self.parts.begin()
        self._certified.set()
        empty = replace(DesiredNode(), mark=self.desired.mark)
        running = asyncio.create_task(self.plane.run())
        driver = asyncio.create_task(self.driver.run())
        try:
            self.plane.want(empty)
            return await self.plane.settled(empty, within) and await self.parts.left(within)
        finally:
            for task in (running, driver):
                task.cancel()
            await asyncio.gather(running, driver, return_exceptions=True)


async def _event_or(event: asyncio.Event, seconds: float) -> None:
    """Returns once the event is set, or after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
    event.clear()


async def _forever(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Begins anew whatever ends or fails; a failure is told once until it is another one."""
    said = ""
    while True:
        try:
            await work()
        except KernelError as error:
            if str(error) != said:
                said = str(error)
                logger.error("a worker failed, it begins anew", extra={"worker": name, "why": said})
        except Exception as error:
            if repr(error) != said:
                said = repr(error)
                logger.exception("a worker failed, it begins anew", extra={"worker": name})
        await asyncio.sleep(AGAIN)
