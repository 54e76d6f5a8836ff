"""Trials that the server asks for: which paths this node tries, and the pods that it is to reach.

Whatever is asked, at most `AT_ONCE` trials run, each is carried out once, and what is not done in
its time is left undone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from federation.desired import Path
from federation.node import knowing
from federation.node.benching import bench
from federation.node.knowing import Known
from federation.node.reporting import PathHealth
from federation.node.verifying import ping, verify
from federation.plan.networks import digest
from netspace.messages.federation_node import Hop, VerifiedPath, VerifyPath
from netspace.messages.federation_trials import (
    MOST_PATHS,
    NodeTrial,
    Order,
    PodTarget,
    TriedPod,
)
from netspace.problems import Problem

logger = logging.getLogger(__name__)

AT_ONCE: Final = 4
CONNECT: Final = 2.0
"""Seconds for a connection to a pod."""
_REMEMBERED: Final = 256
_LONGEST: Final = 1000

Tell = Callable[[str, NodeTrial], Awaitable[None]]


class Trying:
    """`take` what the server's answers ask for; `close` ends what runs."""

    def __init__(
        self,
        node: str,
        known: Callable[[], Known],
        faults: Callable[[], Mapping[str, str]],
        tell: Tell,
    ) -> None:
        self._node, self._known, self._faults, self._tell = node, known, faults, tell
        self._seen: deque[str] = deque(maxlen=_REMEMBERED)
        self._running: set[asyncio.Task[None]] = set()

    def take(self, orders: Iterable[Order]) -> None:
        for order in orders:
            if order.id not in self._seen and len(self._running) < AT_ONCE:
                self._seen.append(order.id)
                task = asyncio.create_task(self._work(order), name=f"trial {order.id}")
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    def close(self) -> None:
        for task in self._running:
            task.cancel()

    async def _work(self, order: Order) -> None:
        try:
            async with asyncio.timeout(order.within):
                found = await self._tried(order)
        except TimeoutError:
            found = NodeTrial(node=self._node, why="there was not enough time")
        except Exception as error:
            logger.exception("a trial failed")
            found = NodeTrial(node=self._node, why=f"a fault of the agent: {error!r}"[:_LONGEST])
        try:
            await self._tell(order.id, found)
        except Problem as problem:
            logger.warning("a trial's result is not taken", extra={"why": str(problem)})

    async def _tried(self, order: Order) -> NodeTrial:
        known = self._known()
        paths = chosen(knowing.health(known), self._node, order)
        found = NodeTrial(node=self._node, left_out=max(0, len(paths) - MOST_PATHS[order.what]))
        if not paths:
            found.why = (
                f"it has no path to cluster {order.cluster} of federation {order.federation}: see"
                " netspace-federation agent status on that node"
            )
        taken = paths[: MOST_PATHS[order.what]]
        if order.what == "verify":
            asked = (verified(known, path, self._faults()) for path in taken)
            found.verified = list(await asyncio.gather(*asked))
        else:
            # One after the other, so that none is in another's way.
            for path in taken:
                target = known.targets.get(path)
                if target is not None:
                    state = known.paths.get(path)
                    size = known.mtus.get(path) if state is None else state.mtu
                    each = await bench(path.node, target, size, order.seconds, order.rate)
                    found.benched.append(each)
        found.pods = list(await asyncio.gather(*map(reached, order.pods)))
        return found


def chosen(health: Mapping[Path, PathHealth], node: str, order: Order) -> list[Path]:
    """The paths that are meant: those that are not up first, then in an order of this node's own,
    so that the nodes together try as many as there are. Pure."""
    return sorted(
        (p for p in health if (p.federation, p.cluster) == (order.federation, order.cluster)),
        key=lambda path: (health[path].state == "up", digest("trial", node, path.node)),
    )


async def verified(known: Known, path: Path, faults: Mapping[str, str]) -> VerifiedPath:
    """The hops of one path."""
    wanted = VerifyPath(federation=path.federation, cluster=path.cluster, node=path.node)
    try:
        [found] = (await verify(known, wanted, faults)).paths
    except Problem as problem:
        # It went while this was begun, or it cannot be probed.
        hop = Hop(name="node", ok=False, found=problem.detail[:_LONGEST], do=problem.do)
        return VerifiedPath(node=path.node, hops=[hop], fails="node")
    for hop in found.hops:
        hop.found = hop.found[:_LONGEST]
    return found


async def reached(pod: PodTarget) -> TriedPod:
    """Whether a pod answers this node."""
    if pod.port is None:
        seconds = await asyncio.to_thread(ping, pod.address)
        if seconds is not None:
            return TriedPod(pod=str(pod), ok=True, found=f"it answers in {seconds * 1000:.1f} ms")
        do = (
            "if the paths are well: look whether the pod runs, and at the routes, rules and MTU"
            " between the gateway and the pod's node"
        )
        return TriedPod(pod=str(pod), ok=False, found="it does not answer to ping", do=do)
    try:
        async with asyncio.timeout(CONNECT):
            _, writer = await asyncio.open_connection(pod.address, pod.port)
    except ConnectionRefusedError:
        do = "see that something listens there, and that its cluster exposes the port"
        return TriedPod(pod=str(pod), ok=False, found="the connection is refused", do=do)
    except TimeoutError:
        do = (
            "if the paths are well: see that its cluster exposes the port, and look at the rules"
            " between the gateway and the pod"
        )
        return TriedPod(pod=str(pod), ok=False, found=f"no connection in {CONNECT:g} s", do=do)
    except OSError as error:
        why = error.strerror or str(error)
        do = "see the routes on this node"
        return TriedPod(pod=str(pod), ok=False, found=f"no connection: {why}", do=do)
    writer.close()
    return TriedPod(pod=str(pod), ok=True, found="the connection is made")
