"""Servers over an etcd that is compacted, and whose time of day jumps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ipam_server.client import Client
from ipam_server.directory import Directory
from ipam_server.service import ClusterService
from lab import programs
from lab.etcd import Etcd
from lab.server import Server
from netspace import messages as m
from netspace.problems import Problem
from statestore import Store
from tests.etcd.service_world import ask, check, find, make, serving, term_of, until
from tests.etcd.test_server_process import release, request, wait_ready

YEAR = 365 * 86400


def test_leader_and_followers_go_on_while_etcd_is_compacted_again_and_again(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as first, Store([etcd.url]) as store:
            service = await make(first)
            term = term_of(service)
            async with serving(etcd.url, server="s2") as second:
                follower = await until(lambda: _known(second))
                answers = []
                for number in range(60):
                    answers.append(await service.allocate(ask(f"c{number}", f"p{number}")))
                    if number % 5 == 0:
                        await asyncio.to_thread(etcd.compact, await store.revision())
                last = answers[-1].generation
                await until(lambda: _reached(follower, last))
                assert follower.local_status().used == 60
                assert term_of(service) is term and service.leading
                # What the follower has is what a new leader goes on with.
                await service.retire()
                again = await find(second)
                answers.append(await until(lambda: again.allocate(ask("last", "last"))))
                await check(store, again, *answers)

    asyncio.run(scenario())


def test_a_server_that_was_cut_off_while_etcd_was_compacted_reads_anew(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as first, Store([etcd.url]) as store:
            service = await make(first)
            async with serving(etcd.url, server="s2") as second:
                follower = await until(lambda: _known(second))
                await follower._following.pause()
                answers = [await service.allocate(ask(f"c{n}", f"p{n}")) for n in range(10)]
                await asyncio.to_thread(etcd.compact, await store.revision())
                assert follower.local_status().used == 0
                follower._following.resume(anew=False)
                await until(lambda: _reached(follower, answers[-1].generation))
                assert follower.local_status().used == 10

    asyncio.run(scenario())


async def _known(directory: Directory) -> ClusterService | None:
    service = directory.cluster("blue")
    return service if service.state.revision else None


async def _reached(service: ClusterService, revision: int) -> bool:
    return service.state.revision >= revision


class Clock:
    """The time of day of a server, which jumps; the time that passes does not."""

    def __init__(self, folder: Path) -> None:
        library = programs.faketime()
        if library is None:
            pytest.skip("needs libfaketime: ./run test brings it")
        self._file = folder / "clock"
        self.jump(0)
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, seconds: int) -> None:
        # Renamed: a half-written file is never read.
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self._file)


def test_a_time_of_day_that_jumps_a_year_either_way_changes_nothing(
    etcd: Etcd, make_server: Callable[..., Server], tmp_path: Path
) -> None:
    """Neither cool-down nor retention, neither the lease nor how long history and audit last."""
    clock = Clock(tmp_path)
    server = make_server(etcd.url, clock_interval=0.5, history={"days": 1}, audit={"days": 1})
    server.environment = clock.environment
    server.start()
    wait_ready(server)

    async def scenario() -> None:
        async with Client([server.url]) as client:
            await client.create_cluster(m.NewCluster(name="east"))
            await client.create_network("east", m.NewNetwork(name="blue", ipv4="10.9.0.0/24"))
            for name, retention in (("all", 0), ("kept", 60)):
                await client.create_pool(
                    "east",
                    m.NewPool(
                        name=name, kind="default" if name == "all" else "netspace", network="blue",
                        size="1", cooldown=4, retention=retention,
                        namespaces=[] if name == "all" else ["*"],
                    ),
                )  # fmt: skip
            leader = (await client.status()).clusters[0].leader
            kept = m.Selection(netspace="kept")
            for number, selection in ((2, kept), (1, m.Selection())):
                await client.allocate("east", chosen(number, selection))
                began = time.monotonic()
                await client.release("east", release(number))
            released = time.monotonic()
            for jump in (YEAR, -YEAR, 0, -YEAR, YEAR):
                clock.jump(jump)
                if time.monotonic() - began < 3:
                    assert await refusal(client, chosen(3, m.Selection())) == "pool-cooling"
                assert await refusal(client, chosen(4, kept)) == "pool-exhausted"
                assert (await client.status()).clusters[0].leader == leader
                await asyncio.sleep(0.5)
            # The cool-down was over when it should be, by the time that passed.
            await asyncio.sleep(max(0.0, released + 4.2 - time.monotonic()))
            given = await client.allocate("east", chosen(3, m.Selection()))
            assert 4.0 <= time.monotonic() - began < 60
            history = await client.address_history("east", str(given.ipv4))
            assert [each.pod for each in history.items] == ["web-3", "web-1"]
            assert {each.action for each in (await client.audit("east")).items} == {"create"}
            assert (await client.inspect("east")).findings == []
            # The wall clock did jump: it is what people read.
            assert history.items[0].since is not None
            assert int(history.items[0].since[:4]) - time.gmtime().tm_year == 1
            clock.jump(-YEAR)
            assert (await client.allocate("east", chosen(2, kept))).ipv4 is not None

    asyncio.run(scenario())
    assert not server.said("cluster east: no longer leading")
    assert server.end() == 0


def chosen(number: int, selection: m.Selection) -> m.AllocateRequest:
    wanted = request(number)
    return m.AllocateRequest(
        attachment=wanted.attachment,
        claim=wanted.claim if number != 2 else f"{time.monotonic_ns():032x}",
        node=wanted.node,
        pod=wanted.pod,
        selection=selection,
    )


async def refusal(client: Client, wanted: m.AllocateRequest) -> str:
    with pytest.raises(Problem) as caught:
        await client.allocate("east", wanted)
    return caught.value.code
