"""Trials as the leader keeps them, in its memory alone: who is to try what, who has answered, and
what the other cluster's servers say of the way back.

Another member may ask for trials too: of paths and pods of its own cluster, one after the other,
with a rest between them as long as the last one took.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

import msgspec

from federation.server.identity import Identity
from federation.server.place import Place, member_of, record_of
from federation.server.words import Words
from netspace.asking import path
from netspace.http_client import HttpClient
from netspace.messages.federation import Member
from netspace.messages.federation_trials import (
    MOST_NODES,
    Direction,
    MemberTrial,
    NewTrial,
    NodeTrial,
    Order,
    PodTarget,
    TrialReport,
    longest,
)
from netspace.problems import Problem, invalid

KEPT: Final = 60.0
"""Seconds that a trial is kept after its end."""
LOOK: Final = 0.5
"""Seconds between two questions to the other cluster."""
ANSWER: Final = 10.0
"""Seconds that its servers have for one answer."""
MARGIN: Final = 5.0
"""Seconds that the way back may take longer."""

Range = IPv4Network | IPv6Network


@dataclass
class _Trial:
    """`ends`: until when nodes may answer; `ended`: when all had; all of a monotonic clock."""

    id: str
    federation: str
    new: NewTrial
    own: str
    began: float
    ends: float
    there: list[PodTarget]
    nodes: tuple[str, ...]
    left_out: int = 0
    told: dict[str, NodeTrial] = field(default_factory=dict)
    back: Direction | None = None
    asking: asyncio.Task[None] | None = None
    ended: float | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        return self.federation, self.new.cluster, self.new.asker

    def done(self, now: float) -> bool:
        """Whether nothing is waited for any more."""
        if (now < self.ends and len(self.told) < len(self.nodes)) or (
            self.asking is not None and not self.asking.done()
        ):
            return False
        self.ended = min(now, self.ends + MARGIN) if self.ended is None else self.ended
        return True

    def report(self, now: float) -> TrialReport:
        done = self.done(now)
        there = Direction(
            source=self.own,
            target=self.new.cluster,
            nodes=[self.told[name] for name in self.nodes if name in self.told],
            left_out=self.left_out,
        )
        missing = [name for name in self.nodes if name not in self.told]
        if now < self.ends:
            there.awaited = len(missing)
        else:
            why = "its agent has not answered: look whether it runs and reaches its server"
            there.nodes += [NodeTrial(node=name, why=why) for name in missing]
        if not self.nodes:
            there.why = f"no node of cluster {self.own} speaks to its server"
        return TrialReport(
            id=self.id,
            federation=self.federation,
            what=self.new.what,
            done=done,
            there=there,
            back=self.back,
        )


class Trials:
    """Of one term; the newest to each member is kept, by whom it was asked for. `close` ends what
    runs."""

    def __init__(self, place: Place, identity: Identity, words: Words) -> None:
        self._place, self._identity, self._words = place, identity, words
        self._trials: dict[tuple[str, str, str], _Trial] = {}

    async def close(self) -> None:
        asking = [each.asking for each in self._trials.values() if each.asking is not None]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def begin(self, federation: str, new: NewTrial, now: float) -> TrialReport:
        """`Problem` not-found, invalid, or busy while one to that member runs."""
        place = self._place
        state = place.state
        record = record_of(state, federation)
        member = member_of(record, new.cluster)
        if member is None or new.cluster == place.cluster:
            raise Problem(
                "not-found",
                f"cluster {new.cluster} is no other member of federation {federation}",
                do="look at its members with netspacectl federation show",
            )
        self._forget(now)
        self._check_rest((federation, new.cluster, new.asker), now)
        info = state.peers.get((federation, new.cluster))
        own = state.own.get(federation)
        theirs = _ranges(member.ranges if info is None else info.ranges)
        ours = _ranges([] if own is None or new.asker else own.ranges)
        there, back = sorted_pods(new.pods, theirs, ours)
        nodes = self._nodes(new)
        most = MOST_NODES[new.what]
        began = _Trial(
            id=secrets.token_hex(16),
            federation=federation,
            new=new,
            own=place.cluster,
            began=now,
            ends=now + longest(new.what, new.seconds),
            there=there,
            nodes=tuple(nodes[:most]),
            left_out=max(0, len(nodes) - most),
        )
        if new.both and not new.asker:
            began.back = Direction(source=new.cluster, target=place.cluster, awaited=1)
            asked = MemberTrial(what=new.what, pods=back, seconds=new.seconds, rate=new.rate)
            began.asking = asyncio.create_task(self._ask(began, member, asked))
        self._trials[began.key] = began
        return began.report(now)

    def _check_rest(self, key: tuple[str, str, str], now: float) -> None:
        before = self._trials.get(key)
        if before is None:
            return
        wait = 0.0
        if not before.done(now):
            wait = max(1.0, before.ends - now)
        elif before.new.asker and before.ended is not None:
            wait = 2 * before.ended - before.began - now
        if wait > 0:
            raise Problem(
                "busy",
                f"another trial to cluster {key[1]} of federation {key[0]} is under way",
                do="wait until it is over",
                retry_after=min(wait, 1.0),
            )

    def _nodes(self, new: NewTrial) -> list[str]:
        speaking = {
            name
            for name, heard in self._words.heard.items()
            if heard.word is not None and heard.node.down is None
        }
        unknown = [name for name in new.nodes if name not in speaking]
        if unknown:
            raise Problem(
                "not-found",
                f"node {unknown[0]} does not speak to its server",
                do="look at the nodes with netspacectl federation status",
            )
        return sorted(set(new.nodes) or speaking)

    def _forget(self, now: float) -> None:
        for key, trial in tuple(self._trials.items()):
            if trial.done(now) and trial.ended is not None and now > trial.ended + KEPT:
                del self._trials[key]

    def orders(self, node: str, now: float) -> list[Order]:
        """What a node is to do now."""
        return [
            Order(
                id=trial.id,
                federation=trial.federation,
                cluster=trial.new.cluster,
                what=trial.new.what,
                within=trial.ends - now,
                pods=trial.there,
                seconds=trial.new.seconds,
                rate=trial.new.rate // len(trial.nodes),
            )
            for trial in self._trials.values()
            if node in trial.nodes and node not in trial.told and now < trial.ends
        ]

    def tell(self, node: str, trial: str, found: NodeTrial, now: float) -> None:
        """What a node found; `Problem` where it was not asked, or is late."""
        for each in self._trials.values():
            if each.id == trial and node in each.nodes and now < each.ends:
                each.told[node] = found
                return
        raise Problem("not-found", f"there is no trial {trial} that node {node} takes part in")

    def report(self, federation: str, trial: str, asker: str, now: float) -> TrialReport:
        """A trial as it is now, for whom it was asked by; `Problem` not-found."""
        for (name, _, who), each in self._trials.items():
            if (each.id, name, who) == (trial, federation, asker):
                return each.report(now)
        raise Problem("not-found", f"there is no trial {trial}", do="begin another one")

    async def _ask(self, trial: _Trial, member: Member, asked: MemberTrial) -> None:
        """Has the other cluster's nodes try the way back."""
        assert trial.back is not None
        source, target = trial.back.source, trial.back.target
        towards = self._identity.towards(trial.federation, member.ca)
        client = HttpClient(member.endpoints, ANSWER, towards, trial.federation)
        ends = trial.ends + MARGIN
        base = path("federations", trial.federation, "trials")
        body = msgspec.json.encode(asked)
        try:
            answer = await self._until_taken(client, base, body, ends)
            while True:
                found = _report(answer)
                trial.back = msgspec.structs.replace(found.there, source=source, target=target)
                if found.done or time.monotonic() > ends:
                    return
                await asyncio.sleep(LOOK)
                there = path("federations", trial.federation, "trials", found.id)
                answer = await client.request("GET", there)
        except Problem as problem:
            why = f"the servers of cluster {source} cannot be asked: {problem}"
            trial.back = Direction(source=source, target=target, why=why[:1000])
        finally:
            await client.close()

    async def _until_taken(
        self, client: HttpClient, target: str, body: bytes, ends: float
    ) -> bytes:
        while True:
            try:
                return await client.request("POST", target, body)
            except Problem as problem:
                if problem.code != "busy" or time.monotonic() > ends - MARGIN:
                    raise
                await asyncio.sleep(problem.retry_after or LOOK)


def sorted_pods(
    pods: Iterable[PodTarget], theirs: list[Range], ours: list[Range]
) -> tuple[list[PodTarget], list[PodTarget]]:
    """Which pods the own nodes are to reach, and which the other cluster's; `Problem` for one that
    is neither's."""
    there, back = [], []
    for pod in pods:
        try:
            address = ip_address(pod.address)
        except ValueError:
            raise invalid("pods", f"{pod.address!r} is no address") from None
        if any(address in each for each in theirs):
            there.append(pod)
        elif any(address in each for each in ours):
            back.append(pod)
        else:
            raise invalid(
                "pods",
                f"{pod.address} lies in no federated range of the two clusters",
                do="look at the ranges with netspacectl federation show",
            )
    return there, back


def _ranges(texts: Iterable[str]) -> list[Range]:
    return [ip_network(text) for text in texts]


def _report(answer: bytes) -> TrialReport:
    try:
        return msgspec.json.decode(answer, type=TrialReport)
    except msgspec.DecodeError as error:
        raise Problem("internal", f"its answer cannot be understood: {error}") from None
