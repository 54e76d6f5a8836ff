"""The agent's side of the CNI socket: who may ask, how much at once, and what happens when somebody
hangs up or the agent is told to stop.

One connection carries one call (`frames.py`). A call is worked on by the same coroutines as in an
executable (`operations.operate`). A caller that hangs up was killed: what its call began is undone,
as SIGTERM undoes it in an executable.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from cni_plugins import frames, operations, protocol, sockets, status
from cni_plugins.attachment import Host, key_of
from cni_plugins.frames import Answer, Question, Request
from cni_plugins.hosts import Hosts
from cni_plugins.netconf import OWN_IPAM, node_config_path, parse_netconf
from cni_plugins.node_config import AgentSection
from cni_plugins.operations import Interruptible
from cni_plugins.protocol import TRY_AGAIN, CniError, Invocation
from cni_plugins.records import Plugin
from cni_plugins.setting import misconfigured
from cni_plugins.slots import Slots
from netspace.messages import NetworkView
from netspace.problems import Problem

logger = logging.getLogger(__name__)

MAX_HELD: Final = 64 << 20
"""Bytes of requests that are held at once; real ones have a few thousand each."""
SPARE: Final = 16
"""Connections beyond those that may work or wait: for STATUS, and for whoever asks of the agent."""
ANSWER_TIME: Final = 10.0
"""Seconds a caller may take to take its answer."""
UNDO_TIME: Final = 10.0
"""Seconds that undoing may take once the agent stops."""
_BUFFER: Final = 16 << 10
_ACCEPTED: Final = 64

Ask = Callable[[], Awaitable[bytes]]


class Witness:
    """Who wants to know what became of calls; does nothing by itself."""

    def succeeded(self, invocation: Invocation, networks: Sequence[NetworkView]) -> None:
        """An operation on attachments was done; the server gave addresses of these networks."""

    def left_pending(self) -> None:
        """Something is left of an attachment that is to be taken back."""

    def ended(self, host: Host, invocation: Invocation, failure: BaseException | None) -> None:
        """An operation came to its end on this host, or failed so. The caller waits yet."""


class Witnesses(Witness):
    """Several, told one after the other."""

    def __init__(self, *all_: Witness) -> None:
        self._all = all_

    def succeeded(self, invocation: Invocation, networks: Sequence[NetworkView]) -> None:
        for each in self._all:
            each.succeeded(invocation, networks)

    def left_pending(self) -> None:
        for each in self._all:
            each.left_pending()

    def ended(self, host: Host, invocation: Invocation, failure: BaseException | None) -> None:
        for each in self._all:
            each.ended(host, invocation, failure)


class Counts(msgspec.Struct):
    """What became of connections, and of calls by command and outcome: `done` or the code."""

    connections: int = 0
    refused: int = 0
    malformed: int = 0
    hung_up: int = 0
    calls: dict[str, Counter[str]] = msgspec.field(default_factory=dict)

    def ended(self, command: str, outcome: str) -> None:
        self.calls.setdefault(command, Counter())[outcome] += 1


class _Full(Exception):
    """Requests hold as many bytes as they may."""


class Caller:
    """The other end of a connection. Its socket is used as it is: a call is one request and one
    answer, and asyncio's streams cost as much as all the rest of receiving them."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._come = bytearray()

    async def exactly(self, count: int) -> bytes:
        """So many bytes; `IncompleteReadError` where fewer come, `OSError`."""
        while len(self._come) < count:
            part = await self._loop.sock_recv(self._socket, _BUFFER)
            if not part:
                raise asyncio.IncompleteReadError(bytes(self._come), count)
            self._come += part
        taken = bytes(self._come[:count])
        del self._come[:count]
        return taken

    @contextlib.contextmanager
    def watched(self, gone: Callable[[], None]) -> Iterator[None]:
        """Tells, once, when the caller hangs up. Nothing may follow a request, so whatever comes
        means that it is no more."""

        def readable() -> None:
            self._loop.remove_reader(self._socket)
            gone()

        if self._come:
            gone()
        else:
            self._loop.add_reader(self._socket, readable)
        try:
            yield
        finally:
            self._loop.remove_reader(self._socket)

    async def write(self, data: bytes) -> None:
        """All of it; `OSError`."""
        await self._loop.sock_sendall(self._socket, data)

    def close(self) -> None:
        self._socket.close()


class Agent:
    """Serves a listening socket until it is stopped. `limits` may be replaced at any time;
    `questions` are what it can be asked about itself, each answered with JSON."""

    def __init__(self, hosts: Hosts, limits: AgentSection, witness: Witness | None = None) -> None:
        self.limits = limits
        self.counts = Counts()
        self.questions: dict[str, Ask] = {}
        self.slots = Slots()
        self._hosts = hosts
        self._witness = witness or Witness()
        self._listener: socket.socket | None = None
        self._connections: dict[asyncio.Task[None], Interruptible[Answer] | None] = {}
        self._held = 0
        self._paused = False

    @property
    def open(self) -> int:
        """Connections there are now."""
        return len(self._connections)

    def serve(self, listener: socket.socket) -> None:
        """Begins to take connections from the socket, which is the agent's from now on."""
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    async def stop(self, within: float, unlink: Path | None = None) -> None:
        """Takes no more connections, finishes what was taken within so many seconds, and undoes the
        rest. With `unlink` the socket at this path is the agent's own: what waits on it is taken
        yet, since nobody else will. The others wait for the next agent."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            if unlink is not None:
                unlink.unlink(missing_ok=True)
                self._accept(bounded=False)
            self._listener.close()
            self._listener = None
        if self._connections:
            await asyncio.wait(self._connections, timeout=within)
        for task, work in self._connections.items():
            (work or task).cancel()
        if self._connections:
            logger.warning("calls are undone, since the agent stops", extra={"calls": self.open})
            await asyncio.wait(self._connections, timeout=UNDO_TIME)

    def _accept(self, bounded: bool = True) -> None:
        """Takes connections; those beyond the bounds wait in the kernel's queue."""
        listener, loop = self._listener, asyncio.get_running_loop()
        assert listener is not None
        for _ in range(_ACCEPTED if bounded else sockets.BACKLOG):
            if bounded and self.open >= self._most():
                self._paused = True
                loop.remove_reader(listener)
                return
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.error("no connection can be taken", extra={"error": error.strerror})
                self._paused = True
                loop.remove_reader(listener)
                loop.call_later(1.0, self._resume)
                return
            self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        self.counts.connections += 1
        uid = sockets.uid_of_peer(connection)
        if uid not in (0, os.geteuid()):
            self.counts.refused += 1
            logger.warning("who is not root may not ask the agent", extra={"uid": uid})
            connection.close()
            return
        task = asyncio.ensure_future(self._connected(connection))
        self._connections[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._connections[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a connection failed", exc_info=error)
        if self.open < self._most():
            self._resume()

    def _resume(self) -> None:
        if self._paused and self._listener is not None:
            self._paused = False
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _most(self) -> int:
        return self.limits.at_once + self.limits.waiting + SPARE

    async def _connected(self, connection: socket.socket) -> None:
        deadline = asyncio.get_running_loop().time() + self.limits.timeout
        caller = Caller(connection)
        try:
            answer = await self._answer(caller, deadline)
            if answer is not None:
                async with asyncio.timeout(ANSWER_TIME):
                    await caller.write(frames.encode_answer(answer))
        except OSError:  # TimeoutError is one
            self.counts.hung_up += 1
        finally:
            caller.close()

    async def _answer(self, caller: Caller, deadline: float) -> Answer | None:
        """What is to be answered; None where nobody is there to read it."""
        mine = 0

        async def read(count: int) -> bytes:
            nonlocal mine
            if self._held + count > MAX_HELD:
                raise _Full
            self._held += count
            mine += count
            return await caller.exactly(count)

        try:
            try:
                async with asyncio.timeout_at(deadline):
                    call = await frames.receive(frames.call_reader(), read)
            except _Full:
                why = f"requests of {MAX_HELD} bytes are under way"
                error = CniError(TRY_AGAIN, "the agent has too much to do", why)
                return Answer(1, error.encode(protocol.VERSIONS[-1]))
            except (frames.FrameError, asyncio.IncompleteReadError, TimeoutError) as failure:
                if not _silent(failure, mine):
                    self.counts.malformed += 1
                    logger.warning("what came is no request", extra={"why": str(failure)})
                return None
            return await self._unless_hung_up(caller, call, deadline)
        finally:
            self._held -= mine

    async def _unless_hung_up(
        self, caller: Caller, call: Request | Question, deadline: float
    ) -> Answer | None:
        asked = self._told(call) if isinstance(call, Question) else self._called(call, deadline)
        work = Interruptible(asked)
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = work
        gone = False

        def hung_up() -> None:
            nonlocal gone
            gone = True
            self.counts.hung_up += 1
            work.cancel()

        try:
            with caller.watched(hung_up):
                answer = await work.result()
        except asyncio.CancelledError:
            work.cancel()
            raise
        return None if gone else answer

    async def _told(self, question: Question) -> Answer:
        ask = self.questions.get(question.name)
        if ask is None:
            return Answer(1, f"this agent cannot be asked for {question.name}".encode())
        return Answer(0, await ask())

    async def _called(self, request: Request, deadline: float) -> Answer:
        """What the executable would have written to standard output, and its exit status."""
        command = "?"
        try:
            command = protocol.command_of(request.variables)
            if command == "VERSION":
                answer = Answer(0, protocol.version_answer())
            else:
                invocation = protocol.parse(request.variables, request.stdin)
                answer = Answer(0, await self._done(request, invocation, deadline))
        except CniError as error:
            version = protocol.VERSIONS[-1]
            if command not in ("?", "VERSION"):
                version = protocol.version_for_errors(request.stdin)
            self.counts.ended(command, str(error.code))
            return Answer(1, error.encode(version))
        self.counts.ended(command, "done")
        return answer

    async def _done(self, request: Request, invocation: Invocation, deadline: float) -> bytes:
        conf = parse_netconf(invocation.config)
        with contextlib.ExitStack() as used:
            try:
                kept = used.enter_context(self._hosts.using(node_config_path(conf)))
            except Problem as problem:
                raise misconfigured(problem) from None
            if invocation.command == "STATUS" and conf.ipam.type in ("", OWN_IPAM):
                await status.check_here(request.plugin, invocation, kept.config, kept.ready)
                return b""
            own = conf.ipam.type == OWN_IPAM
            environ = {**kept.host.environ, **request.variables}
            networks: list[NetworkView] = []
            host = msgspec.structs.replace(kept.host, environ=environ, leased=networks.append)
            try:
                output = await self._in_turn(request.plugin, host, invocation, deadline)
            except (Exception, asyncio.CancelledError) as error:
                self._look_for_pending(host, invocation, failed=True)
                if own and isinstance(error, Exception):
                    self._witness.ended(host, invocation, error)
                raise operations.failure_of(invocation, error) from None
            if own:
                self._witness.succeeded(invocation, networks)
                self._witness.ended(host, invocation, None)
            self._look_for_pending(host, invocation, failed=False)
            return output

    async def _in_turn(
        self, plugin: Plugin, host: Host, invocation: Invocation, deadline: float
    ) -> bytes:
        limits = self.limits
        try:
            async with (
                asyncio.timeout_at(deadline) as time,
                self.slots.one(limits.at_once, limits.waiting),
            ):
                if invocation.command == "STATUS":
                    await status.forward(invocation, host.environ)
                    return b""
                return await operations.operate(plugin, host, invocation)
        except TimeoutError:
            if not time.expired():
                raise
            raise CniError(
                TRY_AGAIN,
                f"{invocation.command} took over {limits.timeout:.0f} s",
                "what was begun is undone",
            ) from None

    def _look_for_pending(self, host: Host, invocation: Invocation, *, failed: bool) -> None:
        own = invocation.command == "DEL" or (invocation.command == "ADD" and failed)
        if invocation.command == "GC" or (own and host.records.there(key_of(invocation))):
            self._witness.left_pending()


def _silent(failure: Exception, asked: int) -> bool:
    """Whether nothing came at all: somebody wanted to know whether anybody listens. `asked`: how
    many bytes were waited for altogether."""
    if not isinstance(failure, asyncio.IncompleteReadError):
        return False
    return not failure.partial and failure.expected == asked
