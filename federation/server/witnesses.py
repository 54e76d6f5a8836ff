"""What other members have seen of this cluster that it does not know itself: its state was set back
to an earlier one, and is put after what they have seen.

Any member can say so, truly or not. So it is believed now and then alone, and only within bounds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from federation.server.keys import Keys
from federation.server.state import State
from federation.server.term import Term
from netspace.messages.federation import Version
from statestore import Op, Put

REST: Final = 60.0
"""Seconds between two such changes for members of one federation at least: once is enough for a
state that was set back."""

FURTHEST: Final = 1000
"""Changes that a state can have been set back by: whoever has seen more is not believed."""


class Witnesses:
    """Of one term."""

    def __init__(self, keys: Keys, term: Term) -> None:
        self._keys = keys
        self._term = term
        self._believed: dict[tuple[str, str], float] = {}

    async def say(self, federation: str, version: Version | None, number: int) -> None:
        """A member has seen this version of the cluster's information, and this number of the
        federation; None and 0: no later one."""
        keys, now = self._keys, time.monotonic()
        parts: dict[str, Callable[[State], Iterable[Op]]] = {
            "epoch": lambda state: epoch_after(keys, state, federation, version),
            "number": lambda state: number_after(keys, state, federation, number),
        }
        for what, decide in parts.items():
            at = (federation, what)
            if now - self._believed.get(at, -math.inf) >= REST:
                # Beforehand: many may say it at once.
                self._believed[at] = now
                if not await self._changed(decide):
                    del self._believed[at]

    async def _changed(self, decide: Callable[[State], Iterable[Op]]) -> bool:
        """Whether there was anything to write."""
        decided: tuple[Op, ...] = ()

        def noted(state: State) -> Iterable[Op]:
            nonlocal decided
            decided = tuple(decide(state))
            return decided

        await self._term.change(noted)
        return bool(decided)


def epoch_after(keys: Keys, state: State, federation: str, version: Version | None) -> Iterable[Op]:
    """Begins a life of the state after the one that was seen."""
    own = state.own.get(federation)
    if own is None or version is None or version <= own.version:
        return
    if version.epoch - state.epoch < FURTHEST:
        yield Put(keys.epoch, str(max(state.epoch, version.epoch) + 1).encode())


def number_after(keys: Keys, state: State, federation: str, number: int) -> Iterable[Op]:
    """The same for the number of a federation that this cluster keeps."""
    record = state.federations.get(federation)
    if record is not None and 0 < number - record.federation.number < FURTHEST:
        changed = msgspec.structs.replace(record.federation, number=number + 1)
        new = msgspec.structs.replace(record, federation=changed)
        yield Put(keys.federation(federation), msgspec.json.encode(new))
