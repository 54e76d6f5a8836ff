"""How each figure is measured.

What is compared is measured in turns, round by round, so that a machine that grows slower meanwhile
does so for all of them. An empty server gets a cluster of its own for every round, as the smaller
ones of those that hold something do: a round leaves tens of thousands of addresses behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Self

from bench import attachments, certificates, fill, gap, load_wrk, raw
from bench.figures import HELD, SHAPES, Figures
from bench.generator import Asker, load
from bench.load_wrk import LoadFailed
from bench.place import Bare, Place
from ipam_server.client import Client
from netspace import messages as m
from netspace.tls import Tls, client_context

Say = Callable[[str], None]

MILLION = HELD[-1]
CONNECTIONS = 64
BATCHING, BATCH = 8, 100
"""Connections that ask in batches, and the allocations of a batch."""

NODE = "node-0001"
IDLE = 2.0
"""Seconds without a request after which a server counts as idle."""

BLOCK = 100
"""Allocations in a row, then as many releases, where pools of several sizes are compared: the
smallest has 253 addresses."""

SHAPED = {
    "slash24": m.NewNetwork(name=fill.NETWORK, vlan=911, ipv4="10.1.0.0/24"),
    "slash8": m.NewNetwork(name=fill.NETWORK, vlan=912, ipv4="10.0.0.0/8"),
    "slash64": m.NewNetwork(name=fill.NETWORK, vlan=913, ipv6="fd00:11::/64"),
}


@dataclass(frozen=True, slots=True)
class Scale:
    """`seconds` of each load; `held`: how many addresses stand for each size of the rows' names;
    `bound`: seconds after which the bench gives up; `usual`: how long it takes, in words."""

    rounds: int
    seconds: float
    held: Mapping[int, int]
    bound: float
    usual: str


WHOLE = Scale(5, 4, {size: size for size in HELD}, 2400, "about ten minutes")
QUICK = Scale(1, 1, dict(zip(HELD, (200, 1000, 3000), strict=True)), 180, "less than a minute")


class Bench:
    """The places of one run, made when a row first needs them, and the rounds on them."""

    def __init__(self, folder: Path, scale: Scale, figures: Figures, say: Say) -> None:
        self._folder, self._scale, self._figures, self._say = folder, scale, figures, say
        self._places: dict[str, Place] = {}
        self._stack = contextlib.AsyncExitStack()
        self._ca = folder / "certificates"
        self._server: Tls | None = None
        self._tags = (f"{number:08x}" for number in itertools.count())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def measure(self, names: Sequence[str]) -> None:
        """Measures the rows of these names. Raises `Failed` or `LoadFailed`."""
        if "rss_mib_idle" in names:
            await self._idle()
        if {"cold_start_s_held_1000000", "rss_mib_held_1000000"} & set(names):
            await self._cold_starts()
        if "etcd_bytes_per_address" in names:
            await self._million()
        await self._in_turns(names, self._rates())
        await self._in_turns(names, self._times())
        await self._shapes(names)
        for name, held in (("empty", 0), (f"held_{MILLION}", self._scale.held[MILLION])):
            if f"leader_gap_s_{name}" in names:
                await self._gaps(f"leader_gap_s_{name}", held)
        await self._generators()

    async def _in_turns(
        self, names: Sequence[str], ways: Mapping[str, Callable[[], Awaitable[float]]]
    ) -> None:
        wanted = [name for name in ways if name in names]
        for number in range(self._scale.rounds if wanted else 0):
            for name in wanted:
                self._add(name, await ways[name](), number)

    def _add(self, name: str, value: float, number: int) -> None:
        self._figures.add(name, value)
        self._say(f"round {number + 1} of {self._scale.rounds}: {name} {value:,.6g}")

    # Places

    async def _papers(self) -> Tls:
        """A server's certificate, and the authority that makes the nodes'."""
        if self._server is None:
            self._server = await asyncio.to_thread(certificates.server, self._ca)
        return self._server

    async def _place(self, name: str, tls: Tls | None = None) -> Place:
        if name not in self._places:
            files = {} if tls is None else {"tls": {k: str(getattr(tls, k)) for k in tls.__slots__}}
            place = Place(self._folder / name, **files)
            self._places[name] = await self._stack.enter_async_context(place)
        return self._places[name]

    async def _million(self) -> Place:
        """The place that holds a million addresses; what they take in etcd is measured with it."""
        if "million" in self._places:
            return self._places["million"]
        held = self._scale.held[MILLION]
        place = await self._place("million")
        before = await asyncio.to_thread(place.stored)
        began = time.monotonic()
        await fill.cluster(place.etcd.url, "million", held)
        self._say(f"{held:,} addresses written in {time.monotonic() - began:.0f} s")
        # One figure: what is stored does not vary.
        stored = await asyncio.to_thread(place.stored)
        self._add("etcd_bytes_per_address", (stored - before) / held, 0)
        return place

    async def _fresh(self, place: Place, held: int = 0, **shape: m.NewNetwork) -> str:
        """A cluster that no round has used yet."""
        name = f"c{next(self._tags)}"
        await place.cluster(name, held, **shape)
        return name

    # Rates

    def _rates(self) -> dict[str, Callable[[], Awaitable[float]]]:
        return {
            "raw_puts_per_s": self._raw_puts,
            "alloc_per_s_64": partial(self._rate, "empty", 0),
            **{
                f"alloc_per_s_held_{size}": partial(
                    self._rate, f"held_{size}", self._scale.held[size]
                )
                for size in HELD[:-1]
            },
            f"alloc_per_s_held_{MILLION}": self._rate_million,
            "alloc_per_s_64_mtls": self._rate_mtls,
            "alloc_per_s_batches": self._rate_batches,
            "alloc_cpu_us_64": partial(self._processor, CONNECTIONS, 0),
            "alloc_cpu_us_batches": partial(self._processor, BATCHING, BATCH),
        }

    async def _raw_puts(self) -> float:
        place = await self._place("empty")
        return await raw.puts(place.etcd.url, next(self._tags), CONNECTIONS, self._scale.seconds)

    async def _rate(self, name: str, held: int) -> float:
        place = await self._place(name)
        cluster = await self._fresh(place, held)
        return (await self._allocate(place, cluster, CONNECTIONS, held)).per_second

    async def _rate_million(self) -> float:
        place = await self._million()
        await place.serving("million")
        held = self._scale.held[MILLION]
        return (await self._allocate(place, "million", CONNECTIONS, held)).per_second

    async def _rate_mtls(self) -> float:
        """All from one node, since a certificate is one node's."""
        place = await self._place("tls", tls=await self._papers())
        cluster = await self._fresh(place)
        path, host = f"/v1/clusters/{cluster}/allocations", place.server.secure
        papers = await asyncio.to_thread(certificates.node, self._ca, cluster, NODE)
        make = partial(_post, host, path, next(self._tags))
        context = client_context(papers)
        return (await load(host, make, CONNECTIONS, self._scale.seconds, context)).per_second

    async def _rate_batches(self) -> float:
        place = await self._place("empty")
        cluster = await self._fresh(place)
        return (await self._allocate(place, cluster, BATCHING, 0, BATCH)).per_second * BATCH

    async def _processor(self, connections: int, batch: int) -> float:
        """Microseconds of the server's processor for each address that was given."""
        place = await self._place("empty")
        cluster = await self._fresh(place)
        before = place.server.processor()
        await self._allocate(place, cluster, connections, 0, batch)
        spent = place.server.processor() - before
        async with Client([place.server.url]) as client:
            return spent * 1e6 / (await client.pool(cluster, fill.POOL)).used

    async def _allocate(
        self, place: Place, cluster: str, connections: int, held: int, batch: int = 0
    ) -> load_wrk.Load:
        """A load of allocations; what was answered is looked for in the state afterwards."""
        host, tag = place.server.host, next(self._tags)
        path = f"/v1/clusters/{cluster}/{'allocation-batches' if batch else 'allocations'}"
        done = await load_wrk.allocations(host, path, tag, connections, self._scale.seconds, batch)
        given = done.requests * (batch or 1)
        async with Client([place.server.url]) as client:
            used = (await client.pool(cluster, fill.POOL)).used
        if used < held + given:
            raise LoadFailed(f"{given} allocations were answered, {used - held} are held")
        return done

    # Times of single requests

    def _times(self) -> dict[str, Callable[[], Awaitable[float]]]:
        return {
            "raw_txn_ms": self._raw_txn,
            "alloc_ms_1": self._one_by_one,
        }

    async def _raw_txn(self) -> float:
        place = await self._place("empty")
        return await raw.transactions(place.etcd.url, next(self._tags), self._scale.seconds)

    async def _one_by_one(self) -> float:
        place = await self._place("empty")
        return (await self._allocate(place, await self._fresh(place), 1, 0)).median_ms

    async def _shapes(self, names: Sequence[str]) -> None:
        wanted = [shape for shape in SHAPES if f"alloc_ms_1_{shape}" in names]
        for number in range(self._scale.rounds if wanted else 0):
            for shape, found in (await self._shaped(wanted)).items():
                self._add(f"alloc_ms_1_{shape}", found, number)

    async def _shaped(self, shapes: Sequence[str]) -> dict[str, float]:
        """Milliseconds, the median, of an allocation over one connection from a pool of each size.
        They take turns at every request: the machine differs more from second to second than the
        sizes do."""
        place = await self._place("empty")
        clusters = {each: await self._fresh(place, network=SHAPED[each]) for each in shapes}
        paths = {shape: f"/v1/clusters/{cluster}/" for shape, cluster in clusters.items()}
        host, tag = place.server.host, next(self._tags)
        times = {shape: list[float]() for shape in shapes}
        asker = await Asker.connect(host)
        try:
            until = time.perf_counter() + self._scale.seconds * len(shapes)
            for block in itertools.count():
                numbers = range(block * BLOCK, (block + 1) * BLOCK)
                for number, shape in itertools.product(numbers, shapes):
                    body = attachments.encode(attachments.request(tag, number))
                    request = attachments.post(host, paths[shape] + "allocations", body)
                    begun = time.perf_counter()
                    status, answer = await asker.ask(request)
                    times[shape].append(time.perf_counter() - begun)
                    if status != 200:
                        raise LoadFailed(f"an allocation: {answer.decode(errors='replace')}")
                for number, shape in itertools.product(numbers, shapes):
                    body = attachments.encode(attachments.release(tag, number))
                    await asker.ask(attachments.post(host, paths[shape] + "releases", body))
                if time.perf_counter() > until:
                    return {shape: median(found) * 1e3 for shape, found in times.items()}
        finally:
            asker.close()
        raise AssertionError

    # Starts and memory

    async def _idle(self) -> None:
        place = await self._place("empty")
        await place.cluster("idle")
        for number in range(self._scale.rounds):
            await asyncio.to_thread(place.server.leave)
            await place.serving("idle")
            await asyncio.sleep(IDLE)
            self._add("rss_mib_idle", place.server.memory()[0], number)

    async def _cold_starts(self) -> None:
        """From the start of the process to its first allocation; then its memory under load."""
        place = await self._million()
        held = self._scale.held[MILLION]
        for number in range(self._scale.rounds):
            await asyncio.to_thread(place.server.leave)
            asked = attachments.request(next(self._tags), 0)
            began = time.monotonic()
            place.server.start()
            await place.until(partial(self._ask, place, asked), "it serves")
            self._add("cold_start_s_held_1000000", time.monotonic() - began, number)
            await self._allocate(place, "million", CONNECTIONS, held)
            now, most = place.server.memory()
            self._add("rss_mib_held_1000000", now, number)
            self._figures.besides["rss_mib_held_1000000_at_most"] = most

    async def _ask(self, place: Place, asked: m.AllocateRequest) -> None:
        async with Client([place.server.url]) as client:
            await client.allocate("million", asked)

    # Leaders

    async def _gaps(self, name: str, held: int) -> None:
        if held:
            place, cluster = await self._million(), "million"
        else:
            place, cluster = await self._place("gap"), "gap"
            await place.cluster(cluster)
        place.add_servers(3 - len(place.servers))
        await place.serving(cluster)
        for number in range(self._scale.rounds):
            await gap.settled(place, cluster)
            self._add(name, await gap.measure(place, cluster, next(self._tags)), number)
        for server in place.servers[1:]:
            await asyncio.to_thread(server.leave)

    # What the generators can do

    async def _generators(self) -> None:
        seconds, tls = self._scale.seconds, await self._papers()
        async with Bare(self._folder) as bare:
            wrk = await load_wrk.allocations(bare.host, "/v1", "0", CONNECTIONS, seconds)
            own = await load(bare.host, partial(_post, bare.host, "/v1", "0"), CONNECTIONS, seconds)
        async with Bare(self._folder, tls) as bare:
            make, context = partial(_post, bare.host, "/v1", "0"), client_context(tls)
            secure = await load(bare.host, make, CONNECTIONS, seconds, context)
        for name, found in (("wrk", wrk), ("own_generator", own), ("own_generator_mtls", secure)):
            self._figures.besides[f"{name}_alone_per_s"] = found.per_second


def _post(host: str, path: str, tag: str, number: int) -> bytes:
    body = attachments.encode(attachments.request(tag, number, NODE))
    return attachments.post(host, path, body)
