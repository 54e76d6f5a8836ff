"""Batches over a real etcd: every item ends as it would have ended alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TypeVar

import msgspec
import pytest

from ipam_server.service import ClusterService
from ipam_server.term import Limits
from lab.etcd import Etcd
from lab.proxy import Proxy
from netspace.batches import MAX_ITEMS, AllocationBatch, ReleaseBatch, opened
from netspace.callers import LOCAL, Caller, enter
from netspace.messages import (
    AllocateRequest,
    Allocation,
    NewPool,
    Released,
    ReleaseRequest,
    Selection,
)
from netspace.problems import Problem
from statestore import Store
from tests.etcd.service_world import ask, check, holders, make, serving, until

A = TypeVar("A", Allocation, Released)


async def allocate(
    service: ClusterService, asks: Sequence[AllocateRequest]
) -> list[Allocation | Problem]:
    answer = await service.allocate_batch(AllocationBatch(items=[*asks]))
    return opened(answer.items, Allocation)


async def release(
    service: ClusterService, asks: Sequence[ReleaseRequest]
) -> list[Released | Problem]:
    return opened((await service.release_batch(ReleaseBatch(items=[*asks]))).items, Released)


def release_of(request: AllocateRequest, generation: int | None = None) -> ReleaseRequest:
    return ReleaseRequest(
        attachment=request.attachment,
        node=request.node,
        claim=request.claim,
        generation=generation,
    )


def good(answers: Sequence[A | Problem]) -> list[A]:
    """The answers, of which none may be a problem."""
    found = [each for each in answers if not isinstance(each, Problem)]
    assert len(found) == len(answers), [str(e) for e in answers if isinstance(e, Problem)][:3]
    return found


def codes(answers: Sequence[A | Problem]) -> list[str]:
    return [each.code if isinstance(each, Problem) else "" for each in answers]


def test_a_full_batch_gives_each_attachment_both_addresses_of_a_slot_of_its_own(
    etcd: Etcd,
) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            before = await store.revision()
            asks = [ask(f"c{number}") for number in range(MAX_ITEMS)]
            given = good(await allocate(service, asks))
            assert len(given) == MAX_ITEMS
            assert len({each.slot for each in given}) == MAX_ITEMS
            assert len({each.ipv4 for each in given} - {None}) == MAX_ITEMS
            assert len({each.ipv6 for each in given} - {None}) == MAX_ITEMS
            # What waits shares transactions: far fewer than items.
            assert await store.revision() - before < MAX_ITEMS / 20
            await check(store, service, *given)
            held = await holders(store)
            for request, answer in zip(asks, given, strict=True):
                holder, _ = held["red", int(answer.slot)]
                assert holder.container == request.attachment.container, "in the order asked"
            freed = good(await release(service, [release_of(each) for each in asks]))
            assert all(each.released for each in freed)
            await check(store, service)

    asyncio.run(scenario())


def test_one_items_failure_is_its_own_and_told_as_if_it_had_come_alone(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            first = await service.allocate(ask("c0", "web-0"))
            gone = ask("c9", "web-9")
            await service.release(release_of(gone))
            asks = [
                ask("c1", "web-1"),
                ask("c2", "web-2", selection=Selection(ip=(str(first.ipv4),))),
                ask("c3", "web-3", selection=Selection(netspace="nowhere")),
                gone,
                ask("c4", "web-4", selection=Selection(ip=("192.0.2.1",))),
                ask("c5", "web-5"),
            ]
            answers = await allocate(service, asks)
            assert codes(answers)[:4] == ["", "address-taken", "pool-unknown", "claim-released"]
            assert codes(answers)[4:] == ["address-unusable", ""]
            for request, answer in zip(asks, answers, strict=True):
                try:
                    alone = await service.allocate(request)
                except Problem as problem:
                    assert isinstance(answer, Problem)
                    assert answer.document() == problem.document()
                else:
                    assert isinstance(answer, Allocation)
                    assert msgspec.structs.replace(answer, how="repeated") == alone
            given = [each for each in answers if isinstance(each, Allocation)]
            await check(store, service, first, *given)

    asyncio.run(scenario())


def test_items_of_one_attachment_are_carried_out_in_their_order(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            claims = [f"{number:032x}" for number in range(1, 6)]
            asks = [ask("c1", claim=claim) for claim in claims]
            given = good(await allocate(service, [asks[0], *asks]))
            assert given[1].how == "repeated"
            assert len({each.slot for each in given}) == 1
            generations = [each.generation for each in given[1:]]
            assert generations == sorted(set(generations)), "each claim after the one before"
            ((holder, _),) = (await holders(store)).values()
            assert holder.claim == claims[-1]
            # Only the last generation is held; what comes after its release finds nothing.
            wanted = [
                *(release_of(each, a.generation) for each, a in zip(asks, given[1:], strict=True)),
                release_of(asks[-1], generations[-1]),
            ]
            freed = good(await release(service, wanted))
            assert [each.released for each in freed] == [False] * 4 + [True, False]
            await check(store, service)

    asyncio.run(scenario())


def test_a_repeated_batch_gets_the_same_answers_and_changes_nothing(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            asks = [ask(f"c{number}", f"p{number}") for number in range(50)]
            first = good(await allocate(service, asks))
            revision = await store.revision()
            again = good(await allocate(service, asks))
            assert {each.how for each in again} == {"repeated"}
            assert [msgspec.structs.replace(each, how="never") for each in again] == first
            assert await store.revision() == revision
            # Two copies at once, as of a client that has heard nothing.
            more = [ask(f"d{number}") for number in range(50)]
            both = await asyncio.gather(allocate(service, more), allocate(service, more))
            one, other = map(good, both)
            assert [each.generation for each in one] == [each.generation for each in other]
            await check(store, service, *first, *one)

    asyncio.run(scenario())


def test_a_node_gets_its_own_items_and_each_of_another_node_is_refused_alone(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            theirs = await service.allocate(ask("c0", "web-0", node="node-2"))
            enter(Caller("node", "blue", "node-1"))
            asks = [
                ask("c1"),
                ask("c2", node="node-2"),
                ask("c3", selection=Selection(ip=(str(theirs.ipv4),))),
                ask("c4"),
            ]
            answers = await allocate(service, asks)
            assert codes(answers) == ["", "forbidden", "address-taken", ""]
            forbidden, taken = answers[1], answers[2]
            assert isinstance(forbidden, Problem)
            assert "POST /v1/clusters/blue/allocations: that is about node node-2" in str(forbidden)
            assert isinstance(taken, Problem)
            assert "web-0" not in str(taken), "whose it is is not a node's to know"
            freed = await release(
                service,
                [
                    release_of(ask("c0", node="node-2"), theirs.generation),
                    release_of(ask("c0"), theirs.generation),
                    release_of(asks[0]),
                ],
            )
            assert codes(freed) == ["forbidden", "", ""]
            assert [each.released for each in freed if isinstance(each, Released)] == [False, True]
            enter(LOCAL)
            last = answers[3]
            assert isinstance(last, Allocation)
            await check(store, service, theirs, last)

    asyncio.run(scenario())


def test_a_batch_that_finds_the_queue_full_is_busy_and_nothing_of_it_is_done(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with (
            Proxy(etcd.host, etcd.client_port) as proxy,
            Store([etcd.url]) as beside,
            serving(
                proxy.url, ttl=10, timeout=5, limits=Limits(timeout=5, max_waiting=20)
            ) as directory,
        ):
            service = await make(directory)
            proxy.hold()
            alone = [
                asyncio.create_task(service.allocate(ask(f"c{number}"))) for number in range(15)
            ]
            await asyncio.sleep(0)
            fitting = asyncio.create_task(allocate(service, [ask(f"f{n}") for n in range(5)]))
            await asyncio.sleep(0)
            asks = [ask(f"b{number}") for number in range(10)]
            answers = await allocate(service, asks)
            assert codes(answers) == ["busy"] * 10
            assert {e.retry_after for e in answers if isinstance(e, Problem)} == {1.0}
            assert codes(await release(service, [release_of(each) for each in asks])) == (
                ["busy"] * 10
            )
            one_more = asyncio.create_task(service.allocate(ask("c99")))
            proxy.flow()
            given = [*await asyncio.gather(*alone), *good(await fitting), await one_more]
            await check(beside, service, *given)
            # The same batch fits now: its claims are not dead, and no slot is lost.
            again = good(await until(partial(allocate, service, asks)))
            await check(beside, service, *given, *again)

    asyncio.run(scenario())


def test_an_unknown_outcome_is_of_the_items_it_befell_and_a_repeat_tells(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with (
            Proxy(etcd.host, etcd.client_port) as proxy,
            Store([etcd.url]) as beside,
            serving(proxy.url, timeout=2, limits=Limits(timeout=3)) as directory,
        ):
            service = await make(directory)
            known = await service.allocate(ask("c0"))
            proxy.losing_answers = True
            asks = [ask(f"c{number}") for number in range(40)]
            answers = await allocate(service, asks)
            assert codes(answers)[0] == "", "what needed nothing of etcd is answered"
            assert set(codes(answers)[1:]) <= {"outcome-unknown", "state-unavailable"}
            assert "outcome-unknown" in codes(answers)
            proxy.losing_answers = False
            proxy.cut()

            async def all_given() -> list[Allocation] | None:
                found = await allocate(service, asks)
                return good(found) if set(codes(found)) == {""} else None

            given = await until(all_given)
            assert given is not None
            assert given[0].generation == known.generation
            await check(beside, service, *given)

    asyncio.run(scenario())


@pytest.mark.parametrize("way", ["alone", "in a batch"])
def test_a_journal_replayed_after_the_address_was_given_again_frees_nothing(
    etcd: Etcd, way: str
) -> None:
    """A pool of one address: released, given to another attachment, or to the same one again."""

    async def scenario() -> None:
        async with serving(etcd.url) as directory, Store([etcd.url]) as store:
            service = await make(directory, size=1)
            await service.create_pool(
                NewPool(
                    name="own",
                    kind="netspace",
                    network="red",
                    size="1",
                    cooldown=0,
                    namespaces=["*"],
                )
            )
            own = Selection(netspace="own")
            asks = [ask("c1"), ask("c2", selection=own)]
            old = good(await allocate(service, asks))
            journal = [
                release_of(request, generation)
                for request, answer in zip(asks, old, strict=True)
                for generation in (answer.generation, None)
            ]
            assert all(each.released for each in good(await release(service, journal[::2])))

            another = await service.allocate(ask("c3"))
            the_same = await service.allocate(ask("c2", selection=own, claim="f" * 32))
            assert [another.slot, the_same.slot] == [each.slot for each in old]

            if way == "alone":
                answers = [await service.release(each) for each in journal]
            else:
                answers = good(await release(service, journal))
            assert [each.released for each in answers] == [False] * 4
            assert "another generation" in answers[2].why
            assert "another claim" in answers[3].why
            await check(store, service, another, the_same)

    asyncio.run(scenario())
