"""One term of leadership: every change of the state goes through here, one after the other.

A change is decided on the state as it is, and compares in its transaction that this server leads
still and that nothing was changed since. So an answer that was lost does no harm: whatever of it is
still on its way is refused once something else has been written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from federation.server.place import Place
from federation.server.state import State
from netspace.passing import not_leader, outcome_unknown
from netspace.problems import Problem
from statestore import (
    Compare,
    Leader,
    Op,
    OutcomeUnknown,
    OutOfSpace,
    Put,
    StoreError,
    TooLarge,
    Txn,
)

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a change is decided anew because something was written meanwhile."""

PAUSE = 0.2
"""Seconds between two attempts to learn where the state stands."""

PATIENCE = 10.0
"""Seconds until a change that was written must have been heard of."""

Decide = Callable[[State], Iterable[Op]]


class Term:
    """The leader's writes."""

    def __init__(self, place: Place, leader: Leader) -> None:
        self._place = place
        self._leader = leader
        self._lock = asyncio.Lock()

    @property
    def leads(self) -> bool:
        return self._leader.leads

    async def change(self, decide: Decide) -> State:
        """Writes what is decided, and gives the state with it. What `decide` raises is raised; no
        operations: nothing is written."""
        async with self._lock:
            for _ in range(ATTEMPTS):
                state = self._place.state
                operations = tuple(decide(state))
                if not operations:
                    return state
                if not self._leader.leads:
                    raise not_leader()
                serial = self._place.keys.serial
                compares = (self._leader.fence, Compare.modified_at(serial, state.serial))
                txn = Txn(compares, (Put(serial, b""), *operations))
                try:
                    result = await self._place.store.txn(txn)
                except OutcomeUnknown as error:
                    log.warning("a change's outcome is not known", extra={"why": str(error)})
                    await self._settle()
                    raise outcome_unknown() from None
                except StoreError as error:
                    raise told(error) from None
                if result.succeeded:
                    return await self._reached(result.revision)
                await self._settle()
        raise Problem("changed", "something changed meanwhile", do="ask again", retry_after=1)

    async def note(self, key: bytes, value: bytes) -> None:
        """Writes what nobody waits for and nothing follows from."""
        try:
            await self._place.store.txn(Txn((self._leader.fence,), (Put(key, value),)))
        except StoreError as error:
            log.warning("a note could not be written", extra={"why": str(error)})

    async def _reached(self, revision: int) -> State:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._place.mirror.reached(revision)
        except TimeoutError:
            raise outcome_unknown() from None

    async def _settle(self) -> None:
        """Writes something else, so that nothing that is still on its way can come after it."""
        while True:
            try:
                put = Put(self._place.keys.serial, b"")
                result = await self._place.store.txn(Txn((self._leader.fence,), (put,)))
            except StoreError:
                if not self._leader.leads:
                    raise not_leader() from None
                await asyncio.sleep(PAUSE)
                continue
            if not result.succeeded:
                raise not_leader()
            await self._reached(result.revision)
            return


def told(error: StoreError) -> Problem:
    """The store's error as a problem."""
    if isinstance(error, TooLarge):
        return Problem("too-large", f"etcd does not take so much at once: {error}")
    if isinstance(error, OutOfSpace):
        return Problem("state-full", str(error))
    return Problem("state-unavailable", str(error), retry_after=1)
