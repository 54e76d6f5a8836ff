"""Running jobs in network namespaces, each in a thread of its own.

``setns`` moves one thread for good, so a thread that did it ends with its job and is never
handed back to a pool. Any number of jobs may run at once in one process.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

from hostnet.netlink import Net, Observer
from hostnet.netns import Netns
from netspace.threads import Outcome, outcome_of, told

T = TypeVar("T")


def run_in(netns: Netns | None, job: Callable[[Net], T], observer: Observer | None = None) -> T:
    """Run ``job`` with a ``Net`` in ``netns`` (None: the one this process is in); its result."""
    return _waited_for(lambda late: _job_in(netns, job, observer, late))


def run_between(netns: Netns, job: Callable[[Net, Net], T], observer: Observer | None = None) -> T:
    """Run ``job`` in ``netns`` with two ``Net``: the host's first, then the namespace's.

    The host's can do what netlink can; sysctls and packets need the thread itself in the
    namespace, and it is in ``netns``.
    """
    return _waited_for(lambda late: _job_between(netns, job, observer, late))


class Kernel:
    """The kernel as coroutines get it: the asynchronous form of ``run_in`` and ``run_between``.

    ``observer`` is told every single change, in the thread that made it; what it raises
    makes the job fail after that step. A cancelled caller gets its cancellation only when
    its job has ended, so that what it then undoes races with nothing.
    """

    def __init__(self, observer: Observer | None = None) -> None:
        self._observer = observer

    async def run(self, netns: Netns | None, job: Callable[[Net], T]) -> T:
        """``run_in`` without blocking the event loop."""
        return await told(partial(_start, lambda late: _job_in(netns, job, self._observer, late)))

    async def run_between(self, netns: Netns, job: Callable[[Net, Net], T]) -> T:
        """``run_between`` without blocking the event loop."""
        return await told(
            partial(_start, lambda late: _job_between(netns, job, self._observer, late))
        )


def _job_in(
    netns: Netns | None, job: Callable[[Net], T], observer: Observer | None, late: ExitStack
) -> T:
    if netns is not None:
        netns.enter()
    with Net(observer, late=late) as net:
        return job(net)


def _job_between(
    netns: Netns, job: Callable[[Net, Net], T], observer: Observer | None, late: ExitStack
) -> T:
    with ExitStack() as opened:
        host = opened.enter_context(Net(observer, entered=False, late=late))
        netns.enter()
        return job(host, opened.enter_context(Net(observer, late=late)))


def _start(work: Callable[[ExitStack], T], tell: Callable[[Outcome[T]], object]) -> None:
    """Runs the work in a thread of its own and tells what came of it, in that thread. What it
    leaves in the stack is closed after that."""

    def body() -> None:
        with ExitStack() as late:
            tell(outcome_of(lambda: work(late)))

    # Not threading.Thread: its start waits until the new thread has had its turn.
    _thread.start_new_thread(body, ())


def _waited_for(work: Callable[[ExitStack], T]) -> T:
    outcomes: SimpleQueue[Outcome[T]] = SimpleQueue()
    _start(work, outcomes.put)
    return outcomes.get().value()
