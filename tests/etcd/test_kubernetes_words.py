"""What a cluster's controller says, over a real etcd: fenced nodes, namespaces' choices, owners."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ipam_server.service import ClusterService
from ipam_server.term import Limits
from lab.etcd import Etcd
from netspace import messages as m
from netspace.callers import Caller, enter
from netspace.kubernetes import Fencing, GoneHolder, NodeFencing, SetNamespace
from netspace.problems import Problem
from netspace.upkeep import AttachmentsReport
from statestore import Put, Store, Txn
from tests.etcd.service_world import ask, check, find, holders, load, make, serving

GRACE = 0.4
LIMITS = Limits(timeout=5.0, reclaim_grace=GRACE, reclaim_interval=60)
DB = m.Selection(application="db")

Scenario = Callable[[ClusterService, Etcd], Awaitable[None]]


def play(etcd: Etcd, scenario: Scenario, limits: Limits = LIMITS) -> None:
    async def run() -> None:
        async with serving(etcd.url, limits=limits) as directory:
            service = await make(directory)
            new = m.NewPool(
                name="db", kind="application", network="red", size="2", namespaces=["*"],
                retention=3600,
            )  # fmt: skip
            await service.create_pool(new)
            await scenario(service, etcd)

    asyncio.run(run())


async def say(
    service: ClusterService, *gone: m.Allocation, node: str = "node-1", why: m.Fence = "deleted"
) -> NodeFencing:
    """The controller's word that the pods of these are gone, from a look that began now."""
    seen = (await service.node_attachments(node)).revision
    named = [
        GoneHolder(network=each.network.name, slot=each.slot, generation=each.generation)
        for each in gone
    ]
    return await service.fence(node, Fencing(seen=seen, why=why, gone=named))


async def grace() -> None:
    await asyncio.sleep(GRACE + 0.05)


async def freed(service: ClusterService) -> list[str]:
    return [each.pod for each in (await service.reclaim()).freed]


async def problem(awaitable: Awaitable[object]) -> Problem:
    with pytest.raises(Problem) as caught:
        await awaitable
    return caught.value


def test_what_kubernetes_says_twice_of_a_fenced_node_is_freed(etcd: Etcd) -> None:
    async def scenario(service: ClusterService, etcd: Etcd) -> None:
        kept = await service.allocate(ask("c1", "p1"))
        lost = await service.allocate(ask("c2", "p2"))
        other = await service.allocate(ask("c3", "p3", node="node-2"))
        enter(Caller("controller", "blue"))
        # What it says of another node's pod is not heard.
        told = await say(service, lost, other)
        assert (told.why, told.held, told.gone) == ("deleted", 2, 1)
        assert await freed(service) == []
        (candidate,) = (await service.reclaimable()).left
        assert (candidate.pod, candidate.witness, candidate.proved) == ("p2", "kubernetes", False)
        assert "Kubernetes' word once more" in candidate.lacks
        await grace()
        assert await freed(service) == []  # time alone proves nothing
        await say(service, lost)
        assert [node.fenced for node in await service.nodes()] == ["deleted", None]
        assert await freed(service) == ["p2"]
        assert service.figures.freed["fencing"] == 1
        found = [
            (each.who, each.kind, each.action) for each in (await service.audit(9, None)).items
        ]
        assert found[-2:] == [
            ("server s1 (fencing by the controller of cluster blue)", "node", "fence"),
            ("server s1 (reclaiming from a fenced node)", "address", "release"),
        ]
        async with Store([etcd.url]) as store:
            await check(store, service, kept, other)
        assert (await service.inspect()).findings == []

    play(etcd, scenario)


@pytest.mark.parametrize("sign", ["a report", "its state", "an allocation", "an admin"])
def test_any_sign_of_life_ends_what_was_said(etcd: Etcd, sign: str) -> None:
    async def scenario(service: ClusterService, etcd: Etcd) -> None:
        held = await service.allocate(ask("c1", "p1"))
        await say(service, held)
        await grace()
        if sign == "a report":
            seen = (await service.node_attachments("node-1")).revision
            report = AttachmentsReport(seen=seen, since=held.generation, attachments=[])
            await service.report_attachments("node-1", report)
        elif sign == "its state":
            await service.report_node("node-1", m.NodeReport(version="1"))
        elif sign == "an allocation":
            await service.allocate(ask("c2", "p2"))
        else:
            await service.unfence("node-1")
        assert (await problem(service.fencing("node-1"))).code == "not-found"
        assert (await service.reclaimable()).left == []
        # It begins anew.
        await say(service, held)
        assert await freed(service) == []
        await grace()
        await say(service, held)
        assert await freed(service) == ["p1"]

    play(etcd, scenario)


def test_a_pod_that_is_there_in_between_keeps_its_address(etcd: Etcd) -> None:
    async def scenario(service: ClusterService, etcd: Etcd) -> None:
        held = await service.allocate(ask("c1", "p1"))
        await say(service, held)
        await grace()
        await say(service)
        assert (await service.reclaimable()).left == []
        await say(service, held)
        assert await freed(service) == []

    play(etcd, scenario)


def test_a_word_that_came_between_decision_and_transaction_stops_it(etcd: Etcd) -> None:
    async def scenario(service: ClusterService, etcd: Etcd) -> None:
        held = await service.allocate(ask("c1", "p1"))
        await say(service, held)
        await grace()
        await say(service, held)
        async with Store([etcd.url]) as store:
            # Not known to the leader, whose decision rests on the word before.
            key = service.state.keys.fenced("node-1")
            stored = await store.get(key)
            assert stored is not None
            await store.txn(Txn(then=(Put(key, stored.value),)))
            assert await freed(service) == []
            assert await holders(store)

    play(etcd, scenario)


def test_a_new_leader_goes_on_from_the_first_word(etcd: Etcd) -> None:
    async def run() -> None:
        async with serving(etcd.url, limits=LIMITS) as directory:
            service = await make(directory)
            held = await service.allocate(ask("c1", "p1"))
            await service.set_namespace("shop", SetNamespace(selection=m.Selection(netspace="x")))
            await say(service, held)
            await grace()
        async with serving(etcd.url, limits=LIMITS, server="s2") as directory:
            service = await find(directory)
            assert [each.namespace for each in await service.namespaces()] == ["shop"]
            await grace()
            await say(service, held)
            assert await freed(service) == ["p1"]
            async with Store([etcd.url]) as store:
                state = await load(store, "blue")
                assert state.fenced == service.state.fenced
                assert state.namespaces == service.state.namespaces

    asyncio.run(run())


def test_reservations_and_vmacs_stay_and_go_with_the_node(etcd: Etcd) -> None:
    async def scenario(service: ClusterService, etcd: Etcd) -> None:
        vmac = await service.vmac("red", "node-1")
        held = await service.allocate(ask("c1", "p1"))
        gone = [
            GoneHolder(network="red", slot=each.slot, generation=each.generation)
            for each in (vmac, held)
        ]
        for _ in range(2):
            seen = (await service.node_attachments("node-1")).revision
            said = Fencing(seen=seen, why="deleted", gone=gone)
            assert (await service.fence("node-1", said)).gone == 1
            await grace()
        assert await freed(service) == ["p1"]
        assert await service.vmac("red", "node-1") == vmac
        await service.forget_node("node-1")
        assert (await problem(service.fencing("node-1"))).code == "not-found"
        assert (await problem(say(service))).code == "not-found"

    play(etcd, scenario)


def test_a_statefulsets_pod_waits_for_its_address_until_its_dead_node_is_fenced(
    etcd: Etcd,
) -> None:
    async def scenario(service: ClusterService, etcd: Etcd) -> None:
        before = await service.allocate(ask("c1", "db-0", uid="u1", selection=DB))
        # Deleted by force, and made anew elsewhere: the predecessor may live.
        again = ask("c2", "db-0", uid="u2", node="node-2", selection=DB)
        for _ in range(3):
            held = await problem(service.allocate(again))
            assert (held.code, held.again) == ("address-held", True)
            assert str(before.ipv4) in held.detail and "node-1" in held.detail
        # Others get theirs meanwhile.
        await service.allocate(ask("c3", "db-1", uid="u3", node="node-2", selection=DB))
        await say(service, before, why="out-of-service")
        await grace()
        assert (await problem(service.allocate(again))).code == "address-held"
        await say(service, before, why="out-of-service")
        assert await freed(service) == ["db-0"]
        after = await service.allocate(again)
        assert (after.slot, after.how) == (before.slot, "returned")
        # The dead node's release comes late and frees nothing.
        late = m.ReleaseRequest(
            attachment=ask("c1").attachment, node="node-1", claim=ask("c1").claim,
            generation=before.generation,
        )  # fmt: skip
        assert not (await service.release(late)).released
        assert (await service.held(again.attachment)).slot == before.slot

    play(etcd, scenario)


def test_a_pool_that_keeps_nothing_for_names_gives_another_address_at_once(etcd: Etcd) -> None:
    async def scenario(service: ClusterService, etcd: Etcd) -> None:
        before = await service.allocate(ask("c1", "web-0", uid="u1"))
        after = await service.allocate(ask("c2", "web-0", uid="u2", node="node-2"))
        assert after.slot != before.slot

    play(etcd, scenario)


def test_a_namespaces_choice_counts_from_one_request_to_the_next(etcd: Etcd) -> None:
    async def scenario(service: ClusterService, etcd: Etcd) -> None:
        enter(Caller("controller", "blue"))
        asked = SetNamespace(selection=m.Selection(application="db", families=("ipv6",)))
        stored = await service.set_namespace("shop", asked)
        assert await service.set_namespace("shop", asked) == stored
        assert await service.namespaces() == [stored]
        held = await service.allocate(ask("c1", "web-0", namespace="shop"))
        assert (held.pool, held.ipv4) == ("db", None)
        wrong = SetNamespace(selection=m.Selection(ip=("10.0.0.5",)))
        assert (await problem(service.set_namespace("shop", wrong))).code == "invalid"
        for _ in range(2):
            await service.unset_namespace("shop")
        assert await service.namespaces() == []
        assert (await service.allocate(ask("c2", "web-1", namespace="shop"))).pool == "main"
        found = [(e.kind, e.name, e.action) for e in (await service.audit(9, None)).items]
        assert found[-2:] == [("namespace", "shop", "create"), ("namespace", "shop", "delete")]

    play(etcd, scenario)


def test_nothing_of_it_is_left_of_a_cluster_that_is_deleted(etcd: Etcd) -> None:
    async def run() -> None:
        async with serving(etcd.url, limits=LIMITS) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            await service.report_node("node-1", m.NodeReport(version="1"))
            await say(service)
            await service.set_namespace("shop", SetNamespace(selection=m.Selection(netspace="x")))
            await service.delete_pool("main")
            await service.delete_network("red")
            await directory.delete_cluster("blue")
            prefix = b"/netspace/v1/clusters/blue/"
            left = [kv.key async for page in store.pages(prefix) for kv in page.items]
            assert [key for key in left if not key.endswith((b"/leader", b"/clock"))] == []

    asyncio.run(run())


def test_an_admin_hands_things_over_and_back(etcd: Etcd) -> None:
    async def scenario(service: ClusterService, etcd: Etcd) -> None:
        enter(Caller("admin", name="alice"))
        pods = await service.allocate(ask("c1", "p1"))
        assert (await service.hand_over_pool("main", "kubernetes")).owner == "kubernetes"
        assert (await service.hand_over_network("red", "kubernetes")).owner == "kubernetes"
        assert (
            await problem(service.change_pool("main", m.ChangePool(cooldown=1)))
        ).code == "owned"
        asked = m.ChangeNetwork(mtu=9000)
        assert (await problem(service.change_network("red", asked))).code == "owned"
        # Allocating, and pools of people's in it, go on.
        await service.allocate(ask("c2", "p2"))
        own = m.NewPool(name="own", kind="netspace", network="red", size="4")
        assert (await service.create_pool(own)).owner is None
        assert (await service.hand_over_pool("main", None)).owner is None
        assert (await service.change_pool("main", m.ChangePool(cooldown=1))).cooldown == 1
        entry = (await service.audit(99, None)).items[-2]
        assert (entry.before, entry.after) == ({"owner": "kubernetes"}, {"owner": None})
        assert (await service.held(ask("c1").attachment)).slot == pods.slot

    play(etcd, scenario)


def test_networks_are_left_to_admins_where_the_configuration_says_so(etcd: Etcd) -> None:
    async def scenario(service: ClusterService, etcd: Etcd) -> None:
        new = m.NewNetwork(name="new", ipv4="10.5.0.0/24", owner="kubernetes")
        enter(Caller("controller", "blue"))
        found = await problem(service.create_network(new))
        assert found.code == "forbidden" and "controller_networks" in found.do
        pool = m.NewPool(
            name="own", kind="netspace", network="red", size="4", owner="kubernetes"
        )  # fmt: skip
        await service.create_pool(pool)
        enter(Caller("admin", name="alice"))
        assert (await service.create_network(new)).owner == "kubernetes"

    play(etcd, scenario, Limits(timeout=5.0, controller_networks=False))
