"""Where charon and the kernel differ: states that a killed charon left, and states that somebody
deleted under a charon that runs and knows nothing of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence, Set
from typing import Final

from federation.node.connections import REQIDS, associations, spis
from federation.node.ike import Ike
from hostnet.errors import KernelError
from hostnet.kernel import Kernel
from hostnet.netns import Netns
from hostnet.xfrm import State, delete_states, list_states

logger = logging.getLogger(__name__)

ORPHANED: Final = 20.0
"""Seconds after which a state of ours that charon does not know is deleted: others have noticed by
then that an earlier charon is gone."""


class States:
    """The kernel's states beside charon's, in charon's namespace (None: this process's). Where the
    kernel does not answer nothing is done."""

    def __init__(self, kernel: Kernel, netns: Netns | None) -> None:
        self._kernel, self._netns = kernel, netns

    async def unknown(self, ike: Ike) -> frozenset[int]:
        """SPIs of states of ours that charon does not know now. How long they have been there the
        kernel tells by a clock that may be set: whoever wants to know asks again."""
        try:
            # Before charon is asked: what it makes meanwhile is known.
            states = await self._kernel.run(self._netns, list_states)
        except KernelError as error:
            logger.warning("states of an earlier charon may be left", extra={"why": str(error)})
            return frozenset()
        # Not "noblock": charon would leave out what it is busy with.
        known = spis(await ike.listed("list-sas", "list-sa"))
        every = {state.spi for state in states}
        return frozenset(state.spi for state in orphans(states, known, every))

    async def sweep(self, ike: Ike, before: Set[int]) -> None:
        """Deletes what an earlier charon left: what was unknown `before` and is so still."""
        known = spis(await ike.listed("list-sas", "list-sa"))
        try:
            states = await self._kernel.run(self._netns, list_states)
            left = orphans(states, known, before)
            if left:
                await self._kernel.run(self._netns, lambda net: delete_states(net, left))
                logger.info("states of an earlier charon are deleted", extra={"count": len(left)})
        except KernelError as error:
            logger.warning("states of an earlier charon may be left", extra={"why": str(error)})

    async def deleted(self, ike: Ike, names: Iterable[str]) -> list[tuple[str, int]]:
        """The connection and child of what charon takes for up and the kernel does not have."""
        found = [
            (name, one)
            for name in names
            for one in associations(await ike.listed("list-sas", "list-sa", {"ike": name}))
            if one.carries and one.child
        ]
        try:
            # After charon was asked: what it made meanwhile is there.
            states = await self._kernel.run(self._netns, list_states)
        except KernelError as error:
            logger.warning("states cannot be compared", extra={"why": str(error)})
            return []
        there = {state.spi for state in states}
        return [(name, one.child) for name, one in found if there.isdisjoint(one.spis)]


def orphans(states: Sequence[State], known: Set[int], before: Set[int]) -> list[State]:
    """The states with a reqid of ours that charon does not know, of those that it did not know
    `before`: an earlier charon's, which was killed."""
    return [
        state
        for state in states
        if state.reqid in REQIDS and state.spi not in known and state.spi in before
    ]
