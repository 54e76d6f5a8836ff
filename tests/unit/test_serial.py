"""Locks by key: one at a time, first come first served, nothing kept, nobody lost."""

from __future__ import annotations

import asyncio

from ipam_server.serial import KeyedLocks


def test_uses_of_one_key_come_one_after_the_other_in_the_order_of_asking() -> None:
    async def scenario() -> None:
        locks, inside, order = KeyedLocks(), 0, []

        async def use(number: int) -> None:
            nonlocal inside
            async with locks.hold("a"):
                inside += 1
                assert inside == 1
                await asyncio.sleep(0)
                order.append(number)
                inside -= 1

        await asyncio.gather(*map(use, range(20)))
        assert order == list(range(20))
        assert len(locks) == 0

    asyncio.run(scenario())


def test_uses_of_different_keys_do_not_wait_for_one_another() -> None:
    async def scenario() -> None:
        locks = KeyedLocks()
        async with asyncio.timeout(1), locks.hold("a"), locks.hold("b"):
            assert len(locks) == 2

    asyncio.run(scenario())


def test_whoever_is_cancelled_while_waiting_is_passed_over() -> None:
    async def scenario() -> None:
        locks, got = KeyedLocks(), []

        async def use(number: int) -> None:
            async with locks.hold("a"):
                got.append(number)

        async with locks.hold("a"):
            waiting = [asyncio.create_task(use(number)) for number in range(3)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*waiting, return_exceptions=True)
        assert got == [1, 2]
        assert len(locks) == 0

    asyncio.run(scenario())


def test_whoever_is_cancelled_just_as_its_turn_comes_passes_it_on() -> None:
    async def scenario() -> None:
        locks, got = KeyedLocks(), []

        async def use(number: int) -> None:
            async with locks.hold("a"):
                got.append(number)

        async with locks.hold("a"):
            waiting = [asyncio.create_task(use(number)) for number in range(2)]
            await asyncio.sleep(0)
        # Its turn was given to the first one, which has not run since.
        waiting[0].cancel()
        async with asyncio.timeout(1):
            await asyncio.gather(*waiting, return_exceptions=True)
        assert got == [1]
        assert len(locks) == 0

    asyncio.run(scenario())


def test_a_failure_inside_gives_the_lock_back() -> None:
    async def scenario() -> None:
        locks = KeyedLocks()
        try:
            async with locks.hold("a"):
                raise LookupError
        except LookupError:
            pass
        async with asyncio.timeout(1), locks.hold("a"):
            pass
        assert len(locks) == 0

    asyncio.run(scenario())
