"""etcd restored from a snapshot: what was given since is lost in it, and lives on the nodes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from ipam_server.directory import Directory
from ipam_server.reclaiming import Reclaiming
from ipam_server.service import ClusterService
from ipam_server.term import Limits
from lab.etcd import Etcd
from netspace.kubernetes import Fencing, GoneHolder, SetNamespace
from netspace.messages import (
    AllocateRequest,
    Allocation,
    AttachmentId,
    ReleaseRequest,
    Selection,
)
from netspace.problems import Problem
from netspace.upkeep import AttachmentsReport, Holding, LiveAttachment, NodeAttachments
from statestore import Store
from tests.etcd.service_world import ask, check, find, holders, make, serving, term_of, until

GRACE = 0.3
LIMITS = Limits(timeout=5.0, reclaim_grace=GRACE, reclaim_interval=60)


async def save(etcd: Etcd, to: Path) -> None:
    await asyncio.to_thread(etcd.save_snapshot, to)


async def restore(etcd: Etcd, snapshot: Path, token: str = "") -> None:
    """Ends etcd and starts it with the snapshot's data, at the same address."""
    await asyncio.to_thread(etcd.kill)
    await asyncio.to_thread(etcd.restore_snapshot, snapshot, token)
    await asyncio.to_thread(etcd.start)


@contextlib.asynccontextmanager
async def restored(etcd: Etcd, snapshot: Path) -> AsyncIterator[ClusterService]:
    """A server over an etcd that was restored while no server ran."""
    await restore(etcd, snapshot)
    async with serving(etcd.url, limits=LIMITS, ttl=3, server="after") as directory:
        yield await find(directory)


def live(request: AllocateRequest, given: Allocation) -> LiveAttachment:
    """What a node reports of an attachment whose ADD it has answered."""
    return LiveAttachment(
        container=request.attachment.container,
        ifname=request.attachment.ifname,
        generation=given.generation,
        holding=Holding(
            claim=request.claim,
            pod=request.pod,
            pool=given.pool,
            network=given.network.name,
            slot=given.slot,
            ipv4=given.ipv4,
            ipv6=given.ipv6,
        ),
    )


async def report(
    service: Reclaiming, *attachments: LiveAttachment, node: str = "node-1", since: int = 0
) -> NodeAttachments:
    seen = (await service.node_attachments(node)).revision
    said = AttachmentsReport(seen=seen, since=since, attachments=list(attachments))
    return await service.report_attachments(node, said)


def released(request: AllocateRequest, given: Allocation) -> ReleaseRequest:
    """The release that a DEL sends."""
    return ReleaseRequest(
        attachment=request.attachment,
        node=request.node,
        claim=request.claim,
        generation=given.generation,
    )


def test_what_a_controller_said_is_as_in_the_snapshot_and_a_living_node_loses_nothing(
    etcd: Etcd, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with serving(etcd.url, limits=LIMITS, ttl=3) as directory:
            service = await make(directory)
            pod = ask("c1", "p1")
            held = await service.allocate(pod)
            chosen = SetNamespace(selection=Selection(netspace="main"))
            await service.set_namespace("shop", chosen)
            gone = [GoneHolder(network="red", slot=held.slot, generation=held.generation)]
            seen = (await service.node_attachments("node-1")).revision
            await service.fence("node-1", Fencing(seen=seen, why="deleted", gone=gone))
            await save(etcd, tmp_path / "snapshot")
            await service.unset_namespace("shop")
            await report(service, live(pod, held))
        async with restored(etcd, tmp_path / "snapshot") as service:
            assert [each.namespace for each in await service.namespaces()] == ["shop"]
            assert (await service.fencing("node-1")).gone == 1
            await asyncio.sleep(GRACE)
            await report(service, live(pod, held))
            assert service.state.fenced == {}
            assert (await service.reclaim()).freed == []
            assert (await service.inspect()).findings == []

    asyncio.run(scenario())


@pytest.mark.parametrize("token", ["", "anew"], ids=["same cluster id", "another cluster id"])
def test_running_servers_notice_a_restored_etcd_and_forget_what_it_does_not_have(
    etcd: Etcd, tmp_path: Path, token: str
) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as first, Store([etcd.url]) as store:
            service = await make(first)
            async with serving(etcd.url, server="s2") as second:
                kept = await service.allocate(ask("c1", "p1"))
                gone = await service.allocate(ask("c2", "p2"))
                await save(etcd, tmp_path / "snapshot")
                term = term_of(service)
                lost = [await service.allocate(ask(f"late{n}", f"late{n}")) for n in range(5)]
                await service.release(released(ask("c2", "p2"), gone))
                await until(lambda: has_reached(second, lost[-1].generation))
                await restore(etcd, tmp_path / "snapshot", token)

                # The leader's key is in the snapshot, but what it led on is not what etcd has.
                leader = await until(lambda: leading(first, second), 20)
                assert term_of(leader) is not term
                held = {each.slot for each in (kept, gone)}
                for directory in (first, second):
                    await until(partial(knows, directory, held), 20)
                new = await until(lambda: leader.allocate(ask("c9", "p9")))
                await check(store, leader, kept, gone, new)
                assert (await leader.inspect()).findings == []

    asyncio.run(scenario())


def test_an_idle_leader_notices_within_seconds_that_etcd_was_restored(
    etcd: Etcd, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory:
            service = await make(directory)
            await save(etcd, tmp_path / "snapshot")
            await service.allocate(ask("c1", "p1"))
            await restore(etcd, tmp_path / "snapshot")
            async with asyncio.timeout(10):
                while await used(service):
                    await asyncio.sleep(0.02)

    asyncio.run(scenario())


def test_an_address_given_after_the_snapshot_is_taken_back_from_its_nodes_report(
    etcd: Etcd, tmp_path: Path
) -> None:
    asked = ask("late", "web-0", namespace="shop", uid="u1")

    async def scenario() -> None:
        async with serving(etcd.url, limits=LIMITS, ttl=3) as directory:
            service = await make(directory)
            await save(etcd, tmp_path / "snapshot")
            for number in range(3):
                await service.allocate(ask(f"c{number}", f"p{number}"))
            given = await service.allocate(asked)
        async with restored(etcd, tmp_path / "snapshot") as service, Store([etcd.url]) as store:
            assert await used(service) == 0
            told = await report(service, live(asked, given))
            assert (told.adopted, told.disputes, told.missing) == (1, (), 0)
            again = await service.held(asked.attachment)
            assert (again.slot, again.ipv4, again.ipv6) == (given.slot, given.ipv4, given.ipv6)
            await check(store, service, again)
            ((holder, _),) = (await holders(store)).values()
            assert (holder.namespace, holder.pod, holder.uid) == ("shop", "web-0", "u1")
            assert (await service.inspect()).findings == []
            # A second report finds nothing new, a repeated ADD gets it, no other pod does.
            assert (await report(service, live(asked, given))).adopted == 0
            assert (await service.allocate(asked)).slot == given.slot
            others = [await service.allocate(ask(f"d{n}", f"d{n}")) for n in range(5)]
            assert given.slot not in [each.slot for each in others]
            # DEL names the generation that the node knows.
            assert (await service.release(released(asked, given))).released

    asyncio.run(scenario())


def test_what_was_taken_back_lives_for_the_reports_that_follow(etcd: Etcd, tmp_path: Path) -> None:
    asked, earlier = ask("late", "p1"), ask("early", "p0")

    async def scenario() -> None:
        async with serving(etcd.url, limits=LIMITS, ttl=3) as directory:
            service = await make(directory)
            before = await service.allocate(earlier)
            await save(etcd, tmp_path / "snapshot")
            await service.allocate(ask("other", "p2"))
            given = await service.allocate(asked)
        async with restored(etcd, tmp_path / "snapshot") as service:
            for _ in range(3):
                told = await report(service, live(earlier, before), live(asked, given))
                assert told.missing == 0
                await asyncio.sleep(GRACE + 0.05)
                assert (await service.reclaim()).freed == []
            assert await used(service) == 2
            # A pod of the snapshot that is gone since is reclaimed as ever.
            for _ in range(2):
                await report(service, live(asked, given))
                await asyncio.sleep(GRACE + 0.05)
            assert [each.pod for each in (await service.reclaim()).freed] == ["p0"]

    asyncio.run(scenario())


def test_an_address_that_another_has_meanwhile_is_in_dispute_and_node_and_audit_say_so(
    etcd: Etcd, tmp_path: Path
) -> None:
    asked = ask("late", "web-0", namespace="shop")

    async def scenario() -> None:
        async with serving(etcd.url, limits=LIMITS, ttl=3) as directory:
            service = await make(directory)
            await save(etcd, tmp_path / "snapshot")
            given = await service.allocate(asked)
        async with restored(etcd, tmp_path / "snapshot") as service, Store([etcd.url]) as store:
            other = await service.allocate(ask("new", "thief", node="node-2"))
            assert other.slot == given.slot
            told = await report(service, live(asked, given))
            assert (told.adopted, len(told.disputes)) == (0, 1)
            dispute = told.disputes[0]
            assert (dispute.namespace, dispute.pod, dispute.why) == (
                "shop", "web-0", "it is somebody else's",
            )  # fmt: skip
            assert given.ipv4 is not None and given.ipv4 in dispute.address
            assert "thief" not in str(told), "whose it is, is not a node's to know"
            (finding,) = (await service.inspect()).findings
            assert finding.code == "address-disputed"
            for word in ("shop/web-0", "node-1", given.ipv4, "thief", "node-2"):
                assert word in finding.what
            await check(store, service, other)

            # The other goes: nobody else gets the address, and the next report takes it back.
            asked_other = ask("new", "thief", node="node-2")
            assert (await service.release(released(asked_other, other))).released
            third = await service.allocate(ask("third", "p3"))
            assert third.slot != given.slot
            with pytest.raises(Problem) as caught:
                fixed = Selection(ip=(given.ipv4,))
                await service.allocate(ask("fourth", "p4", selection=fixed))
            assert caught.value.code == "address-taken"
            assert (
                await report(service, live(asked, given), live(ask("third", "p3"), third))
            ).adopted
            assert (await service.held(asked.attachment)).slot == given.slot
            assert (await service.inspect()).findings == []

    asyncio.run(scenario())


def test_a_dispute_ends_with_the_pod_whose_address_is_not_its_own(
    etcd: Etcd, tmp_path: Path
) -> None:
    asked = ask("late", "p1")

    async def scenario() -> None:
        async with serving(etcd.url, limits=LIMITS, ttl=3) as directory:
            service = await make(directory, size=1)
            await save(etcd, tmp_path / "snapshot")
            given = await service.allocate(asked)
        async with restored(etcd, tmp_path / "snapshot") as service:
            other = await service.allocate(ask("new", "p2", node="node-2"))
            assert (await report(service, live(asked, given))).disputes
            await service.release(released(ask("new", "p2", node="node-2"), other))
            with pytest.raises(Problem):
                await service.allocate(ask("third", "p3"))
            assert (await report(service)).disputes == ()
            assert (await service.allocate(ask("third", "p3"))).slot == given.slot

    asyncio.run(scenario())


def test_a_release_that_overtakes_the_report_is_not_undone_by_it(etcd: Etcd) -> None:
    asked = ask("c1", "p1")

    async def scenario() -> None:
        async with serving(etcd.url, limits=LIMITS, ttl=3) as directory:
            service = await make(directory)
            given = await service.allocate(asked)
            looked = live(asked, given)
            assert (await service.release(released(asked, given))).released
            told = await report(service, looked)
            assert (told.adopted, told.disputes) == (0, ())
            assert await used(service) == 0

    asyncio.run(scenario())


def test_a_pod_of_one_family_is_taken_back_with_that_family(etcd: Etcd, tmp_path: Path) -> None:
    asked = ask("late", "p1", selection=Selection(families=("ipv6",)))

    async def scenario() -> None:
        async with serving(etcd.url, limits=LIMITS, ttl=3) as directory:
            service = await make(directory)
            await save(etcd, tmp_path / "snapshot")
            given = await service.allocate(asked)
            assert given.ipv4 is None
        async with restored(etcd, tmp_path / "snapshot") as service:
            assert (await report(service, live(asked, given))).adopted == 1
            again = await service.held(AttachmentId(container="late", ifname="eth0"))
            assert (again.ipv4, again.ipv6) == (None, given.ipv6)

    asyncio.run(scenario())


async def has_reached(directory: Directory, revision: int) -> bool:
    return directory.cluster("blue").state.revision >= revision


async def leading(*directories: Directory) -> ClusterService | None:
    """The one that leads on the restored state."""
    for service in (directory.cluster("blue") for directory in directories):
        if service.leading and await used(service) == 2:
            return service
    return None


async def knows(directory: Directory, held: set[str]) -> bool:
    network = directory.cluster("blue").state.networks["red"]
    return {str(index) for index in network.held} == held


async def used(service: ClusterService) -> int:
    return service.local_status().used
