"""The admin of a soak: reshapes pools, reserves addresses and reclaims while clients go on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from netspace import messages as m
from netspace.upkeep import Reclaimed
from soak import ground
from soak.asking import Asker
from soak.ground import CLUSTER, Pool
from soak.history import Answer, Freed, History

MOST_RESERVED = 4
SMALLEST, LARGEST = 8, 40
"""Between what the admin keeps the pools that do not grow by themselves, where it can."""


class Admin(Asker):
    """`run` until told to stop, then `settle`. Used in `async with`."""

    def __init__(self, number: int, endpoints: Sequence[str], history: History, seed: int) -> None:
        super().__init__(number, endpoints, history, f"{seed}/admin")
        self._reserved: list[tuple[str, str]] = []
        # What may be reserved yet by a request whose answer was lost.
        self._unsure: list[tuple[str, str]] = []
        self._actions: dict[Callable[[], Awaitable[None]], int] = {
            self.grow: 4,
            self.shrink: 4,
            self.change_cooldown: 2,
            self.follow_replicas: 4,
            self.reserve: 3,
            self.unreserve: 3,
            self.reclaim: 6,
        }

    async def run(self, stop: asyncio.Event) -> None:
        actions, weights = list(self._actions), list(self._actions.values())
        while not stop.is_set():
            [action] = self._random.choices(actions, weights)
            await action()
            await asyncio.sleep(self._random.uniform(0.05, 0.4))

    async def settle(self) -> None:
        """Gives back what was reserved, and lets pools be as they were at first."""
        self._reserved += [each for each in self._unsure if each not in self._reserved]
        while self._reserved:
            before = len(self._reserved)
            await self.unreserve()
            if len(self._reserved) == before:
                await asyncio.sleep(0.3)
        while not await self.replicas(ground.REPLICAS):
            await asyncio.sleep(0.3)

    async def grow(self) -> None:
        pool = self._random.choice([ground.BY_NAME[name] for name in ("yard", "shed", "flex")])
        size = self._random.randint(1, 4)
        change = m.ResizePool(size=f"{size}")
        await self._reshape(
            pool, f"grow by {size}", self._client.grow_pool(CLUSTER, pool.name, change)
        )

    async def shrink(self) -> None:
        pool = self._random.choice([ground.BY_NAME[name] for name in ("yard", "shed", "flex")])
        size = self._random.randint(1, 6)
        change = m.ResizePool(size=f"{size}")
        await self._reshape(
            pool, f"shrink by {size}", self._client.shrink_pool(CLUSTER, pool.name, change)
        )

    async def change_cooldown(self) -> None:
        pool = ground.BY_NAME[self._random.choice(("yard", "kept"))]
        cooldown = pool.cooldown + self._random.choice((0.0, 0.5, 1.0))
        change = m.ChangePool(cooldown=cooldown)
        await self._reshape(
            pool, f"cool-down {cooldown}", self._client.change_pool(CLUSTER, pool.name, change)
        )

    async def follow_replicas(self) -> None:
        await self.replicas(self._random.randint(0, ground.REPLICAS + ground.SURPLUS))

    async def replicas(self, count: int) -> bool:
        """How many the application has from now on."""
        pool = next(each for each in ground.POOLS if each.replicas)
        change = m.ChangePool(replicas=count, surplus=ground.SURPLUS)
        return await self._reshape(
            pool, f"{count} replicas", self._client.change_pool(CLUSTER, pool.name, change)
        )

    async def reserve(self) -> None:
        """An address that pods would get; of a pool that keeps none for names."""
        if len(self._reserved) >= MOST_RESERVED:
            return
        pool = ground.BY_NAME[self._random.choice(("wide", "flex"))]
        low, high = pool.span
        index = self._random.choice((*range(low, low + 40), *range(high - 4, high + 1)))
        address = pool.network.address(min(index, high))[0]
        assert address is not None
        asked = self._begin_bare("reserve", ifname=f"{pool.network.name}/{min(index, high)}")
        self._reserved.append((pool.network.name, address))
        request = m.Reserve(network=pool.network.name, address=address, note="soak")
        await self._end(asked, self._client.reserve(CLUSTER, request), _reserved)
        if asked.outcome == "unknown":
            self._unsure.append((pool.network.name, address))
        elif asked.outcome != "ok":
            self._reserved.remove((pool.network.name, address))

    async def unreserve(self) -> None:
        if not self._reserved:
            return
        network, address = self._random.choice(self._reserved)
        index = next(each for each in ground.NETWORKS if each.name == network).index(address)
        asked = self._begin_bare("unreserve", ifname=f"{network}/{index}")
        await self._end(
            asked, self._client.unreserve(CLUSTER, address, network), lambda _: Answer()
        )
        if asked.outcome == "ok" or asked.code == "not-found":
            self._reserved.remove((network, address))

    async def reclaim(self) -> None:
        """Frees what is proved to be nobody's now, instead of with the next round."""
        asked = self._begin_bare("reclaim")

        def told(answer: Reclaimed) -> Answer:
            asked.freed = tuple(
                Freed(each.network, each.slot, each.generation, each.container, each.ifname)
                for each in answer.freed
            )
            return Answer()

        await self._end(asked, self._client.reclaim(CLUSTER), told)

    async def _reshape(self, pool: Pool, what: str, request: Awaitable[m.Pool]) -> bool:
        asked = self._begin_bare("reshape", pool=pool.name, what=what)
        return await self._end(asked, request, lambda _: Answer()) is not None


def _reserved(answer: m.AddressEntry) -> Answer:
    return Answer(network=answer.network, slot=answer.slot, generation=answer.generation or 0)
