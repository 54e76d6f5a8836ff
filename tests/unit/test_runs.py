"""Work that takes longer than a request: begun, waited for, ended when nobody asks any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from ipam_server import runs
from ipam_server.runs import Runs, UnderWay
from netspace.problems import Problem

Told = Callable[[int], None]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "PATIENCE", 0.01)


def test_who_begins_it_is_told_how_far_it_is_and_then_what_came_of_it_once() -> None:
    async def scenario() -> None:
        go = asyncio.Event()

        async def work(told: Told) -> str:
            told(7)
            await go.wait()
            return "done"

        known: Runs[str] = Runs()
        begun = await known.ask(None, work)
        assert isinstance(begun, UnderWay) and begun.progress == 7
        assert isinstance(await known.ask(begun.run, work), UnderWay)
        go.set()
        assert await known.ask(begun.run, work) == "done"
        with pytest.raises(Problem) as caught:
            await known.ask(begun.run, work)
        assert caught.value.code == "not-found"

    asyncio.run(scenario())


def test_its_failure_is_told_to_whoever_waits() -> None:
    async def work(told: Told) -> str:
        raise Problem("state-unavailable", "etcd is away")

    async def scenario() -> None:
        with pytest.raises(Problem, match="etcd is away"):
            await Runs[str]().ask(None, work)

    asyncio.run(scenario())


def test_what_nobody_asks_for_is_ended_and_there_are_never_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = []

    async def work(told: Told) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)
        return ""

    async def scenario() -> None:
        known: Runs[str] = Runs()
        begun = [await known.ask(None, work) for _ in range(runs.MOST)]
        with pytest.raises(Problem) as caught:
            await known.ask(None, work)
        assert caught.value.code == "busy"
        monkeypatch.setattr(runs, "FORGOTTEN", 1.0)
        for each in begun:
            assert isinstance(each, UnderWay)
            await known.ask(each.run, work)
        async with asyncio.timeout(5):
            while len(ended) < runs.MOST:
                await asyncio.sleep(0.01)
        assert isinstance(await known.ask(None, work), UnderWay)
        await known.end()
        assert len(ended) == runs.MOST + 1

    asyncio.run(scenario())
