"""Pods' interfaces made by a second process of the agent.

Python runs one thread of a process at a time, and making an interface takes as much of it as all
the rest of an ADD: two processes have two processors for a burst of pods. An interface that is made
alone is quicker where it is asked for. Where the second process has ended, the agent makes them all
itself.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import ctypes
import logging
import os
import pickle
import signal
import socket
import traceback
from collections.abc import Callable
from functools import partial
from typing import Final, NoReturn

import hostnet
from cni_plugins.wiring import HostWiring, Plan, Wired, attach_between
from hostnet import Kernel, Observer
from netspace.threads import Outcome, outcome_of, told

logger = logging.getLogger(__name__)

SEVERAL: Final = 2
AT_ONCE: Final = 6
"""Interfaces that the process makes at once: the others go on while some wait for the kernel."""
_QUEUED: Final = 2
"""Plans that lie there already when one of these is done."""
_MOST: Final = 1 << 16
"""Bytes of a request or an answer. A longer request is not sent, a longer answer is cut."""
_PR_SET_PDEATHSIG: Final = 1
_FIRST_FILE: Final = 3

Tell = Callable[[Outcome[Wired]], None]


class MakerGone(Exception):
    """The process takes no more, or has ended and what it was working on may be half made."""


class Maker:
    """The process, and what it was asked for."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid = pid
        self.gone = False
        self._connection = connection
        self._asked = 0
        self._waiting: dict[int, Tell] = {}

    @staticmethod
    def start(observer: Observer | None = None) -> Maker:
        """Forks it, which only a process with one thread may do; what it needs is imported before.
        It ends with this process, however that ends. `observer` is told there of every change."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _work(parent, its, observer)
        its.close()
        ours.setblocking(False)
        return Maker(pid, ours)

    def watch(self) -> None:
        """Takes its answers from now on, and notices its end, in the running event loop."""
        asyncio.get_running_loop().add_reader(self._connection, self._read)

    def ask(self, request: bytes, tell: Tell) -> None:
        """Has a pickled `Plan` carried out; `tell` gets what came of it, in the event loop."""
        if self.gone:
            return tell(Outcome(error=MakerGone()))
        self._asked += 1
        self._waiting[self._asked] = tell
        try:
            self._connection.send(pickle.dumps((self._asked, request)))
        except BlockingIOError:
            self._waiting.pop(self._asked)(Outcome(error=MakerGone()))
        except OSError:
            self._kill()

    def _read(self) -> None:
        while not self.gone:
            try:
                data = self._connection.recv(_MOST)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                return self._ended()
            try:
                number, outcome = pickle.loads(data)
                tell = self._waiting.pop(number)
            except Exception:
                logger.exception("what the process that makes interfaces answered is no answer")
                return self._kill()
            tell(outcome)

    def _kill(self) -> None:
        """Its end of the connection closes once the last of its threads has left the kernel: only
        then is it known what it made."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _ended(self) -> None:
        self.gone = True
        asyncio.get_running_loop().remove_reader(self._connection)
        self._connection.close()
        self._kill()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        logger.error("the process that makes interfaces has ended, the agent makes them itself")
        waiting, self._waiting = self._waiting, {}
        for tell in waiting.values():
            tell(Outcome(error=MakerGone()))


class MakerWiring(HostWiring):
    """Has interfaces made by the other process while at least `several` are wanted at once, but for
    those that first ask their VLAN: these mostly wait. Made in the event loop that it serves."""

    def __init__(self, kernel: Kernel, maker: Maker, several: int = SEVERAL) -> None:
        super().__init__(kernel)
        self._maker, self._several = maker, several
        self._wanted = 0
        self._elsewhere_at_once = asyncio.Semaphore(AT_ONCE + _QUEUED)
        maker.watch()

    async def attach(self, plan: Plan) -> Wired:
        self._wanted += 1
        try:
            if plan.probe or self._maker.gone or self._wanted < self._several:
                return await super().attach(plan)
            return await self._elsewhere(plan)
        finally:
            self._wanted -= 1

    async def _elsewhere(self, plan: Plan) -> Wired:
        request = pickle.dumps(plan)
        if len(request) > _MOST // 2:
            return await super().attach(plan)
        outcomes: list[Outcome[Wired]] = []

        def begin(tell: Tell) -> None:
            def ended(outcome: Outcome[Wired]) -> None:
                outcomes.append(outcome)
                tell(outcome)

            self._maker.ask(request, ended)

        try:
            async with self._elsewhere_at_once:
                return await told(begin)
        except (asyncio.CancelledError, MakerGone) as failure:
            if outcomes:
                await self._take_back(plan, outcomes[0])
            if not isinstance(failure, MakerGone):
                raise
        return await super().attach(plan)

    async def _take_back(self, plan: Plan, outcome: Outcome[Wired]) -> None:
        """What was made and nobody wants any more, or may be half made: by its MAC it is known."""
        if outcome.result is not None:
            await self.undo(plan, outcome.result[0])
        elif isinstance(outcome.error, MakerGone) and plan.mac:
            await self.detach(plan.netns, plan.ifname, plan.mac)


def _work(parent: int, connection: socket.socket, observer: Observer | None) -> NoReturn:
    """The whole life of the other process."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
        # It goes when the agent has gone: calls under way are finished by both.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        file = connection.fileno()
        os.closerange(_FIRST_FILE, file)
        os.closerange(file + 1, os.sysconf("SC_OPEN_MAX"))
        for _ in range(AT_ONCE - 1):
            _thread.start_new_thread(_serve, (connection, observer))
    except BaseException:
        logger.exception("the process that makes interfaces could not begin")
        os._exit(1)
    _serve(connection, observer)


def _serve(connection: socket.socket, observer: Observer | None) -> NoReturn:
    """Carries out one plan after the other, until the agent has closed its end. What cannot be
    answered ends the process: the agent would wait for ever."""
    try:
        while data := connection.recv(_MOST):
            number, request = pickle.loads(data)
            outcome = outcome_of(partial(_attach, pickle.loads(request), observer))
            connection.send(_answer(number, outcome))
        os._exit(0)
    except BaseException:
        logger.exception("the process that makes interfaces failed")
        os._exit(1)


def _attach(plan: Plan, observer: Observer | None) -> Wired:
    with hostnet.open_netns(plan.netns) as netns:
        job = partial(attach_between, netns=netns, plan=plan)
        return hostnet.run_between(netns, job, observer)


def _answer(number: int, outcome: Outcome[Wired]) -> bytes:
    error = outcome.error
    if error is not None and not isinstance(error, hostnet.KernelError):
        # The stack is here, and whoever logs the error is there.
        text = "".join(traceback.format_exception(error))
        outcome = Outcome(error=RuntimeError(text[-_MOST // 4 :]))
    answer = pickle.dumps((number, outcome))
    if len(answer) > _MOST:
        answer = pickle.dumps((number, Outcome(error=RuntimeError(str(error)[: _MOST // 4]))))
    return answer
