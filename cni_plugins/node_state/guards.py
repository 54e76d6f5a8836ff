"""Which pods' interfaces have lost the filter of what they may send.

The kernel tells the node nothing of what happens inside a pod, so each is looked at, now and then:
only a pod with CAP_NET_ADMIN can take its filter away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic
from typing import Final

import hostnet
from cni_plugins.node_state.desired import PodLink
from cni_plugins.wiring import guarded, has_guard, sandbox_of
from hostnet import Kernel, KernelError, Net

EVERY: Final = 30.0
"""Seconds between two looks at all pods."""
AT_ONCE: Final = 4


class Guards:
    """Remembers when it looked last."""

    def __init__(self) -> None:
        self._next = 0.0

    async def missing(self, kernel: Kernel, pods: Iterable[PodLink]) -> list[PodLink]:
        """The pods whose interface is there without its filter; none where it is not yet time
        again, or the kernel has no such filters."""
        if monotonic() < self._next or not hostnet.known_ways():
            return []
        self._next = monotonic() + EVERY
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(pod: PodLink) -> bool:
            async with slots:
                return await _lacks(kernel, pod)

        wanted = [pod for pod in pods if guarded(pod.plan) and not pod.fenced]
        lacks = await asyncio.gather(*map(one, wanted))
        return [pod for pod, lack in zip(wanted, lacks, strict=True) if lack]


async def _lacks(kernel: Kernel, pod: PodLink) -> bool:
    def job(net: Net) -> bool:
        link = hostnet.find_link(net, pod.plan.ifname)
        if link is None or (link.kind, link.mac) != ("macvlan", pod.plan.mac):
            return False
        return not has_guard(net, link, pod.plan)

    # A sandbox that is gone lacks nothing, and what cannot be seen cannot be mended.
    with suppress(KernelError), hostnet.open_netns(pod.plan.netns) as netns:
        return sandbox_of(netns) == pod.sandbox and await kernel.run(netns, job)
    return False
