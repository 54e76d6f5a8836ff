"""Work in threads beside an event loop: results, errors, bounds, and a cancellation that waits."""

from __future__ import annotations

import _thread
import asyncio
import threading

import pytest

from netspace.threads import Threads


def test_what_the_work_gives_or_raises_comes_back() -> None:
    async def both() -> int:
        threads = Threads(2)
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)
        return await threads.run(lambda: 7)

    assert asyncio.run(both()) == 7


def test_no_more_threads_than_allowed_do_all_of_the_work() -> None:
    async def many() -> set[int]:
        threads = Threads(3)
        return set(await asyncio.gather(*(threads.run(threading.get_ident) for _ in range(50))))

    assert 1 <= len(asyncio.run(many())) <= 3


def test_a_cancellation_is_passed_on_when_the_work_has_ended() -> None:
    begun, may_end = threading.Event(), threading.Event()
    ended: list[bool] = []

    def work() -> None:
        begun.set()
        may_end.wait(10)
        ended.append(True)

    async def cancelled() -> None:
        task = asyncio.ensure_future(Threads(1).run(work))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [True]

    asyncio.run(cancelled())


def test_work_that_no_thread_can_be_started_for_is_refused_and_never_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads, done = Threads(2), list[str]()

    def full(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        with monkeypatch.context() as context:
            context.setattr(_thread, "start_new_thread", full)
            for _ in range(3):
                with pytest.raises(RuntimeError):
                    await threads.run(lambda: done.append("refused"))
        async with asyncio.timeout(5):
            await threads.run(lambda: done.append("done"))

    asyncio.run(run())
    assert done == ["done"]
