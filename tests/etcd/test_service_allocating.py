"""Allocating and releasing over a real etcd: what is one transaction, what is lost, what is never
lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from ipam_server.keys import Keys
from ipam_server.records import Holder
from ipam_server.service import ClusterService
from lab.etcd import Etcd
from lab.proxy import Proxy
from netspace.messages import (
    AllocateRequest,
    Allocation,
    NewPool,
    Released,
    ReleaseRequest,
    ResizePool,
    Selection,
)
from netspace.problems import Problem
from statestore import OutOfSpace, Put, Store, Txn
from tests.etcd.service_world import (
    ask,
    check,
    holders,
    make,
    renewed,
    serving,
    term_of,
    until,
)


def release_of(request: AllocateRequest, generation: int | None = None) -> ReleaseRequest:
    return ReleaseRequest(
        attachment=request.attachment,
        node=request.node,
        claim=request.claim,
        generation=generation,
    )


def test_both_families_slot_and_attachment_are_one_transaction(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            before = await store.revision()
            got = await service.allocate(ask("c1", "web-0"))
            assert (got.ipv4, got.ipv6, got.how) == ("10.0.0.1", "fd00::1", "never")
            assert await store.revision() == before + 1 == got.generation
            keys = Keys("blue")
            for key in (keys.slot(("red", 1)), keys.attachment(("c1", "eth0"))):
                kv = await store.get(key)
                assert kv is not None and kv.mod_revision == got.generation
            again = await service.allocate(ask("c1", "web-0"))
            assert again.how == "repeated"
            assert msgspec.structs.replace(again, how="never") == got
            assert await store.revision() == got.generation
            assert (await service.release(release_of(ask("c1"), got.generation))).released
            assert await store.revision() == got.generation + 1
            assert await store.get(keys.attachment(("c1", "eth0"))) is None
            assert await store.get(keys.released(("red", 1))) is not None
            await check(store, service)

    asyncio.run(scenario())


def test_what_waits_together_goes_together(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            before = await store.revision()
            asks = [ask(f"c{number}") for number in range(200)]
            answers = await asyncio.gather(*map(service.allocate, asks))
            assert sorted(int(answer.slot) for answer in answers) == list(range(1, 201))
            # One alone, then as many as etcd's limit lets into each transaction.
            assert await store.revision() - before <= 4
            await check(store, service, *answers)
            freed = await asyncio.gather(
                *(service.release(release_of(each)) for each in asks[:150])
            )
            assert all(each.released for each in freed)
            await check(store, service, *answers[150:])

    asyncio.run(scenario())


def test_a_loser_falls_out_alone_and_the_state_is_read_anew(etcd: Etcd) -> None:
    """Somebody wrote to etcd by hand what the server's memory does not know."""

    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            term = term_of(service)
            stranger = Holder(note="by hand")
            slot = Put(Keys("blue").slot(("red", 3)), msgspec.json.encode(stranger))
            await store.txn(Txn(then=(slot,)))
            asks = [ask(f"c{number}") for number in range(6)]
            answers = await asyncio.gather(*map(service.allocate, asks), return_exceptions=True)
            lost = [each for each in answers if isinstance(each, BaseException)]
            won = [each for each in answers if isinstance(each, Allocation)]
            assert [each.code for each in lost if isinstance(each, Problem)] == ["changed"]
            assert len(won) == 5
            # The first of them went alone, before the others; none of the winners is disturbed.
            again = await asyncio.gather(*(until(partial(service.allocate, each)) for each in asks))
            assert term_of(service) is not term
            assert {each.slot for each in won} < {each.slot for each in again}
            held = await holders(store)
            assert held.pop(("red", 3))[0] == stranger
            assert {str(index) for _, index in held} == {each.slot for each in again}

    asyncio.run(scenario())


@pytest.mark.parametrize("lost", ["answers", "requests"])
@pytest.mark.parametrize("what", ["allocation", "release"])
def test_a_lost_answer_is_asked_for_until_it_is_known(etcd: Etcd, lost: str, what: str) -> None:
    """After the commit, or before it: the change is made once, and its maker told."""

    async def scenario() -> None:
        async with (
            Proxy(etcd.host, etcd.client_port) as proxy,
            Store([etcd.url]) as beside,
            serving(proxy.url) as directory,
        ):
            service = await make(directory)
            one = await service.allocate(ask("c1", "web-1"))
            before = await beside.revision()
            work: asyncio.Task[Allocation | Released]
            if what == "allocation":
                work = asyncio.create_task(service.allocate(ask("c2", "web-2")))
            else:
                work = asyncio.create_task(service.release(release_of(ask("c1"))))
            setattr(proxy, f"losing_{lost}", True)
            if lost == "answers":
                await until(lambda: _reached(beside, before + 1))
            else:
                await asyncio.sleep(0.1)
            proxy.cut()
            setattr(proxy, f"losing_{lost}", False)
            answer = await work
            if isinstance(answer, Allocation):
                await check(beside, service, one, answer)
                assert (await service.allocate(ask("c2", "web-2"))).generation == answer.generation
            else:
                assert answer.released
                await check(beside, service)
                assert not (await service.release(release_of(ask("c1")))).released

    asyncio.run(scenario())


async def _reached(store: Store, revision: int) -> bool:
    return await store.revision() >= revision


def test_whoever_could_not_wait_asks_again_and_gets_the_same(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with (
            Proxy(etcd.host, etcd.client_port) as proxy,
            Store([etcd.url]) as beside,
            serving(proxy.url) as directory,
        ):
            service = await make(directory)
            before = await beside.revision()
            proxy.losing_answers = True
            # As HTTP's server does when the time is over: nobody waits, and the request goes on.
            given_up = asyncio.create_task(service.allocate(ask("c1", "web-1")))
            await until(lambda: _reached(beside, before + 1))
            assert not given_up.done()
            proxy.losing_answers = False
            proxy.cut()
            got = await until(lambda: service.allocate(ask("c1", "web-1")))
            assert given_up.done(), "one request of an attachment after the other"
            assert (got.slot, got.how) == ("1", "repeated")
            await check(beside, service, got)

    asyncio.run(scenario())


def test_a_request_given_up_and_then_released_by_its_claim_leaves_nothing(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with (
            Proxy(etcd.host, etcd.client_port) as proxy,
            Store([etcd.url]) as beside,
            serving(proxy.url) as directory,
        ):
            service = await make(directory)
            proxy.losing_requests = True
            given_up = asyncio.create_task(service.allocate(ask("c1", "web-1")))
            while not service.state.taken and not given_up.done():
                await asyncio.sleep(0)
            release = asyncio.create_task(service.release(release_of(ask("c1"))))
            await asyncio.sleep(0.1)
            assert not given_up.done()
            proxy.losing_requests = False
            proxy.cut()
            assert (await release).released
            assert given_up.done(), "one request of an attachment after the other"
            assert await holders(beside) == {}
            with pytest.raises(Problem) as caught:
                await service.allocate(ask("c1", "web-1"))
            assert caught.value.code == "claim-released"

    asyncio.run(scenario())


def test_an_add_that_comes_after_its_del_gets_nothing(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            released = await service.release(release_of(ask("c1")))
            assert not released.released
            with pytest.raises(Problem) as caught:
                await service.allocate(ask("c1"))
            assert caught.value.code == "claim-released"
            got = await service.allocate(ask("c1", claim="f" * 32))
            # Nor does the dead claim, or an older generation, free what the new one holds.
            for old in (release_of(ask("c1")), release_of(ask("c1"), got.generation - 1)):
                assert not (await service.release(old)).released
            await check(store, service, got)

    asyncio.run(scenario())


def test_another_claim_of_an_attachment_keeps_the_slot_under_a_new_generation(
    etcd: Etcd,
) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            first = await service.allocate(ask("c1", "web-0"))
            second = await service.allocate(ask("c1", "web-0", claim="e" * 32))
            assert (second.slot, second.how) == (first.slot, "repeated")
            assert second.generation > first.generation
            stale = await service.release(release_of(ask("c1"), first.generation))
            assert not stale.released and str(second.generation) in stale.why
            moved = await service.allocate(ask("c2", "web-0", removed=("c1",)))
            assert (moved.slot, moved.how) == (first.slot, "taken-over")
            assert not (
                await service.release(release_of(ask("c1", claim="e" * 32), second.generation))
            ).released
            await check(store, service, moved)

    asyncio.run(scenario())


def test_pools_are_reshaped_under_load_and_nobody_gets_a_slot_of_another_pool(
    etcd: Etcd,
) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory, size=42)
            stop = False

            async def pods(number: int) -> Allocation:
                """Pods come and go; what the last one holds."""
                request, turn = ask(f"c{number}-0", f"web-{number % 7}"), 0
                while True:
                    answer = await service.allocate(request)
                    owner = term_of(service).state.owner(("red", int(answer.slot)))
                    assert owner is not None and owner.name == "main"
                    if stop:
                        return answer
                    assert (await service.release(release_of(request))).released
                    turn += 1
                    request = ask(f"c{number}-{turn}", f"web-{number % 7}")

            async def admin(name: str) -> None:
                for _ in range(12):
                    await service.shrink_pool("main", ResizePool(size="5"))
                    new = NewPool(name=name, kind="netspace", network="red", size="5")
                    await service.create_pool(new)
                    await service.delete_pool(name)
                    await service.grow_pool("main", ResizePool(size="5"))

            clients = [asyncio.create_task(pods(number)) for number in range(24)]
            await asyncio.gather(admin("a"), admin("b"), admin("c"))
            stop = True
            answers = await asyncio.gather(*clients)
            await check(store, service, *answers)

    asyncio.run(scenario())


def test_who_waits_for_the_next_to_reshape_is_not_let_in_between(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory:
            service = await make(directory)
            term = term_of(service)
            steps: list[str] = []

            async def enter() -> None:
                await term.open()
                steps.append("in")

            async with term.alone():
                waiting = asyncio.create_task(enter())
                await asyncio.sleep(0)
            # The waiting one was waked, but has not run yet.
            async with term.alone():
                await asyncio.sleep(0.01)
                steps.append("alone")
            await waiting
            assert steps == ["alone", "in"]

    asyncio.run(scenario())


def test_a_pool_is_not_deleted_while_an_address_of_it_is_on_its_way(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            new = NewPool(
                name="brief", kind="netspace", network="red", size="5", namespaces=["default"]
            )
            brief = Selection(netspace="brief")
            await service.create_pool(new)
            # Something is under way when both arrive, so that the allocation waits in the queue.
            first, got, deleted = await asyncio.gather(
                service.allocate(ask("c1")),
                service.allocate(ask("c2", selection=brief)),
                service.delete_pool("brief"),
                return_exceptions=True,
            )
            assert isinstance(first, Allocation) and isinstance(got, Allocation)
            assert isinstance(deleted, Problem) and deleted.code == "in-use"
            await check(store, service, first, got)
            await service.release(release_of(ask("c2")))
            # The other way round: whoever comes while the pool goes finds none.
            deleting = asyncio.create_task(service.delete_pool("brief"))
            while not service.term.waiting:
                await asyncio.sleep(0)
            with pytest.raises(Problem) as late:
                await service.allocate(ask("c3", selection=brief))
            assert late.value.code == "pool-unknown"
            await deleting
            await check(store, service, first)

    asyncio.run(scenario())


def test_etcd_killed_under_32_clients_loses_nothing_and_doubles_nothing(etcd: Etcd) -> None:
    async def client(service: ClusterService, number: int, end: asyncio.Event) -> list[Allocation]:
        """Allocates and releases, each until it is answered; what it holds at the end."""
        kept: list[Allocation] = []
        turn = 0
        while not end.is_set():
            turn += 1
            request = ask(f"c{number}-{turn}", f"pod-{number}-{turn}", node=f"node-{number % 4}")
            answer = await until(partial(service.allocate, request), 20)
            if turn % 3:
                generation = answer.generation if turn % 2 else None
                asked = release_of(request, generation)
                await until(partial(service.release, asked), 20)
            else:
                kept.append(answer)
            await asyncio.sleep(0.005)
        return kept

    async def scenario() -> None:
        async with serving(etcd.url) as directory:
            service = await make(directory, size=20_000)
            end = asyncio.Event()
            clients = [asyncio.create_task(client(service, n, end)) for n in range(32)]
            for _ in range(2):
                await asyncio.sleep(0.5)
                await asyncio.to_thread(etcd.kill)
                await asyncio.sleep(0.3)
                await asyncio.to_thread(etcd.start)
            await asyncio.sleep(0.5)
            end.set()
            answers = [answer for kept in await asyncio.gather(*clients) for answer in kept]
            assert len(answers) > 32
            slots = [answer.slot for answer in answers]
            assert len(set(slots)) == len(slots)
            async with Store([etcd.url]) as store:
                await check(store, await until(lambda: _led(service)), *answers)

    asyncio.run(scenario())


async def _led(service: ClusterService) -> ClusterService:
    await service.wait_until_leading()
    return service


def test_a_full_etcd_refuses_allocations_with_the_reason_and_keeps_its_leader(
    tmp_path: Path, make_etcd: Callable[[Etcd], Etcd]
) -> None:
    etcd = make_etcd(Etcd(tmp_path / "etcd", quota=4 << 20))

    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            term = term_of(service)
            one = await service.allocate(ask("c1"))
            two = await service.allocate(ask("c2"))
            with pytest.raises(OutOfSpace):
                for number in range(100):
                    await store.txn(Txn(then=(Put(b"big/%d" % number, bytes(400_000)),)))
            await until(lambda: _alarmed(store))
            for _ in range(3):
                for refused in (
                    service.allocate(ask("c3")),
                    service.release(release_of(ask("c2"))),
                ):
                    with pytest.raises(Problem) as caught:
                        await refused
                    assert caught.value.code == "state-full"
            assert (await service.held(ask("c1").attachment)).slot == one.slot
            assert (await service.pool("main")).used == 2
            assert (await service.allocate(ask("c1"))).how == "repeated"
            await renewed(term_of(service)._leader.lease)
            assert service.leading and term_of(service) is term
            assert (await directory.status()).ready

            await store.delete_prefix(b"big/", chunk=2)
            await asyncio.to_thread(etcd.compact, await store.revision())
            await asyncio.to_thread(etcd.defragment)
            await asyncio.to_thread(etcd.disarm)
            three = await until(lambda: service.allocate(ask("c3")))
            assert term_of(service) is term and three.slot == "3"
            await check(store, service, one, two, three)

    asyncio.run(scenario())


async def _alarmed(store: Store) -> bool:
    (member,) = await store.status()
    return "NOSPACE" in member.alarms


def test_a_fixed_address_is_decided_by_what_is_under_way(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory:
            service = await make(directory)
            fixed = Selection(ip=("10.0.0.9",))
            asks = [ask(f"c{n}", f"p{n}", selection=fixed) for n in range(20)]
            answers = await asyncio.gather(*map(service.allocate, asks), return_exceptions=True)
            won = [each for each in answers if isinstance(each, Allocation)]
            lost = {each.code for each in answers if isinstance(each, Problem)}
            assert len(won) == 1 and won[0].ipv6 == "fd00::9" and lost == {"address-taken"}

    asyncio.run(scenario())
