"""A node's own address on a network: given once, never a pod's, and freed when the node is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ipam_server.directory import Directory
from ipam_server.service import ClusterService
from lab.etcd import Etcd
from netspace.messages import (
    ChangeNetwork,
    NewNetwork,
    NewPool,
    NodeReport,
    ReleaseRequest,
    ResizePool,
)
from netspace.problems import Problem
from netspace.upkeep import AttachmentsReport
from tests.etcd.service_world import ask, find, make, serving


def scenario(etcd: Etcd, play: Callable[[Directory], Awaitable[None]]) -> None:
    async def run() -> None:
        async with serving(etcd.url) as directory:
            await play(directory)

    asyncio.run(run())


async def refusal(asked: Awaitable[object]) -> Problem:
    with pytest.raises(Problem) as caught:
        await asked
    return caught.value


async def small(directory: Directory, size: int) -> ClusterService:
    """A cluster whose network has 14 addresses, `size` of them in its default pool."""
    return await make(directory, ipv4="10.0.0.0/28", ipv6="fd00::/64", size=size)


def test_a_node_gets_one_slot_of_the_total_pool_however_often_it_asks(etcd: Etcd) -> None:
    async def play(directory: Directory) -> None:
        service = await small(directory, 8)
        answers = await asyncio.gather(*(service.vmac("red", "node-1") for _ in range(5)))
        first = answers[0]
        assert all(answer == first for answer in answers)
        assert (first.ipv4, first.ipv6) == ("10.0.0.14", "fd00::e")
        other = await service.vmac("red", "node-2")
        assert other.ipv4 == "10.0.0.13"
        entry = await service.address("10.0.0.14", None)
        assert (entry.state, entry.node, entry.note, entry.pool) == (
            "reserved", "node-1", "vmac", None,
        )  # fmt: skip

    scenario(etcd, play)


def test_it_outlives_a_change_of_leader(etcd: Etcd) -> None:
    given = []

    async def give(directory: Directory) -> None:
        given.append(await (await small(directory, 8)).vmac("red", "node-1"))

    async def again(directory: Directory) -> None:
        service = await find(directory)
        assert await service.vmac("red", "node-1") == given[0]

    scenario(etcd, give)
    scenario(etcd, again)


def test_it_is_never_a_pods_even_where_a_pool_comes_to_lie_around_it(etcd: Etcd) -> None:
    async def play(directory: Directory) -> None:
        service = await small(directory, 8)
        vmac = await service.vmac("red", "node-1")
        await service.grow_pool("main", ResizePool(ranges=["10.0.0.9-10.0.0.14"]))
        pods = [await service.allocate(ask(f"c{number}")) for number in range(13)]
        assert vmac.ipv4 not in {pod.ipv4 for pod in pods}
        assert (await refusal(service.allocate(ask("c99")))).code == "pool-exhausted"

    scenario(etcd, play)


def test_where_every_address_lies_in_a_pool_it_says_what_to_do(etcd: Etcd) -> None:
    async def play(directory: Directory) -> None:
        service = await small(directory, 14)
        problem = await refusal(service.vmac("red", "node-1"))
        assert problem.code == "no-space"
        assert "network red" in problem.detail and "node-1" in problem.detail
        assert "pool shrink" in problem.do
        await service.shrink_pool("main", ResizePool(size="1"))
        assert (await service.vmac("red", "node-1")).ipv4 == "10.0.0.14"

    scenario(etcd, play)


def test_a_report_without_it_does_not_make_it_reclaimable(etcd: Etcd) -> None:
    async def play(directory: Directory) -> None:
        service = await small(directory, 8)
        await service.vmac("red", "node-1")
        seen = (await service.node_attachments("node-1")).revision
        report = AttachmentsReport(seen=seen, since=0, attachments=[])
        assert (await service.report_attachments("node-1", report)).missing == 0
        assert (await service.reclaim()).freed == []

    scenario(etcd, play)


def test_giving_it_back_frees_it_and_may_be_repeated(etcd: Etcd) -> None:
    async def play(directory: Directory) -> None:
        service = await small(directory, 8)
        vmac = await service.vmac("red", "node-1")
        await service.free_vmac("red", "node-1")
        await service.free_vmac("red", "node-1")
        assert (await service.address(vmac.ipv4 or "", None)).state == "free"
        assert (await service.vmac("red", "node-2")).ipv4 == vmac.ipv4

    scenario(etcd, play)


def test_an_admin_cannot_end_it_as_a_reservation(etcd: Etcd) -> None:
    async def play(directory: Directory) -> None:
        service = await small(directory, 8)
        vmac = await service.vmac("red", "node-1")
        problem = await refusal(service.unreserve(vmac.ipv4 or "", None))
        assert problem.code == "in-use" and "node delete node-1" in problem.do

    scenario(etcd, play)


def test_forgetting_a_node_frees_its_vmacs_but_never_a_pods_address(etcd: Etcd) -> None:
    async def play(directory: Directory) -> None:
        service = await small(directory, 8)
        await service.create_network(NewNetwork(name="six", vlan=920, ipv6="fd01::/64"))
        await service.report_node("node-1", NodeReport(version="1"))
        for network in ("red", "six"):
            await service.vmac(network, "node-1")
        pod = ask("c1")
        given = await service.allocate(pod)
        problem = await refusal(service.forget_node("node-1"))
        assert problem.code == "in-use" and "address list --node node-1" in problem.do
        assert len(service.state.vmacs) == 2
        await service.release(
            ReleaseRequest(
                attachment=pod.attachment,
                node="node-1",
                claim=pod.claim,
                generation=given.generation,
            )
        )
        await service.forget_node("node-1")
        assert not service.state.vmacs
        assert (await refusal(service.node("node-1"))).code == "not-found"
        assert (await refusal(service.forget_node("node-1"))).code == "not-found"
        entry = (await service.audit(100, None)).items[-1]
        assert (entry.kind, entry.name, entry.action) == ("node", "node-1", "forget")

    scenario(etcd, play)


def test_a_network_goes_with_its_vmacs(etcd: Etcd) -> None:
    async def play(directory: Directory) -> None:
        service = await small(directory, 8)
        await service.vmac("red", "node-1")
        await service.delete_pool("main")
        await service.delete_network("red")
        assert not service.state.vmacs
        inspection = await service.inspect()
        assert inspection.findings == []

    scenario(etcd, play)


def test_a_clusters_audit_finds_nothing_wrong_with_it(etcd: Etcd) -> None:
    async def play(directory: Directory) -> None:
        service = await small(directory, 8)
        await service.vmac("red", "node-1")
        assert (await service.inspect()).findings == []

    scenario(etcd, play)


def test_a_network_says_whether_services_lead_to_other_vlans(etcd: Etcd) -> None:
    async def play(directory: Directory) -> None:
        service = await small(directory, 8)
        assert (await service.network("red")).services == "open"
        changed = await service.change_network("red", ChangeNetwork(services="isolated"))
        assert changed.services == "isolated"

    scenario(etcd, play)


def test_a_pool_says_whether_its_addresses_are_probed(etcd: Etcd) -> None:
    async def play(directory: Directory) -> None:
        service = await small(directory, 4)
        pool = NewPool(name="p", kind="netspace", network="red", size="2", probe=True)
        assert (await service.create_pool(pool)).probe
        assert not (await service.allocate(ask("c1"))).probe

    scenario(etcd, play)
