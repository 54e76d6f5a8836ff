"""The clients of a soak: what nodes ask for pods, one after the other and at once.

A client keeps to what a node does: a claim is stored before it is asked for, a request without an
answer is repeated or released, and what was released is never asked for again under that claim.
What it may still hold stands in `pods` and `owed` until the release was acknowledged. What it has
`lost` it never releases before that was reclaimed; its nodes' reports do not have it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence

from netspace import messages as m
from soak import ground
from soak.asking import Asker, released
from soak.ground import CLUSTER, Pool
from soak.history import History, Live
from soak.pods import NAMESPACES, Pod, lies_in, new_pod

AT_MOST = 6
"""Pods that a client has at once, more or less."""


class Worker(Asker):
    """One client: `run` until told to stop, then `settle`. Used in `async with`."""

    def __init__(self, number: int, endpoints: Sequence[str], history: History, seed: int) -> None:
        super().__init__(number, endpoints, history, f"{seed}/client/{number}")
        self.pods: list[Pod] = []
        self.owed: list[Pod] = []
        self.lost: list[Pod] = []
        self._count = 0
        self._actions: dict[Callable[[], Awaitable[None]], int] = {
            self.add: 24,
            self.delete: 18,
            self.repeat: 10,
            self.ask: 8,
            self.add_twice_at_once: 4,
            self.add_and_delete_at_once: 4,
            self.add_many: 3,
            self.delete_many: 3,
            self.restart: 8,
            self.take_over: 6,
            self.claim_anew: 4,
            self.release_again_later: 5,
            self.add_again_late: 4,
            self.operator_release: 2,
            self.trespass: 2,
            self.lose: 2,
            self.report: 8,
            self.find_lost: 3,
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Asks for one thing after another until `stop` is set."""
        actions, weights = list(self._actions), list(self._actions.values())
        while not stop.is_set():
            if self.owed and self._random.random() < 0.4:
                await self._pay(self._random.choice(self.owed))
            else:
                [action] = self._random.choices(actions, weights)
                await action()
            await asyncio.sleep(self._random.uniform(0, 0.08))

    async def settle(self) -> None:
        """Releases all that may be held, until each release is acknowledged."""
        self.owed += self.pods
        self.pods = []
        while self.owed:
            before = len(self.owed)
            await self._pay(self.owed[0])
            if len(self.owed) == before:
                await asyncio.sleep(0.3)
        while self.lost:
            for node in sorted({pod.node for pod in self.lost}):
                await self._report(node)
            await asyncio.sleep(ground.GRACE / 2)
            for pod in [*self.lost]:
                await self._find(pod)

    # What a client does

    async def add(self) -> None:
        if len(self.pods) >= AT_MOST:
            return await self.delete()
        await self._hold(self._new())

    async def delete(self) -> None:
        if self.pods:
            await self._pay(self._part())

    async def repeat(self) -> None:
        """The same request once more, be the first one's outcome known or not."""
        if self.pods:
            await self._hold(self._part())

    async def ask(self) -> None:
        """What an attachment holds: CHECK does."""
        if not self.pods:
            return
        if not await self._ask(self._random.choice(self.pods)):
            await self._breathe()

    async def add_twice_at_once(self) -> None:
        if len(self.pods) >= AT_MOST:
            return
        pod = self._new()
        both = await asyncio.gather(self._allocate(pod), self._allocate(pod))
        self.pods.append(both[0] or both[1] or pod)

    async def add_and_delete_at_once(self) -> None:
        """The runtime gives an ADD up and sends the DEL while the ADD is under way."""

        async def soon() -> bool:
            await asyncio.sleep(self._random.uniform(0, 0.03))
            return await self._release(pod, None)

        pod = self._new()
        _, released = await asyncio.gather(self._allocate(pod), soon())
        if not released:
            self.owed.append(pod)

    async def restart(self) -> None:
        """A named pod is deleted and comes back, perhaps on another node, perhaps as a new UID."""
        named = [pod for pod in self.pods if pod.name]
        if not named:
            return
        pod = self._random.choice(named)
        self.pods.remove(pod)
        await self._pay(pod)
        node = self._random.choice((pod.node, self._node()))
        uid = self._random.choice((pod.uid, self._id("u")))
        await self._hold(self._successor(pod, node=node, uid=uid))

    async def take_over(self) -> None:
        """A new sandbox of a pod on its node, which has seen the old one's interface to be gone;
        the old one's DEL comes later."""
        named = [pod for pod in self.pods if pod.name]
        if not named:
            return
        old = self._random.choice(named)
        self.pods.remove(old)
        self.owed.append(old)
        await self._hold(self._successor(old), removed=(old.container,))

    async def claim_anew(self) -> None:
        """The node has lost its record: the same attachment under another claim."""
        known = [pod for pod in self.pods if pod.generation is not None]
        if not known:
            return
        old = self._random.choice(known)
        new = dataclasses.replace(old, claim=self._claim(), generation=None)
        self.pods.remove(old)
        if not await self._hold(new):
            # Whichever of the two it is now: both are given back.
            self.owed += [old, new]
            self.pods.remove(new)

    async def release_again_later(self) -> None:
        """A release comes a second time, when its attachment holds an address again."""
        known = [pod for pod in self.pods if pod.generation is not None]
        if not known:
            return
        old = self._random.choice(known)
        self.pods.remove(old)
        if not await self._release(old, old.generation):
            self.owed.append(old)
            return
        await self._hold(dataclasses.replace(old, claim=self._claim(), generation=None))
        await self._release(old, self._random.choice((old.generation, None)))

    async def add_again_late(self) -> None:
        """A copy of an ADD arrives after its DEL was acknowledged."""
        if not self.pods:
            return
        pod = self._part()
        if await self._release(pod, None):
            await self._allocate(pod)
        else:
            self.owed.append(pod)

    async def operator_release(self) -> None:
        """An admin says that the pod is gone; the node's own release comes later."""
        known = [pod for pod in self.pods if pod.generation is not None and pod.address]
        if not known:
            return
        pod = self._random.choice(known)
        assert pod.generation is not None
        self.pods.remove(pod)
        self.owed.append(pod)
        network = next(each for each in ground.NETWORKS if lies_in(each, pod.address))
        asked = self._begin("operator", pod)
        asked.generation = pod.generation
        request = m.OperatorRelease(
            network=network.name, address=pod.address, generation=pod.generation
        )
        await self._end(asked, self._client.operator_release(CLUSTER, request), released)

    async def trespass(self) -> None:
        """A pool that the pod's namespace may not name."""
        closed = [pool for pool in ground.POOLS if pool.namespaces and "*" not in pool.namespaces]
        pool = self._random.choice(closed)
        pod = dataclasses.replace(self._new(), pool=pool, namespace="green", ip=(), families=())
        await self._allocate(pod)
        self.owed.append(pod)

    async def add_many(self) -> None:
        """Several pods in one request."""
        pods = [self._new() for _ in range(self._random.randint(2, 5))]
        if len(self.pods) < AT_MOST:
            held = await self._allocate_batch(pods)
            self.pods += [one or pod for one, pod in zip(held, pods, strict=True)]

    async def delete_many(self) -> None:
        pods = [self._part() for _ in range(min(len(self.pods), 3))]
        if pods:
            gone = await self._release_batch(pods)
            self.owed += [pod for pod, released in zip(pods, gone, strict=True) if not released]

    async def lose(self) -> None:
        """A pod is gone, and so is all that its node knew of it: no release comes."""
        known = [pod for pod in self.pods if pod.generation is not None]
        if known and len(self.lost) < AT_MOST:
            pod = self._random.choice(known)
            self.pods.remove(pod)
            self.lost.append(pod)

    async def report(self) -> None:
        """A node says what is alive on it."""
        nodes = [pod.node for pod in self.lost] or [self._node()]
        await self._report(self._random.choice(nodes))

    async def find_lost(self) -> None:
        """What was lost turns up: once its address was reclaimed its DEL comes after all."""
        if self.lost:
            await self._find(self._random.choice(self.lost))

    async def _find(self, pod: Pod) -> None:
        if await self._ask(pod) is False and await self._release(pod, pod.generation):
            self.lost.remove(pod)

    async def _report(self, node: str) -> None:
        seen = await self._seen(node)
        if seen is None:
            return await self._breathe()
        live = {
            Live(pod.container, pod.ifname, pod.generation or 0)
            for pod in (*self.pods, *self.owed)
            if pod.node == node
        }
        # Where a claim of an attachment has no answer yet, the node does not know which it has.
        unsure = {(one.container, one.ifname) for one in live if not one.generation}
        told = {
            Live(one.container, one.ifname, 0) if (one.container, one.ifname) in unsure else one
            for one in live
        }
        await self._tell(node, seen, tuple(sorted(told, key=lambda one: one.container)))

    async def fill(self, pool: Pool) -> None:
        """Takes every address of a pool; each has to be given. Then gives them back."""
        namespace = next(each for each in NAMESPACES if pool.takes(each))
        for _ in range(ground.size(pool)):
            pod = dataclasses.replace(
                self._new(), pool=pool, namespace=namespace, ip=(), families=(), name="", uid=""
            )
            self.pods.append(await self._allocate(pod, must=True) or pod)

    async def probe(self) -> bool:
        """Whether an address was given."""
        pod = dataclasses.replace(self._new(), pool=ground.BY_NAME["wide"], ip=(), families=())
        self.owed.append(pod)
        return await self._allocate(pod) is not None

    # Holding and letting go

    async def _hold(self, pod: Pod, removed: tuple[str, ...] = ()) -> bool:
        """Allocates; whatever comes of it, the pod may hold something from then on."""
        held = await self._allocate(pod, removed)
        self.pods.append(held or pod)
        if held is None:
            await self._breathe()
        return held is not None

    async def _pay(self, pod: Pod) -> None:
        """Releases; until that is acknowledged it is owed."""
        known = pod.generation if self._random.random() < 0.8 else None
        if await self._release(pod, known):
            if pod in self.owed:
                self.owed.remove(pod)
            return
        if pod not in self.owed:
            self.owed.append(pod)
        await self._breathe()

    # Who asks

    def _part(self) -> Pod:
        """One of the pods, which is then no longer among them."""
        return self.pods.pop(self._random.randrange(len(self.pods)))

    def _new(self) -> Pod:
        """A pod that has not been asked for; sometimes one whose name was there before."""
        used = {pod.name for pod in (*self.pods, *self.owed)}
        return new_pod(self._random, self.number, self._id("c"), self._claim(), self._node(), used)

    def _successor(self, pod: Pod, **changes: str) -> Pod:
        return dataclasses.replace(
            pod,
            container=self._id("c"),
            claim=self._claim(),
            generation=None,
            address="",
            **changes,  # type: ignore[arg-type]
        )

    def _node(self) -> str:
        return f"node-{self.number}-{self._random.randint(0, 1)}"

    def _id(self, letter: str) -> str:
        self._count += 1
        return f"{letter}{self.number}-{self._count}"

    def _claim(self) -> str:
        return f"{self._random.getrandbits(128):032x}"
