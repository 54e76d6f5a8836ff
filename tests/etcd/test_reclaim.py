"""Reclaiming over a real etcd: what two reports prove, and all that they do not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ipam_server.directory import Directory
from ipam_server.reclaiming import Reclaiming
from ipam_server.service import ClusterService
from ipam_server.term import Limits
from lab.etcd import Etcd
from netspace.messages import Allocation, AttachmentId, OperatorRelease, ReleaseRequest, Reserve
from netspace.problems import Problem
from netspace.upkeep import AttachmentsReport, LiveAttachment, NodeAttachments
from statestore import Store
from tests.etcd.service_world import ask, check, find, make, serving

GRACE = 0.4
LIMITS = Limits(timeout=5.0, reclaim_grace=GRACE, reclaim_interval=60)
"""The tests call the rounds themselves."""

Scenario = Callable[[ClusterService, Directory], Awaitable[None]]


def play(etcd: Etcd, scenario: Scenario) -> None:
    """A cluster in which node-1 has said already from when on its records are complete."""

    async def run() -> None:
        async with serving(etcd.url, limits=LIMITS) as directory:
            await scenario(await make(directory), directory)

    asyncio.run(run())


async def report(
    service: ClusterService, *containers: str, node: str = "node-1", **fields: int
) -> NodeAttachments:
    """A report that has exactly these containers' eth0, looked for now."""
    live = []
    for container in containers:
        slot = service.state.attachments[container, "eth0"]
        held = service.state.held(slot)
        assert held is not None
        live.append(LiveAttachment(container=container, ifname="eth0", generation=held.generation))
    seen = (await service.node_attachments(node)).revision
    given = {"seen": seen, "since": 0, **fields}
    return await service.report_attachments(node, AttachmentsReport(attachments=live, **given))


async def freed(service: Reclaiming) -> list[str]:
    return [each.container for each in (await service.reclaim()).freed]


async def grace() -> None:
    await asyncio.sleep(GRACE + 0.05)


def test_what_two_reports_a_grace_apart_miss_is_freed(etcd: Etcd) -> None:
    async def scenario(service: ClusterService, directory: Directory) -> None:
        kept = await service.allocate(ask("c1", "p1"))
        leaked = await service.allocate(ask("c2", "p2"))
        assert (await report(service, "c1")).missing == 1
        assert await freed(service) == []
        (candidate,) = (await service.reclaimable()).left
        assert (candidate.pod, candidate.node, candidate.proved) == ("p2", "node-1", False)
        assert "another report of node node-1" in candidate.lacks
        await grace()
        # Time alone proves nothing.
        assert await freed(service) == []
        await report(service, "c1")
        (candidate,) = (await service.reclaimable()).left
        assert candidate.proved and candidate.since >= GRACE
        assert await freed(service) == ["c2"]
        assert await freed(service) == []
        assert service.figures.freed["reclaim"] == 1
        (entry,) = [
            each for each in (await service.audit(99, None)).items if each.action == "release"
        ]
        assert (entry.who, entry.name) == ("server s1 (reclaiming)", leaked.ipv4)
        assert entry.before is not None and entry.before["pod"] == "p2" and entry.after is None
        assert (await service.address(leaked.ipv4 or "", None)).state in ("free", "cooling")
        with pytest.raises(Problem) as caught:  # its ADD comes late
            await service.allocate(ask("c2", "p2"))
        assert caught.value.code == "claim-released"
        async with Store([etcd.url]) as store:
            await check(store, service, kept)

    play(etcd, scenario)


def test_what_is_there_in_between_is_not_freed(etcd: Etcd) -> None:
    async def scenario(service: ClusterService, directory: Directory) -> None:
        await service.allocate(ask("c1", "p1"))
        await report(service)
        await grace()
        await report(service, "c1")
        assert (await service.reclaimable()).left == []
        await report(service)
        assert await freed(service) == []
        await grace()
        await report(service)
        assert await freed(service) == ["c1"]

    play(etcd, scenario)


def test_a_silent_node_loses_nothing_and_an_admins_word_is_enough(etcd: Etcd) -> None:
    async def scenario(service: ClusterService, directory: Directory) -> None:
        silent = await service.allocate(ask("c1", "p1", node="node-2"))
        await service.allocate(ask("c2", "p2"))
        for _ in range(3):
            await report(service, "c2")
            await grace()
        assert (await service.reclaim()).left == []
        await report(service, node="node-2")
        await grace()
        assert await freed(service) == []
        word = OperatorRelease(
            network="red", address=silent.ipv4 or "", generation=silent.generation
        )
        assert (await service.operator_release(word)).released

    play(etcd, scenario)


def test_what_was_given_again_in_between_is_not_freed(etcd: Etcd) -> None:
    async def scenario(service: ClusterService, directory: Directory) -> None:
        first = await service.allocate(ask("c1", "p1"))
        await report(service)
        await service.release(
            ReleaseRequest(
                attachment=AttachmentId(container="c1", ifname="eth0"),
                node="node-1", claim=ask("c1").claim, generation=first.generation,
            )
        )  # fmt: skip
        second = await service.allocate(ask("c2", "p1"))
        assert second.slot == first.slot
        await grace()
        await report(service)
        assert await freed(service) == []
        assert (await service.reclaimable()).left[0].generation == second.generation

    play(etcd, scenario)


def test_a_statefulsets_pod_that_restarts_in_between_keeps_its_address(etcd: Etcd) -> None:
    async def scenario(service: ClusterService, directory: Directory) -> None:
        before = await service.allocate(ask("c1", "web-0", uid="u1"))
        await report(service)
        await grace()
        after = await service.allocate(ask("c2", "web-0", uid="u1", removed=("c1",)))
        assert after.slot == before.slot
        await report(service, "c2")
        assert await freed(service) == []
        await grace()
        await report(service, "c2")
        assert await freed(service) == []
        assert (await service.held(AttachmentId(container="c2", ifname="eth0"))).slot == after.slot

    play(etcd, scenario)


def test_a_report_says_nothing_of_what_is_newer_than_the_look_or_older_than_the_records(
    etcd: Etcd,
) -> None:
    async def scenario(service: ClusterService, directory: Directory) -> None:
        seen = (await service.node_attachments("node-1")).revision
        answer = await service.allocate(ask("c1", "p1"))
        assert (await report(service, seen=seen)).missing == 0
        assert (await report(service, since=answer.generation)).missing == 0
        assert (await report(service, since=answer.generation - 1)).missing == 1

    play(etcd, scenario)


def test_a_late_copy_of_the_first_report_is_no_second_one(etcd: Etcd) -> None:
    async def scenario(service: ClusterService, directory: Directory) -> None:
        await service.allocate(ask("c1", "p1"))
        seen = (await service.node_attachments("node-1")).revision
        await report(service, seen=seen)
        await grace()
        await report(service, seen=seen)
        assert await freed(service) == []
        await report(service)
        assert await freed(service) == ["c1"]

    play(etcd, scenario)


def test_a_reservation_is_nobodys_to_miss(etcd: Etcd) -> None:
    async def scenario(service: ClusterService, directory: Directory) -> None:
        await service.reserve(Reserve(network="red", address="10.0.0.9", note="printer"))
        for _ in range(2):
            await report(service)
            await grace()
        assert (await service.reclaim()).freed == []
        assert (await service.address("10.0.0.9", None)).state == "reserved"

    play(etcd, scenario)


def test_a_restart_in_between_keeps_the_proof_and_frees_once(etcd: Etcd) -> None:
    async def run() -> None:
        async with serving(etcd.url, limits=LIMITS) as directory:
            service = await make(directory)
            await service.allocate(ask("c1", "p1"))
            await service.allocate(ask("c2", "p2"))
            await report(service, "c2")
            await grace()
        async with serving(etcd.url, limits=LIMITS, server="s2") as directory:
            service = await find(directory)
            # The clock stood still while nobody led, and went on from when it was last written.
            assert [each.pod for each in (await service.reclaimable()).left] == ["p1"]
            await grace()
            await report(service, "c2")
            assert await freed(service) == ["c1"]
            another: Allocation = await service.allocate(ask("c3", "p3"))
        async with serving(etcd.url, limits=LIMITS, server="s3") as directory:
            service = await find(directory)
            assert await freed(service) == []
            await grace()
            await report(service, "c2", "c3")
            assert await freed(service) == []
            held = await service.held(AttachmentId(container="c3", ifname="eth0"))
            assert held.generation == another.generation

    asyncio.run(run())


def test_the_leader_reclaims_by_itself(etcd: Etcd) -> None:
    async def run() -> None:
        limits = Limits(timeout=5.0, reclaim_grace=0.1, reclaim_interval=0.05)
        async with serving(etcd.url, limits=limits) as directory:
            service = await make(directory)
            await service.allocate(ask("c1", "p1"))
            await report(service)
            await asyncio.sleep(0.2)
            await report(service)
            async with asyncio.timeout(5):
                while service.figures.freed["reclaim"] == 0:
                    await asyncio.sleep(0.01)
            assert (await service.inspect()).findings == []

    asyncio.run(run())


def test_many_reports_and_rounds_at_once_free_once(etcd: Etcd) -> None:
    async def scenario(service: ClusterService, directory: Directory) -> None:
        for number in range(20):
            await service.allocate(ask(f"c{number}", f"p{number}"))
        await report(service)
        await grace()
        await report(service)
        reports = asyncio.gather(*(report(service) for _ in range(4)))
        rounds = await asyncio.gather(*(service.reclaim() for _ in range(4)))
        await reports
        names = [each.pod for answer in rounds for each in answer.freed]
        assert sorted(names) == sorted(f"p{number}" for number in range(20))

    play(etcd, scenario)
