"""One connection of an HTTP server: requests in, answers out, and how long each may take.

Requests are worked on one after the other, each in a task of its own; what is sent ahead waits,
first here and then with the sender. Nothing is answered beyond what the other side takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from netspace import callers
from netspace.callers import LOCAL, STRANGER, Caller
from netspace.http_answers import CONTINUE, Answer
from netspace.http_requests import Head, Reader
from netspace.http_work import Application, Limits, Work
from netspace.problems import Problem

AHEAD: Final = 2**16
"""Bytes that are taken in ahead of their turn."""

PART: Final = 2**16
"""Bytes of an answer that are handed to the transport at once: whether they are taken shows only
between two parts."""

LINGER: Final = 2.0
"""Seconds that somebody whose request is not read to its end may go on sending it: to close at once
would reset the connection, and the answer be lost."""

_CREDENTIALS: Final = struct.Struct("3i")
"""unix(7), SO_PEERCRED: process, user, group."""


@dataclass(eq=False, slots=True)
class House:
    """What the connections of one server have in common. `inside`: those that are open; `left`:
    what is worked on though nobody waits for it any more; `buffer`: where each of them finds what
    it has just received."""

    app: Application
    limits: Limits
    loop: asyncio.AbstractEventLoop
    inside: set[Connection] = field(default_factory=set)
    left: set[asyncio.Task[None]] = field(default_factory=set)
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(AHEAD)))


class _Turn(Enum):
    """Whose turn it is, and with what."""

    IDLE = "nobody's: between two requests"
    HEADER = "theirs: a request's header"
    BODY = "theirs: its body"
    WORK = "ours: the answer"
    TAKE = "theirs: to take the answer"
    END = "theirs: to hang up"


class Connection(asyncio.BufferedProtocol):
    """`caller`: who is at its other end, valid `until` a POSIX time; `deadline`: the loop's time
    until which the present turn may take."""

    __slots__ = (
        "_ended",
        "_full",
        "_head",
        "_house",
        "_last",
        "_lingers",
        "_pending",
        "_reader",
        "_secure",
        "_task",
        "_transport",
        "_turn",
        "_work",
        "caller",
        "deadline",
        "until",
    )

    def __init__(self, house: House) -> None:
        self._house = house
        self._reader = Reader(house.limits.header, house.limits.body)
        self._transport: asyncio.Transport | None = None
        self._secure = False
        self._turn = _Turn.HEADER
        self._head: Head | None = None
        self._work: Work | None = None
        self._task: asyncio.Task[None] | None = None
        # What is still to be handed to the transport, and whether it takes no more just now.
        self._pending = memoryview(b"")
        self._full = False
        # The connection ends with the next answer; after it the other side may go on sending for a
        # moment; the other side has ended its half.
        self._last = False
        self._lingers = False
        self._ended = False
        self.caller = LOCAL
        self.until = float("inf")
        self.deadline = 0.0

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # Told as soon as something is not taken, and again when all is.
        transport.set_write_buffer_limits(high=1)
        self._secure = transport.get_extra_info("sslcontext") is not None
        certificate = transport.get_extra_info("peercert")
        if certificate is not None:
            self.caller = callers.certified(certificate)
            self.until = ssl.cert_time_to_seconds(certificate["notAfter"])
        elif self._secure:
            self.caller = STRANGER
        else:
            self.caller = _on_this_machine(transport.get_extra_info("socket"))
        self._house.inside.add(self)
        self._wait(_Turn.HEADER, self._house.limits.arrival)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._house.inside.discard(self)
        if self._task is not None:
            self._leave_alone(self._task)
        elif self._work is not None:
            self._work.leave()
        self._head = self._work = self._task = None

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._house.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._turn is _Turn.END:
            return
        self._reader.feed(bytes(self._house.buffer[:nbytes]))
        if self._turn is _Turn.WORK or self._turn is _Turn.TAKE:
            if self._reader.held > AHEAD and self._transport is not None:
                self._transport.pause_reading()
        else:
            self._go_on()

    def eof_received(self) -> bool:
        """Whoever has ended only its own half still gets its answers; TLS has no halves."""
        self._ended = True
        return not self._secure and (self._turn is _Turn.WORK or self._turn is _Turn.TAKE)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._turn is _Turn.TAKE:
            self._hand_over()
            self._after()

    # The server's side

    def present(self) -> Caller:
        """The caller, unless the certificate has expired since the connection was made."""
        if time.time() > self.until:
            raise Problem(
                "forbidden", f"the certificate of {self.caller} has expired", do="renew it"
            )
        return self.caller

    def look(self, now: float) -> bool:
        """Ends what has had its time; whether it was the other side that dawdled."""
        if now < self.deadline or self._transport is None:
            return False
        match self._turn:
            case _Turn.IDLE:
                self._close()
                return False
            case _Turn.HEADER if self._reader.held:
                seconds = self._house.limits.arrival
                why = f"the request's header did not arrive within {seconds:g} s"
                self._break_off(self._house.app.refuse(Problem("too-slow", why)))
            case _Turn.BODY if self._work is not None:
                self._break_off(self._work.overdue(arrived=False), self._head)
            case _Turn.WORK if self._work is not None:
                if self._task is not None:
                    self._leave_alone(self._task)
                    if self._work.vain:
                        self._task.cancel()
                self._answer(self._work.overdue(arrived=True))
                return False
            case _:
                self._transport.abort()
                return self._turn is not _Turn.END
        return True

    def stop(self) -> None:
        """Ends the connection once the request that has begun is answered."""
        self._last = True
        if self._turn is _Turn.IDLE or self._turn is _Turn.HEADER:
            self._close()

    @property
    def busy(self) -> bool:
        """Whether a request has begun and its answer is not taken."""
        return self._turn in (_Turn.BODY, _Turn.WORK, _Turn.TAKE)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # Requests

    def _go_on(self) -> None:
        """Reads and begins what has arrived, as far as it can be."""
        try:
            while self._next():
                pass
        except Problem as problem:
            self._break_off(self._house.app.refuse(problem))

    def _next(self) -> bool:
        """One step; whether another one may follow."""
        fresh = self._head is None
        if self._head is None:
            self._head = self._reader.head()
            if self._head is None:
                if self._turn is _Turn.IDLE and self._reader.held:
                    self._wait(_Turn.HEADER, self._house.limits.arrival)
                return False
            admitted = self._house.app.admit(self._head, self.present)
            if isinstance(admitted, Answer):
                return self._decline(admitted)
            self._work = admitted
            self._wait(_Turn.BODY, self._house.limits.timeout)
        body = self._reader.body()
        if body is None:
            if fresh and self._head.expects and self._transport is not None:
                self._transport.write(CONTINUE)
            return False
        assert self._work is not None
        self._turn = _Turn.WORK
        self._task = self._house.loop.create_task(self._carry_out(self._work, body))
        return False

    def _decline(self, answer: Answer) -> bool:
        """Answers a request for its header alone; whether another one may follow. A body that is
        all here is read over, for another one nobody waits."""
        head, self._head = self._head, None
        try:
            over = self._reader.body() is not None
        except Problem:
            over = False
        if over:
            self._send(answer, head)
        else:
            self._break_off(answer, head)
        return self._turn is _Turn.IDLE

    def _break_off(self, answer: Answer, head: Head | None = None) -> None:
        """Answers what is not read to its end, and ends the connection."""
        if self._work is not None:
            self._work.leave()
        self._head = self._work = None
        self._last = self._lingers = True
        self._send(answer, head)

    async def _carry_out(self, work: Work, body: bytes) -> None:
        answer = await work.answer(body)
        if self._work is work:
            self._answer(answer)

    def _answer(self, answer: Answer) -> None:
        """Sends the answer to the request in work, and goes on."""
        head, self._head, self._work, self._task = self._head, None, None, None
        self._send(answer, head)
        self._after()

    def _after(self) -> None:
        """Goes on with what was sent ahead, once an answer is taken."""
        if self._turn is not _Turn.IDLE or self._transport is None:
            return
        if self._reader.held:
            self._go_on()
        if not self._listens:
            return
        if self._ended:
            self._close()
        elif not self._transport.is_reading():
            self._transport.resume_reading()

    @property
    def _listens(self) -> bool:
        """Whether what comes next must come from the other side."""
        return self._turn in (_Turn.IDLE, _Turn.HEADER, _Turn.BODY)

    def _leave_alone(self, task: asyncio.Task[None]) -> None:
        """Lets a task go on though its answer is for nobody."""
        self._house.left.add(task)
        task.add_done_callback(self._house.left.discard)

    # Answers

    def _send(self, answer: Answer, head: Head | None) -> None:
        if self._transport is None:
            return
        self._last = self._last or head is None or not head.keep
        start = answer.head(last=self._last)
        body = b"" if head is not None and head.method == "HEAD" else answer.body
        if len(body) <= PART:
            self._transport.write(start + body)
        else:
            self._transport.write(start)
            self._pending = memoryview(body)
        self._hand_over()

    def _hand_over(self) -> None:
        """Gives the transport as much of the answer as it takes."""
        assert self._transport is not None
        while self._pending and not self._full:
            part, self._pending = self._pending[:PART], self._pending[PART:]
            self._transport.write(part)
        if self._pending or self._full:
            if self._turn is not _Turn.TAKE:
                self._wait(_Turn.TAKE, self._house.limits.timeout)
        elif self._last:
            self._close()
        else:
            self._wait(_Turn.IDLE, self._house.limits.idle)

    def _close(self) -> None:
        """Hangs up, or lets the other side do so."""
        if self._transport is None:
            return
        if not self._lingers:
            self._wait(_Turn.END, self._house.limits.arrival)
            self._transport.close()
            return
        self._wait(_Turn.END, LINGER)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        if not self._transport.is_reading():
            self._transport.resume_reading()

    def _wait(self, turn: _Turn, seconds: float) -> None:
        self._turn = turn
        self.deadline = self._house.loop.time() + seconds


def _on_this_machine(sock: Any) -> Caller:
    """Which user it is on a Unix socket; an address of loopback does not tell."""
    if sock is None or sock.family != socket.AF_UNIX:
        return LOCAL
    with contextlib.suppress(OSError):
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, user, _ = _CREDENTIALS.unpack(found)
        return Caller("local", name=f"uid {user}")
    return LOCAL
