"""In which order a cluster's pools can be made, grown, shrunk and deleted.

Each move waits until the space it needs has become free: first what gives space back, then what
takes certain addresses, then what takes any. A move that never becomes possible is refused with
what stands in its way. Who holds which address is not known here: the server has the last word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from netspace.ranges import Ranges
from netspace.slots import SlotMap

Action = Literal["create", "grow", "shrink", "delete"]
FREEING: Final = ("delete", "shrink")
NOTHING: Final = Ranges()


@dataclass(frozen=True)
class Block:
    """A pool as a piece of its network: `ranges` with those of nested pools."""

    network: str
    parent: str | None
    kind: str
    ranges: Ranges = NOTHING


@dataclass(frozen=True)
class Move:
    """`pool` is made as `block`, deleted, or changes by `ranges`, or by `size` of any slots."""

    action: Action
    pool: str
    block: Block | None = None
    ranges: Ranges | None = None
    size: int = 0


@dataclass
class Space:
    """The cluster as far as it has been carried out."""

    slots: Mapping[str, SlotMap]
    totals: Mapping[str, Ranges]
    pools: dict[str, Block] = field(default_factory=dict)
    _free: dict[tuple[str, str | None], Ranges] = field(default_factory=dict)

    def nested(self, pool: str) -> Iterator[str]:
        return (name for name, block in self.pools.items() if block.parent == pool)

    def own(self, pool: str) -> Ranges:
        """A pool's slots less those of pools nested in it."""
        return self.pools[pool].ranges - Ranges(
            interval for name in self.nested(pool) for interval in self.pools[name].ranges.intervals
        )

    def free(self, block: Block) -> Ranges:
        """What a pool in this place can be carved from; remembered, since plans may be long."""
        place = (block.network, block.parent)
        if place not in self._free:
            self._free[place] = self._reckoned(block)
        return self._free[place]

    def _reckoned(self, block: Block) -> Ranges:
        if block.parent is not None:
            return self.own(block.parent) if block.parent in self.pools else NOTHING
        return self.totals[block.network] - Ranges(
            interval
            for other in self.pools.values()
            if other.network == block.network and other.parent is None
            for interval in other.ranges.intervals
        )

    def obstacle(self, move: Move) -> str | None:
        """Why the move is not possible now."""
        if move.action == "delete":
            nested = sorted(self.nested(move.pool))
            return f"pools are nested in it: {', '.join(nested[:5])}" if nested else None
        if move.action == "shrink":
            return self._cannot_give(move)
        assert move.block is not None
        if move.action == "create" and move.block.kind == "default":
            for name, other in self.pools.items():
                if other.kind == "default":
                    return f"pool {name} is the cluster's default pool, and stays"
        if move.block.parent is not None and move.block.parent not in self.pools:
            return f"there is no pool {move.block.parent} to carve it from"
        return self._cannot_take(move, move.block)

    def _cannot_give(self, move: Move) -> str | None:
        block = self.pools[move.pool]
        if move.ranges is None:
            own = self.own(move.pool).size
            if move.size > own or move.size == block.ranges.size:
                return f"it can give up {own} addresses besides its nested pools, not {move.size}"
            return None
        inside = move.ranges & block.ranges - self.own(move.pool)
        if inside:
            return f"{self._shown(block, inside)} is in a nested pool"
        if move.ranges == block.ranges:
            return "it would have nothing left, and what it shall have instead is not free before"
        return None

    def _cannot_take(self, move: Move, block: Block) -> str | None:
        free = self.free(block)
        source = f"pool {block.parent}" if block.parent else f"network {block.network}"
        if move.ranges is None:
            if move.size > free.size:
                return f"{source} has {free.size} free addresses then, not {move.size}"
            return None
        missing = move.ranges - free
        if not missing:
            return None if move.ranges else "none of its addresses can be given"
        for name, other in self.pools.items():
            if (other.network, other.parent) == (block.network, block.parent):
                shared = missing & other.ranges
                if shared:
                    return f"{self._shown(block, shared)} is in pool {name}"
        return f"{self._shown(block, missing)} is not in {source}"

    def _shown(self, block: Block, ranges: Ranges) -> str:
        return ", ".join(self.slots[block.network].format_ranges(ranges)[:3])

    def make(self, move: Move) -> None:
        """Carries a possible move out; of a size the server's choice is taken to be its usual."""
        block = self.pools.get(move.pool) or move.block
        assert block is not None
        free = self.free(block)
        self._free.pop((block.network, move.pool), None)
        if move.action == "delete":
            self._free.pop((block.network, block.parent))
            del self.pools[move.pool]
            return
        if move.action == "shrink":
            gone = self.own(move.pool).tail(move.size) if move.ranges is None else move.ranges
            self.pools[move.pool] = replace(block, ranges=block.ranges - gone)
            self._free[block.network, block.parent] = free | gone
            return
        taken = move.ranges
        if taken is None:
            taken = free.block(move.size) or free.head(move.size)
        self.pools[move.pool] = replace(block, ranges=block.ranges | taken)
        self._free[block.network, block.parent] = free - taken


def ordered(space: Space, moves: Sequence[Move]) -> tuple[list[Move], list[tuple[Move, str]]]:
    """The moves in an order that works, and those that no order makes possible, with the reason.
    The space is changed along."""
    waiting = sorted(moves, key=_rank)
    done: list[Move] = []
    while True:
        for move in waiting:
            if space.obstacle(move) is None:
                break
        else:
            break
        space.make(move)
        waiting.remove(move)
        done.append(move)
    return done, [(move, space.obstacle(move) or _LATER) for move in waiting]


_LATER: Final = "it waits for what cannot be done"


def _rank(move: Move) -> int:
    if move.action in FREEING:
        return 0
    return 1 if move.ranges is not None else 2
