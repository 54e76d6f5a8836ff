"""The parts of a node's data plane, each kept as it should be by a coroutine of its own: none waits
for another, and what one cannot do stops no other.

The order that counts is kept all the same: what blocks clear text is there before any route leads
to a peer, and is taken away after all the rest; so is what leads into a tunnel that flows took. The
tunnel itself ends when the firewall has no flow take it any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Set
from dataclasses import dataclass, replace
from typing import Final

from federation.desired import DesiredNode, Network, Policy, Tunnel
from hostnet import KernelError
from netspace.problems import Problem

logger = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Done:
    """What came of bringing a part to what it should be: what was changed and what could not be, in
    words. `left`: the destinations of routes that are not wanted and could not be taken away; None
    where it is not told, which with faults may be all."""

    changes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    left: tuple[Network, ...] | None = None


Apply = Callable[[DesiredNode], Awaitable[Done]]
"""Brings a part to its share of the desired node, whatever is there; raises what it will."""
Share = Callable[[DesiredNode], object]
"""What of the desired node a part looks at, comparable."""


class Keeper:
    """One part. `told` after every time; `repaired` counts what was changed though nobody wanted
    anything else. `faults`: of the last time."""

    def __init__(
        self, name: str, apply: Apply, share: Share, told: Callable[[Keeper], None]
    ) -> None:
        self.name = name
        self.rounds = self.changed = self.repaired = 0
        self.faults: tuple[str, ...] = ()
        self.last: tuple[str, ...] = ()
        self.done: DesiredNode | None = None
        self._left: tuple[Network, ...] | None = None
        self._apply, self._share, self._told = apply, share, told
        self._wanted: DesiredNode | None = None
        self._tried: DesiredNode | None = None
        self._woken = asyncio.Event()
        self._pause = FIRST_PAUSE

    def want(self, desired: DesiredNode) -> None:
        """Is to be so from now on; nothing is looked at where it is already."""
        before, self._wanted = self._wanted, desired
        if before is None or self._share(before) != self._share(desired):
            self._pause = FIRST_PAUSE
            self._woken.set()

    def look(self) -> None:
        """Somebody may have changed something."""
        if self._wanted is not None:
            self._woken.set()

    def has(self, desired: DesiredNode) -> bool:
        """Whether it is so, all of it."""
        return self.done is not None and self._share(self.done) == self._share(desired)

    def tried(self, desired: DesiredNode) -> bool:
        """Whether it is so as far as it can be."""
        return self._tried is not None and self._share(self._tried) == self._share(desired)

    def left(self, desired: DesiredNode) -> tuple[Network, ...] | None:
        """The destinations of routes that should be gone and are not; None where it is not
        known."""
        if self.has(desired):
            return ()
        return self._left if self.tried(desired) else None

    async def run(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._woken.wait()
            self._woken.clear()
            wanted = self._wanted
            assert wanted is not None
            await self._once(wanted)
            if self.faults:
                loop.call_later(self._pause, self._woken.set)
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
            else:
                self._pause = FIRST_PAUSE
            self._told(self)

    async def _once(self, wanted: DesiredNode) -> None:
        again = self._tried is not None and self._share(self._tried) == self._share(wanted)
        before = self.faults
        self.rounds += 1
        try:
            done = await self._apply(wanted)
        except (KernelError, Problem, OSError) as error:
            done = Done(faults=(str(error),))
        except Exception as error:
            if not before:
                logger.exception("a part of the data plane failed", extra={"part": self.name})
            done = Done(faults=(f"it failed unexpectedly: {error!r}",))
        self._tried = wanted
        self.faults, self._left = done.faults, done.left
        self.done = None if done.faults else wanted
        if done.changes:
            self.last = done.changes
            self.changed += len(done.changes)
            self.repaired += len(done.changes) if again and not before else 0
            word = "put right" if again and not before else "changed"
            logger.info(word, extra={"part": self.name, "changes": list(done.changes)})
        for fault in done.faults:
            if fault not in before:
                logger.warning("not as it should be", extra={"part": self.name, "why": fault})
        if before and not done.faults:
            logger.info("as it should be again", extra={"part": self.name})


def blocks(policies: Iterable[Policy]) -> tuple[Policy, ...]:
    return tuple(policy for policy in policies if policy.action == "block")


def held(policies: Iterable[Policy]) -> tuple[Policy, ...]:
    """Those that stay until nothing sends by them any more."""
    return tuple(policy for policy in policies if policy.action in ("block", "out"))


def holding(wanted: DesiredNode, old: Iterable[Policy]) -> DesiredNode:
    """The same, with those old policies in whose place it has none."""
    there = {_place(policy) for policy in wanted.policies}
    missing = [policy for policy in old if _place(policy) not in there]
    return replace(wanted, policies=(*wanted.policies, *missing)) if missing else wanted


def keeping(wanted: DesiredNode, old: Iterable[Tunnel]) -> DesiredNode:
    """The same, with those old tunnels to whose ends it has none."""
    there = {tunnel.path for tunnel in wanted.tunnels}
    missing = [tunnel for tunnel in old if tunnel.path not in there]
    return replace(wanted, tunnels=(*wanted.tunnels, *missing)) if missing else wanted


def _place(policy: Policy) -> Policy:
    """What two policies cannot both have: a mark is of one tunnel."""
    return replace(policy, local="", remote="", reqid=0)


class DataPlane:
    """All parts. `policies` is the one that has the block policies; `routes` are those that lead
    packets to peers, and wait for it."""

    def __init__(self) -> None:
        self.keepers: dict[str, Keeper] = {}
        self._first: Keeper | None = None
        self._routing: list[Keeper] = []
        self._wanted: DesiredNode | None = None
        self._there: Callable[[], Set[Policy]] = frozenset
        self._held: tuple[Policy, ...] = ()
        self._tunnels: tuple[Keeper, str] | None = None
        self._open: tuple[Tunnel, ...] = ()
        self._changed = asyncio.Event()
        self.told: Callable[[], None] = lambda: None

    def add(self, name: str, apply: Apply, share: Share, *, routing: bool = False) -> Keeper:
        """A part that can be kept at any time; `routing`: only once the blocks are there."""
        keeper = self.keepers[name] = Keeper(name, apply, share, self._advance)
        if routing:
            self._routing.append(keeper)
        return keeper

    def blocked_by(self, name: str, apply: Apply, there: Callable[[], Set[Policy]]) -> Keeper:
        """The part that keeps the policies; `there`: of those that go last, the ones
        that the node has."""
        self._first = self.add(name, apply, lambda desired: desired.policies)
        self._there, self._held = there, tuple(there())
        return self._first

    def emptied_by(self, other: str, name: str, apply: Apply, share: Share) -> Keeper:
        """The part that keeps the tunnels: it ends those that are not wanted any more when the
        other part has done what it could."""
        keeper = self.add(name, apply, share)
        self._tunnels = keeper, other
        return keeper

    def want(self, desired: DesiredNode) -> None:
        """The node is to be so from now on."""
        self._wanted = desired
        self._held = held(holding(desired, self._held).policies)
        if self._first is not None:
            self._first.want(holding(desired, self._held))
        for keeper in self.keepers.values():
            if self._tunnels is not None and keeper is self._tunnels[0]:
                self._open = keeping(desired, self._open).tunnels
                keeper.want(replace(desired, tunnels=self._open))
            elif keeper is not self._first and (keeper not in self._routing or self._blocked()):
                keeper.want(desired)
        self._advance(None)

    def look(self, *names: str) -> None:
        """Somebody may have changed something of these parts; of all where none is named."""
        for name in names or self.keepers:
            if (keeper := self.keepers.get(name)) is not None:
                keeper.look()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for keeper in self.keepers.values():
                group.create_task(keeper.run(), name=keeper.name)

    async def settled(self, desired: DesiredNode, within: float) -> bool:
        """Waits until all of it is so, so many seconds; whether it is."""
        try:
            async with asyncio.timeout(within):
                while not all(keeper.has(desired) for keeper in self.keepers.values()):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _blocked(self) -> bool:
        """Whether nothing can leave in clear for any peer."""
        if self._first is None:
            return True
        return self._wanted is not None and set(blocks(self._wanted.policies)) <= self._there()

    def _advance(self, keeper: Keeper | None) -> None:
        """Goes on with what had to wait."""
        wanted = self._wanted
        if wanted is not None and self._tunnels is not None:
            tunnels, other = self._tunnels
            if self.keepers[other].tried(wanted):
                self._open = wanted.tunnels
                tunnels.want(wanted)
        if wanted is not None and self._first is not None:
            if self._blocked():
                for each in self._routing:
                    each.want(wanted)
            others = [each for each in self.keepers.values() if each is not self._first]
            left = [each.left(wanted) for each in self._routing]
            if None not in left and all(each.tried(wanted) for each in others):
                # A route that could not be taken away still needs its block.
                there = {one for each in left for one in each or ()}
                needed = [one for one in blocks(self._held) if one.destination in there]
                goal = holding(wanted, needed)
                self._held = held(goal.policies)
                self._first.want(goal)
        self._changed.set()
        self.told()
