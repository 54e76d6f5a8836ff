"""What the leader does all the time: it hears its nodes, builds what its cluster tells the others,
asks the others and judges their gateways. One coroutine for each source of events.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

import msgspec

from federation.plan.availability import Judgement, gateways, judge
from federation.server import ipam
from federation.server.checks import node_fault, ranges_fault
from federation.server.claiming import Own, node_clash, own_of
from federation.server.exchange import Exchange, renewed
from federation.server.identity import Identity
from federation.server.info import Site, build
from federation.server.ipam import Plan
from federation.server.place import Place
from federation.server.state import FederationRecord, State, pack
from federation.server.term import Term
from federation.server.trials import Trials
from federation.server.witnesses import Witnesses
from federation.server.words import Words
from ipam_server.client import Client
from netspace.messages.federation import ClusterInfo, Member, NodeWord, Version
from netspace.messages.federation_trials import Orders
from netspace.problems import Problem, invalid
from netspace.tls import Tls
from statestore import Leader, Op, Put

log = logging.getLogger(__name__)

TICK: Final = 0.5
"""Seconds between two looks for silent nodes and at gateways."""

PAUSE: Final = 1.0
"""Seconds until something is tried again that failed."""


class Duty:
    """Of one term. `run` ends when the leadership does."""

    def __init__(self, place: Place, identity: Identity, leader: Leader, *, restored: bool) -> None:
        self.term = Term(place, leader)
        sound = [node for node in place.state.nodes if not node_fault(node)]
        self.words = Words(sound, time.monotonic())
        self.trials = Trials(place, identity, self.words)
        self.exchanges: dict[tuple[str, str], Exchange] = {}
        self.faults: dict[str, str] = {}
        self._place = place
        self._identity = identity
        self._leader = leader
        self._restored = restored
        self._plan: Plan | None = None
        self._dirty = asyncio.Event()
        self._judgements: dict[tuple[str, str], Judgement] = {}
        # At which serial gateways were judged, and when one of those given up is tried again.
        self._judged_at = 0
        self._tried_again = 0.0
        self._asking: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._witnesses = Witnesses(place.keys, self.term)

    async def run(self) -> None:
        work: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "federation begins": self._begin,
            "federation information": self._tell,
            "federation members": self._follow_members,
            "federation ticks": self._tick,
        }
        if self._place.config.ipam is not None:
            work["federation addresses"] = self._ask_ipam
        tasks = [asyncio.create_task(kept(each), name=name) for name, each in work.items()]
        try:
            await self._leader.lost()
        finally:
            ending = [*tasks, *self._asking.values()]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
            await self.trials.close()

    # Nodes

    def say(self, word: NodeWord) -> Orders:
        """A node's word; what the node is to try. `Problem` invalid or overlap for what cannot be
        told on: the other members would not hear the whole cluster any more."""
        now, node = time.monotonic(), word.node
        if self.words.is_new(node):
            if fault := node_fault(node):
                raise invalid("node", fault, do="see what the agent on it takes for its own")
            if found := node_clash(self._place.state, self._place.cluster, node):
                raise Problem(
                    "overlap",
                    f"node {node.name}: {found}",
                    do="give the node another address or range, or federate other ranges there",
                )
        if self.words.say(word, now):
            self._dirty.set()
        return Orders(trials=self.trials.orders(word.node.name, now))

    def forget(self, node: str) -> None:
        if self.words.forget(node):
            self._dirty.set()

    async def _tick(self) -> None:
        times = self._place.config.times
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            if self.words.look(now, time.time(), times.silent, times.forget):
                self._dirty.set()
            serial = self._place.state.serial
            if not self.words.moved and serial == self._judged_at and now < self._tried_again:
                continue
            self.words.moved = False
            try:
                state = await self.term.change(self._judged)
                self._judged_at = serial if state.serial == serial else 0
            except Problem:
                self.words.moved = True

    def _judged(self, state: State) -> Iterable[Op]:
        """The gateways of all peers that are reached through gateways."""
        now, told = time.monotonic(), self.words.paths()
        self._tried_again = math.inf
        for name, record in state.federations.items():
            before = state.available.get(name, {})
            found: dict[str, list[str]] = {}
            for member in record.federation.members:
                cluster = member.cluster
                info = state.peers.get((name, cluster))
                if info is None or cluster == self._place.cluster:
                    continue
                if record.federation.kind(cluster, self._place.cluster) != "heterogeneous":
                    continue
                known = before.get(cluster)
                last = self._judgements.get((name, cluster))
                if last is None:
                    # The leader before may have given some up; no words of them have come yet.
                    last = Judgement(out=self._given_up(info, known or [], now))
                judged = judge(info, told.get((name, cluster), {}), last, now)
                self._judgements[name, cluster] = judged
                self._tried_again = min(self._tried_again, judged.until)
                if judged.available:
                    found[cluster] = list(judged.available)
            if found != before:
                yield Put(self._place.keys.available(name), msgspec.json.encode(found))

    def _given_up(self, info: ClusterInfo, known: list[str], now: float) -> dict[str, float]:
        down = {node.name for node in info.nodes if node.down is not None}
        if not known:
            return {}
        return {
            name: now + self._place.config.times.silent
            for name in gateways(info)
            if name not in known and name not in down
        }

    # What this cluster tells

    async def _begin(self) -> None:
        """Begins to count the lives of the state, and the next one where it was restored."""
        keys = self._place.keys

        def begun(state: State) -> Iterable[Op]:
            if state.epoch == 0 or self._restored:
                yield Put(keys.epoch, str(state.epoch + 1).encode())

        await self.term.change(begun)
        self._dirty.set()

    async def _tell(self) -> None:
        """Builds the information anew when something that it is made of has changed."""
        self._dirty.set()
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self.term.change(self._built)
            except BaseException:
                self._dirty.set()
                raise
            await asyncio.sleep(self._place.config.times.pause)

    def _built(self, state: State) -> Iterable[Op]:
        keys = self._place.keys
        if state.epoch == 0 or not state.federations:
            return
        site = self.site()
        told = False
        for name, record in state.federations.items():
            before = state.own.get(name)
            info = self._information(site, state, record, before)
            if before is not None:
                version = before.version
                info = msgspec.structs.replace(info, version=version)
                if info == before and version.epoch == state.epoch:
                    continue
            number = 1 if before is None else before.version.number + 1
            version = Version(epoch=state.epoch, number=number)
            told = True
            yield Put(keys.own(name), pack(msgspec.structs.replace(info, version=version)))
            if record.federation.founder == self._place.cluster:
                changed = renewed(record, info)
                if changed is not record:
                    yield Put(keys.federation(name), msgspec.json.encode(changed))
        if told and site.nodes != state.nodes:
            yield Put(keys.nodes, pack(site.nodes))

    def site(self) -> Site:
        """What is known of this cluster now."""
        config, plan = self._place.config, self._plan or Plan()
        return Site(
            cluster=config.cluster,
            cni=config.cni,
            grouped=config.pods_grouped,
            services=config.services,
            endpoints=tuple(config.federation.reached_at),
            nodes=self.words.nodes,
            pools=plan.pools,
            networks=plan.networks,
            pods=plan.pods,
        )

    def own(self) -> Own:
        """What this cluster uses itself."""
        return own_of(self.site())

    @property
    def ranges_known(self) -> bool:
        """Whether the IPAM server, if there is one, has told anything to this leader."""
        return self._place.config.ipam is None or self._plan is not None

    def _information(
        self, site: Site, state: State, record: FederationRecord, before: ClusterInfo | None
    ) -> ClusterInfo:
        wanted = _pods_wanted(record, self._place.cluster)
        info = build(site, record.local, with_pods=wanted)
        if ranges_fault(info.ranges):
            # As they are no other member would take anything of this cluster. The status says so.
            told = [] if before is None else before.ranges
            info = msgspec.structs.replace(info, ranges=told)
        if self.ranges_known or before is None:
            return info
        # Until the IPAM server is heard, what the leader before heard of it stands.
        pods = {node.name: node.pods for node in before.nodes}
        nodes = [msgspec.structs.replace(node, pods=pods.get(node.name, [])) for node in info.nodes]
        return msgspec.structs.replace(info, ranges=before.ranges, nodes=nodes)

    async def _ask_ipam(self) -> None:
        config = self._place.config.ipam
        if config is None:
            return
        files = config.tls
        tls = None if files is None else Tls(files.ca, files.cert, files.key)
        async with Client(config.endpoints, tls=tls) as client:
            while True:
                state = self._place.state
                pods = any(
                    _pods_wanted(record, self._place.cluster)
                    for record in state.federations.values()
                )
                try:
                    plan = await ipam.read(client, self._place.cluster, pods=pods)
                    self.faults.pop("ipam", None)
                    if plan != self._plan:
                        self._plan = plan
                        self._dirty.set()
                except Problem as problem:
                    if self.faults.get("ipam") != str(problem):
                        log.warning("the IPAM server is not heard", extra={"why": str(problem)})
                    self.faults["ipam"] = f"the IPAM server: {problem}"
                await asyncio.sleep(config.interval)

    # Other members

    async def _follow_members(self) -> None:
        """One worker for each other member, as long as it is one at the same endpoints."""
        told: dict[str, FederationRecord] = {}
        while True:
            records = dict(self._place.state.federations)
            if records != told:
                told = records
                await self._hire(records)
                self._dirty.set()
            else:
                await self._place.mirror.moved()

    async def _hire(self, records: dict[str, FederationRecord]) -> None:
        wanted: dict[tuple[str, str], Member] = {
            (name, member.cluster): member
            for name, record in records.items()
            for member in record.federation.members
            if member.cluster != self._place.cluster
        }
        for at, exchange in tuple(self.exchanges.items()):
            member = wanted.get(at)
            if member is None or not _same_way(member, exchange.member):
                self._asking[at].cancel()
                await asyncio.gather(self._asking.pop(at), return_exceptions=True)
                del self.exchanges[at]
        for at, member in wanted.items():
            if at not in self.exchanges:
                exchange = Exchange(self._place, self.term, self._identity, at[0], member, self.own)
                self.exchanges[at] = exchange
                self._asking[at] = asyncio.create_task(
                    kept(exchange.run), name=f"asking {at[1]} of {at[0]}"
                )

    async def restored(self, federation: str, version: Version | None, number: int) -> None:
        """Another member has seen more of this cluster than it knows itself."""
        await self._witnesses.say(federation, version, number)
        self._dirty.set()


async def kept(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Begins work anew, a moment later, as often as it fails."""
    while True:
        try:
            await work()
            return
        except Problem as problem:
            log.warning("trying again: %s", problem)
        except Exception:
            log.exception("a part of the server's work failed, and is begun anew")
        await asyncio.sleep(PAUSE)


def _same_way(one: Member, other: Member) -> bool:
    return one.ca == other.ca and one.endpoints == other.endpoints


def _pods_wanted(record: FederationRecord, cluster: str) -> bool:
    """Whether another member has to know each pod's node."""
    federation = record.federation
    return any(
        federation.kind(cluster, member.cluster) == "homogeneous"
        for member in federation.members
        if member.cluster != cluster
    )
