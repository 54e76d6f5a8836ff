"""What goes wrong in a soak: processes, links and the state store, each in a lane of its own.

In a lane one fault follows the other, chosen by the seed; lanes go on at the same time, so that
faults meet. What a fault broke it mends itself; at the end `World.heal` and `Nemesis.mend` make
sure of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from random import Random

from lab.etcd import Etcd, EtcdError
from lab.proxy import Proxy
from soak.filling import StoreFaults
from soak.history import History
from soak.links import CLIENTS
from soak.world import Server, World

Breaking = Callable[[], Awaitable[str]]


@dataclass(frozen=True)
class Lane:
    """`faults` with their weights, and how long it is quiet between two of them, in seconds."""

    name: str
    faults: Mapping[Breaking, int]
    quiet: tuple[float, float]


class Nemesis:
    """`run` until `stop` is set, then `World.heal` and `mend`."""

    def __init__(self, world: World, history: History, seed: int, stop: asyncio.Event) -> None:
        self._world = world
        self._history = history
        self._seed = seed
        self._random = Random(f"{seed}/nemesis")
        self._stop = stop
        processes: dict[Breaking, int] = {
            self.kill_server: 4,
            self.pause_server: 4,
            self.end_server: 2,
            self.kill_member: 3,
            self.pause_member: 3,
            self.kill_most_members: 1,
        }
        links: dict[Breaking, int] = {
            self.cut_clients: 2,
            self.hold_clients: 3,
            self.lose_answers: 3,
            self.delay_clients: 1,
            self.cut_from_servers: 2,
            self.hold_from_servers: 2,
            self.cut_from_store: 3,
            self.cut_from_member: 2,
            self.fill_queue: 3,
            self.lose_answers_of_store: 4,
            self.delay_store: 2,
            self.part_member: 3,
            self.part_two: 2,
            self.delay_members: 1,
        }
        if world.links is not None:
            links |= {self.unplug_server: 5, self.unplug_member: 4, self.unplug_clients: 1}
            if world.links.slow:
                links |= {self.slow_server: 3, self.slow_member: 3}
        self._store = StoreFaults(world, history, self._some, self._stop.is_set)
        store: dict[Breaking, int] = {self._store.compact: 3, self._store.fill_store: 1}
        self._lanes = (
            Lane("processes", processes, (1.0, 4.0)),
            Lane("links", links, (0.3, 2.0)),
            Lane("store", store, (4.0, 8.0)),
        )

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for lane in self._lanes:
                group.create_task(self._follow(lane))

    async def _follow(self, lane: Lane) -> None:
        random = Random(f"{self._seed}/nemesis/{lane.name}")
        faults, weights = list(lane.faults), list(lane.faults.values())
        await self._last(random.uniform(*lane.quiet))
        while not self._stop.is_set():
            [breaking] = random.choices(faults, weights)
            fault = self._history.fault(breaking.__name__)
            with contextlib.suppress(EtcdError):
                fault.what = f"{breaking.__name__}: {await breaking()}"
            fault.ended = self._history.seconds()
            await self._last(random.uniform(*lane.quiet))

    async def _last(self, seconds: float) -> None:
        """Waits, no longer than the soak goes on."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _some(self, shortest: float, longest: float) -> None:
        await self._last(self._random.uniform(shortest, longest))

    def _server(self) -> int:
        """Mostly the one that leads."""
        leading = self._world.leading()
        if leading is not None and self._random.random() < 0.6:
            return leading
        return self._random.randrange(len(self._world.servers))

    async def mend(self) -> None:
        """Gives etcd its space back. Raises `EtcdError` if that cannot be done within a minute."""
        await self._store.mend()

    # Processes

    async def kill_server(self) -> str:
        server = self._world.servers[self._server()]
        await self._away(server, signal.SIGKILL)
        return server.name

    async def end_server(self) -> str:
        server = self._world.servers[self._server()]
        await self._away(server, signal.SIGTERM)
        return server.name

    async def _away(self, server: Server, number: signal.Signals) -> None:
        await server.finish(number)
        await self._some(0.1, 3)
        server.start()

    async def pause_server(self) -> str:
        server = self._world.servers[self._server()]
        server.send(signal.SIGSTOP)
        await self._some(0.5, 6)
        server.send(signal.SIGCONT)
        return server.name

    async def kill_member(self) -> str:
        return await self._kill_members(1)

    async def kill_most_members(self) -> str:
        return await self._kill_members(len(self._world.members) // 2 + 1)

    async def _kill_members(self, count: int) -> str:
        chosen = self._random.sample(self._world.members, count)
        for member in chosen:
            member.kill()
        await self._some(0.2, 4)
        for member in chosen:
            member.start(wait=False)
        await self._some(1, 2)
        return _names(*chosen)

    async def pause_member(self) -> str:
        member = self._random.choice(self._world.members)
        member.pause()
        await self._some(0.3, 5)
        member.resume()
        return member.name

    # Links

    async def cut_clients(self) -> str:
        number = self._server()
        await self._cut(self._world.front[number])
        return self._world.servers[number].name

    async def cut_from_servers(self) -> str:
        number = self._server()
        await self._cut(self._world.between[number])
        return self._world.servers[number].name

    async def cut_from_store(self) -> str:
        number = self._server()
        await self._cut(*self._world.stores[number])
        return self._world.servers[number].name

    async def cut_from_member(self) -> str:
        number = self._server()
        at = self._random.randrange(len(self._world.members))
        await self._cut(self._world.stores[number][at])
        return f"{self._world.servers[number].name} from {self._world.members[at].name}"

    async def hold_clients(self) -> str:
        number = self._server()
        await self._hold(0.5, 6, self._world.front[number])
        return self._world.servers[number].name

    async def hold_from_servers(self) -> str:
        number = self._server()
        await self._hold(0.5, 6, self._world.between[number])
        return self._world.servers[number].name

    async def fill_queue(self) -> str:
        """Nothing of a server's gets through to etcd: its queue fills."""
        number = self._server()
        await self._hold(0.5, 4, *self._world.stores[number])
        return self._world.servers[number].name

    async def lose_answers(self) -> str:
        number = self._server()
        await self._lose(0.2, 2, self._world.front[number])
        return self._world.servers[number].name

    async def lose_answers_of_store(self) -> str:
        """What the server writes is written; it does not learn so."""
        number = self._server()
        await self._lose(0.1, 1.5, *self._world.stores[number])
        return self._world.servers[number].name

    async def delay_clients(self) -> str:
        number = self._server()
        await self._delay(self._world.front[number])
        return self._world.servers[number].name

    async def delay_store(self) -> str:
        number = self._server()
        await self._delay(*self._world.stores[number])
        return self._world.servers[number].name

    async def delay_members(self) -> str:
        await self._delay(*self._world.peers)
        return "all"

    async def part_member(self) -> str:
        """A member from all others."""
        at = self._random.randrange(len(self._world.members))
        others = [other for other in range(len(self._world.members)) if other != at]
        await self._part(at, others)
        return self._world.members[at].name

    async def part_two(self) -> str:
        """Two members from one another; the others reach both."""
        if len(self._world.members) < 2:
            return "none"
        one, two = self._random.sample(range(len(self._world.members)), 2)
        await self._part(one, [two])
        return _names(self._world.members[one], self._world.members[two])

    async def unplug_server(self) -> str:
        return await self._unplug(self._world.servers[self._server()].name)

    async def unplug_member(self) -> str:
        return await self._unplug(self._random.choice(self._world.members).name)

    async def unplug_clients(self) -> str:
        return await self._unplug(CLIENTS)

    async def _unplug(self, name: str) -> str:
        """What is on its way is lost; no end of a connection hears of it."""
        links = self._world.links
        assert links is not None
        await asyncio.to_thread(links.pull, name)
        await self._some(0.3, 5)
        await asyncio.to_thread(links.plug, name)
        return name

    async def slow_server(self) -> str:
        return await self._slow(self._world.servers[self._server()].name)

    async def slow_member(self) -> str:
        return await self._slow(self._random.choice(self._world.members).name)

    async def _slow(self, name: str) -> str:
        links = self._world.links
        assert links is not None
        late, loss = self._random.randint(10, 200), self._random.randint(0, 15)
        await asyncio.to_thread(links.delay, name, late, loss)
        await self._some(1, 5)
        await asyncio.to_thread(links.quicken, name)
        return f"{name} by {late} ms, {loss} % lost"

    async def _part(self, at: int, others: list[int]) -> None:
        members, peers = self._world.members, self._world.peers
        ends = [(peers[at], members[other].name) for other in others]
        ends += [(peers[other], members[at].name) for other in others]
        for proxy, name in ends:
            proxy.refused.add(name)
            proxy.cut(name)
        await self._some(0.5, 5)
        for proxy, name in ends:
            proxy.refused.discard(name)

    async def _cut(self, *proxies: Proxy) -> None:
        for proxy in proxies:
            proxy.refused.add("")
            proxy.cut()
        await self._some(0.3, 5)
        for proxy in proxies:
            proxy.refused.discard("")

    async def _hold(self, shortest: float, longest: float, *proxies: Proxy) -> None:
        for proxy in proxies:
            proxy.hold()
        await self._some(shortest, longest)
        for proxy in proxies:
            proxy.flow()

    async def _lose(self, shortest: float, longest: float, *proxies: Proxy) -> None:
        for proxy in proxies:
            proxy.losing_answers = True
        await self._some(shortest, longest)
        for proxy in proxies:
            proxy.losing_answers = False
            # What is left of the conversation makes no sense to either end.
            proxy.cut()

    async def _delay(self, *proxies: Proxy) -> None:
        seconds = self._random.uniform(0.02, 0.25)
        for proxy in proxies:
            proxy.delay = seconds
        await self._some(1, 4)
        for proxy in proxies:
            proxy.delay = 0.0


def _names(*members: Etcd) -> str:
    return " and ".join(member.name for member in members)
