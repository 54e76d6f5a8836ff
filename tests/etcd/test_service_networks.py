"""Networks, fabrics and clusters over a real etcd: several leaders, large deletes, hands from
outside."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest

from ipam_server import keys as all_keys
from ipam_server.keys import Keys
from ipam_server.records import FabricRecord, Release
from ipam_server.service import ClusterService
from lab.etcd import Etcd
from netspace.messages import (
    ChangeNetwork,
    Network,
    NewCluster,
    NewFabric,
    NewNetwork,
    NewPool,
    NodeReport,
    OperatorRelease,
    Reserve,
)
from netspace.problems import Problem
from statestore import Store
from tests.etcd.service_world import (
    ask,
    check,
    find,
    holders,
    make,
    put_all,
    serving,
    term_of,
    until,
)


def test_of_two_clusters_overlapping_networks_made_at_once_exactly_one_is_made(
    etcd: Etcd,
) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            await directory.create_fabric(NewFabric(name="hall"))
            services: list[ClusterService] = []
            for name in ("blue", "green"):
                await directory.create_cluster(NewCluster(name=name))
                services.append(directory.cluster(name))

            async def race(number: int) -> None:
                new = NewNetwork(
                    name=f"n{number}", fabric="hall", vlan=100 + number, ipv4=f"10.{number}.0.0/16"
                )
                answers = await asyncio.gather(
                    *(service.create_network(new) for service in services), return_exceptions=True
                )
                assert sorted(type(answer).__name__ for answer in answers) == ["Network", "Problem"]
                for answer in answers:
                    assert isinstance(answer, Network) or (
                        isinstance(answer, Problem) and answer.code == "overlap"
                    ), answer

            # One pair after the other: more at once may run out of attempts and say `changed`.
            for number in range(8):
                await race(number)
            kv = await store.get(all_keys.fabric("hall"))
            assert kv is not None
            members = msgspec.json.decode(kv.value, type=FabricRecord).members
            assert sorted(member.network for member in members) == [f"n{n}" for n in range(8)]
            made = {(s.name, network.name) for s in services for network in await s.networks()}
            assert made == {(member.cluster, member.network) for member in members}
            with pytest.raises(Problem) as caught:
                await directory.delete_fabric("hall")
            assert caught.value.code == "in-use"

    asyncio.run(scenario())


def test_two_clusters_share_a_vlan_each_with_its_range(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory:
            for name, part in (("blue", "10.0.0.0/25"), ("green", "10.0.0.128/25")):
                await directory.create_cluster(NewCluster(name=name))
                service = directory.cluster(name)
                await service.create_network(
                    NewNetwork(name="red", vlan=910, ipv4="10.0.0.0/24", range=[part])
                )
                await service.create_pool(
                    NewPool(name="main", kind="default", network="red", size="100")
                )
            blue, green = directory.cluster("blue"), directory.cluster("green")
            both = [await each.allocate(ask("c1")) for each in (blue, green)]
            assert [each.ipv4 for each in both] == ["10.0.0.1", "10.0.0.128"]
            with pytest.raises(Problem) as caught:
                await blue.change_network("red", ChangeNetwork(vlan=911))
            assert caught.value.code == "overlap"
            assert (await blue.network("red")).vlan == 910

    asyncio.run(scenario())


def test_a_network_with_five_thousand_releases_is_deleted_in_chunks(etcd: Etcd) -> None:
    async def scenario() -> None:
        keys = Keys("blue")
        async with Store([etcd.url]) as store:
            async with serving(etcd.url) as directory:
                service = await make(directory)
                await service.delete_pool("main")
            release = msgspec.json.encode(Release(at=0, sequence=1, identity=("a", "p", "eth0")))
            await put_all(store, ((keys.released(("red", i)), release) for i in range(1, 5001)))
            async with serving(etcd.url) as directory:
                service = await find(directory)
                assert len(term_of(service).state.networks["red"].released) == 5000
                before = await store.revision()
                deleting = asyncio.create_task(service.delete_network("red"))
                await deleting
                assert 50 <= await store.revision() - before <= 60
                assert await service.networks() == []
                assert not term_of(service).state.names
                for prefix in (b"released/", b"networks/", b"slots/"):
                    async with contextlib.aclosing(store.pages(keys.prefix + prefix)) as pages:
                        async for page in pages:
                            assert not page.items
                # The name and the subnet are free again, and begin without a past.
                service = directory.cluster("blue")
                again = NewNetwork(name="red", vlan=910, ipv4="10.0.0.0/16")
                await service.create_network(again)
                pool = NewPool(name="main", kind="default", network="red", size="4")
                assert (await service.create_pool(pool)).never == "4"

    asyncio.run(scenario())


def test_a_reserved_address_is_given_to_nobody_until_it_is_free_again(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory, size=3)
            reserve = Reserve(network="red", address="10.0.0.1", note="printer")
            entry = await service.reserve(reserve)
            assert (entry.state, entry.note) == ("reserved", "printer")
            with pytest.raises(Problem) as caught:
                await service.reserve(reserve)
            assert caught.value.code == "address-taken"
            got = await service.allocate(ask("c1"))
            assert got.slot == "2"
            with pytest.raises(Problem) as caught:
                await service.reserve(Reserve(network="red", address="10.0.0.2"))
            assert caught.value.code == "address-taken"
            with pytest.raises(Problem) as caught:
                await service.unreserve("10.0.0.2", None)
            assert caught.value.code == "not-found"
            assert ("red", 1) in await holders(store)
            await service.unreserve("fd00::1", "red")
            await check(store, service, got)
            with pytest.raises(Problem) as caught:
                await service.reserve(Reserve(network="red", address="10.0.0.0"))
            assert caught.value.code == "address-unusable"

    asyncio.run(scenario())


def test_what_somebody_deleted_by_hand_is_noticed_and_read_anew(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            answers = [await service.allocate(ask(f"c{number}")) for number in range(3)]
            keys = Keys("blue")
            await store.delete_prefix(keys.slot(("red", 2)))
            await store.delete_prefix(keys.attachment(("c1", "eth0")))
            with pytest.raises(Problem) as caught:
                await service.allocate(ask("c1", claim="b" * 32))
            assert caught.value.code == "changed"
            got = await until(lambda: service.allocate(ask("c1", claim="b" * 32)))
            assert got.slot == "2"
            await check(store, service, answers[0], answers[2], got)

    asyncio.run(scenario())


def test_a_deleted_cluster_leaves_no_key_and_can_be_made_again(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            await service.allocate(ask("c1"))
            with pytest.raises(Problem, match="red") as caught:
                await directory.delete_cluster("blue")
            assert caught.value.code == "in-use"
            await service.operator_release(
                OperatorRelease(
                    network="red",
                    address="fd00::1",
                    generation=(await service.address("10.0.0.1", None)).generation or 0,
                )
            )
            await service.report_node("node-1", NodeReport(version="1"))
            await service.delete_pool("main")
            await service.delete_network("red")
            await directory.delete_cluster("blue")
            with pytest.raises(Problem) as caught:
                directory.cluster("blue")
            assert caught.value.code == "not-found"
            for prefix in (Keys("blue").prefix, all_keys.CATALOGUE):
                async with contextlib.aclosing(store.pages(prefix)) as pages:
                    assert [kv.key async for page in pages for kv in page.items] == []
            anew = await make(directory)
            assert (await anew.allocate(ask("c1", claim="a" * 32))).slot == "1"

    asyncio.run(scenario())
