"""Work that goes on whatever etcd says."""

from __future__ import annotations

import asyncio
import logging

import pytest

from statestore import BadRequest, Unavailable, again_and_again, lasting


def test_what_fails_is_tried_again_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lasting, "PAUSE", 0.0)
    denied = BadRequest("get", why="permission denied")
    outcomes: list[Exception | None] = [denied, denied, None, denied, Unavailable("get"), None]
    enough = asyncio.Event()

    async def work() -> None:
        if not outcomes:
            enough.set()
            await asyncio.sleep(60)
        elif (error := outcomes.pop(0)) is not None:
            raise error

    async def run() -> None:
        working = asyncio.create_task(again_and_again(work, "leading"))
        async with asyncio.timeout(5):
            await enough.wait()
        working.cancel()

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert ["permission denied" in each.message for each in caplog.records] == [True, True, False]


def test_what_is_no_failure_of_etcds_is_raised() -> None:
    async def work() -> None:
        raise KeyError("a fault of ours")

    with pytest.raises(KeyError):
        asyncio.run(again_and_again(work, "leading"))
