"""What becomes of pods' addresses over a real etcd while servers, nodes and pods come to grief."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import pytest

from ipam_server.client import Client
from ipam_server.directory import Directory
from ipam_server.service import ClusterService
from ipam_server.term import Limits
from lab.etcd import Etcd
from lab.server import HASTY, Server
from netspace import messages as m
from netspace.problems import Problem
from netspace.upkeep import AttachmentsReport, LiveAttachment
from statestore import Store
from tests.etcd.service_world import ask, check, make, serving
from tests.etcd.test_server_process import prepare, probe, release, request, wait_ready

GRACE = 0.3
LIMITS = Limits(timeout=5.0, reclaim_grace=GRACE, reclaim_interval=60)
T = TypeVar("T")
Scenario = Callable[[ClusterService, Directory], Awaitable[None]]


def play(etcd: Etcd, scenario: Scenario, cooldown: float = 0) -> None:
    async def run() -> None:
        async with serving(etcd.url, limits=LIMITS) as directory:
            await scenario(await make(directory, cooldown=cooldown), directory)

    asyncio.run(run())


async def gone(service: ClusterService, asked: m.AllocateRequest, given: m.Allocation) -> bool:
    wanted = m.ReleaseRequest(
        attachment=asked.attachment, node=asked.node, claim=asked.claim, generation=given.generation
    )
    return (await service.release(wanted)).released


async def report(service: ClusterService, *containers: str) -> None:
    seen = (await service.node_attachments("node-1")).revision
    live = [LiveAttachment(container=each, ifname="eth0") for each in containers]
    await service.report_attachments(
        "node-1", AttachmentsReport(seen=seen, since=0, attachments=live)
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_ends_in_the_middle_of_adds_loses_no_address(
    etcd: Etcd, make_server: Callable[..., Server], number: int
) -> None:
    """Whether or not an answer came, the same request gets one address, and the claim of one that
    gave up gives back whatever it got."""
    server = make_server(etcd.url, **HASTY).start()
    wait_ready(server)

    async def scenario() -> None:
        async with Client([server.url], timeout=20) as client:
            await prepare(client)
            first = asyncio.gather(
                *(client.allocate("east", request(n)) for n in range(12)), return_exceptions=True
            )
            await asyncio.sleep(0.01)
            await asyncio.to_thread(server.end, number)
            server.start()
            await asyncio.to_thread(wait_ready, server)
            answers = await first
            assert all(isinstance(each, m.Allocation | Problem) for each in answers)
            again = []
            for n in range(12):
                again.append(await _insists(partial(client.allocate, "east", request(n))))
            for before, after in zip(answers, again, strict=True):
                if isinstance(before, m.Allocation):
                    assert (before.slot, before.generation) == (after.slot, after.generation)
            assert len({each.slot for each in again}) == 12
            for n in range(12):
                assert (await _insists(partial(client.release, "east", release(n)))).released
            assert (await client.pool("east", "all")).used == 0
            assert (await client.inspect("east")).findings == []

    asyncio.run(scenario())


async def _insists(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer, once a leader is there to give it."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await ask()
            except Problem as problem:
                assert problem.again, problem
                await asyncio.sleep(0.1)


def test_a_caller_that_dies_in_mid_add_leaves_nothing_that_is_not_found_again(
    etcd: Etcd, make_server: Callable[..., Server]
) -> None:
    """The next sandbox, the DEL by the claim, or the node's reports: each is enough."""
    server = make_server(etcd.url, reclaim={"grace": 1, "interval": 1}).start()
    wait_ready(server)

    async def die(number: int) -> None:
        """Asks, and is gone before the answer."""
        async with Client([server.url]) as client:
            asked = asyncio.create_task(client.allocate("east", request(number)))
            await asyncio.sleep(0.005)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

    async def scenario() -> None:
        async with Client([server.url]) as client:
            await prepare(client)
            for number in range(3):
                await die(number)
            first = await client.allocate("east", request(0))
            assert (await client.allocate("east", request(0))).slot == first.slot
            await client.release("east", release(1))
            for _ in range(3):
                seen = (await client.node_attachments("east", "node-1")).revision
                live = [LiveAttachment(container="c0", ifname="eth0")]
                said = AttachmentsReport(seen=seen, since=0, attachments=live)
                await client.report_attachments("east", "node-1", said)
                await asyncio.sleep(1.1)
            await client.reclaim("east")
            assert (await client.pool("east", "all")).used == 1
            assert (await client.inspect("east")).findings == []

    asyncio.run(scenario())
    assert probe(server, "/readyz") == "ok"


def test_reclaiming_beside_a_statefulset_that_restarts_loses_no_address_and_gives_none_twice(
    etcd: Etcd,
) -> None:
    async def scenario(service: ClusterService, directory: Directory) -> None:
        asked = [ask(f"web-{n}.0", f"web-{n}", uid=f"u{n}") for n in range(8)]
        given = [await service.allocate(each) for each in asked]
        await report(service)
        await asyncio.sleep(GRACE + 0.05)
        await report(service)

        async def restart(number: int) -> m.Allocation:
            again = ask(
                f"web-{number}.1", f"web-{number}", uid=f"u{number}", removed=(f"web-{number}.0",)
            )
            return await service.allocate(again)

        *after, _, _ = await asyncio.gather(
            *(restart(n) for n in range(8)), service.reclaim(), service.reclaim()
        )
        slots = [each.slot for each in after if isinstance(each, m.Allocation)]
        assert slots == [each.slot for each in given]
        async with Store([etcd.url]) as store:
            await check(store, service, *(each for each in after if isinstance(each, m.Allocation)))

    play(etcd, scenario)


def test_a_record_that_was_left_behind_blocks_no_pod_of_the_same_name(etcd: Etcd) -> None:
    """Of an old sandbox that nobody took away: on this node, on another one, of another UID."""

    async def scenario(service: ClusterService, directory: Directory) -> None:
        held = set()
        for number, (node, uid) in enumerate(
            [("node-1", "u1"), ("node-1", "u1"), ("node-2", "u1"), ("node-2", "u2")]
        ):
            answer = await service.allocate(ask(f"c{number}", "web-0", node=node, uid=uid))
            held.add(answer.slot)
        assert len(held) == 4, "nobody has proved that an older one is gone"
        # Once the older ones are proved gone, the name goes on with one of theirs.
        new = await service.allocate(ask("c9", "web-0", node="node-2", uid="u3", removed=("c3",)))
        assert new.slot in held

    play(etcd, scenario)


FIXED = m.Selection(ip=("10.0.0.77",))


def test_a_pod_that_is_evicted_again_and_again_keeps_its_fixed_address(etcd: Etcd) -> None:
    """Whether its DEL came before the next ADD, or its node only saw the interface gone."""

    async def scenario(service: ClusterService, directory: Directory) -> None:
        removed: tuple[str, ...] = ()
        for number in range(20):
            node = f"node-{number // 2 % 2}"
            asked = ask(
                f"c{number}", "db-0", uid=f"u{number}", node=node, selection=FIXED, removed=removed
            )
            given = await service.allocate(asked)
            assert (given.ipv4, given.ipv6) == ("10.0.0.77", "fd00::4d")
            assert (await service.pool("main")).used == 1
            # The next one comes on the same node, without a DEL; the one after it elsewhere.
            removed = (f"c{number}",) if number % 2 == 0 else ()
            if number % 2:
                assert await gone(service, asked, given)
                rival = ask(f"rival{number}", "rival")
                other = await service.allocate(rival)
                assert other.slot != given.slot
                assert await gone(service, rival, other)
        history = await service.address_history("10.0.0.77", None)
        assert {each.pod for each in history.items} == {"db-0"}

    play(etcd, scenario, cooldown=30)


def test_changing_a_fixed_address_leaves_the_pod_with_the_new_one_alone(etcd: Etcd) -> None:
    async def scenario(service: ClusterService, directory: Directory) -> None:
        first = ask("c0", "db-0", uid="u0", selection=FIXED)
        before = await service.allocate(first)
        assert await gone(service, first, before)
        moved = m.Selection(ip=("10.0.0.88",))
        after = await service.allocate(ask("c1", "db-0", uid="u1", selection=moved))
        assert (after.ipv4, after.ipv6) == ("10.0.0.88", "fd00::58")
        assert (await service.address("10.0.0.77", None)).state != "used"
        async with Store([etcd.url]) as store:
            await check(store, service, after)

    play(etcd, scenario)


def test_a_change_of_the_fixed_address_without_a_del_leaves_the_old_one_to_reclaiming(
    etcd: Etcd,
) -> None:
    async def scenario(service: ClusterService, directory: Directory) -> None:
        await service.allocate(ask("c0", "db-0", uid="u0", selection=FIXED))
        moved = m.Selection(ip=("10.0.0.88",))
        after = await service.allocate(
            ask("c1", "db-0", uid="u1", selection=moved, removed=("c0",))
        )
        for _ in range(2):
            await report(service, "c1")
            await asyncio.sleep(GRACE + 0.05)
        assert [each.ipv4 for each in (await service.reclaim()).freed] == ["10.0.0.77"]
        async with Store([etcd.url]) as store:
            await check(store, service, after)

    play(etcd, scenario)
