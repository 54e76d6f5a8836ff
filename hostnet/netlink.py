"""``Net``: one open netlink socket in one network namespace, as a job gets it.

Everything that reads or changes the kernel through netlink passes ``ask`` or ``do`` with a
message of ``rtnetlink``, or ``look`` or ``change`` where pyroute2 does it; sysctls and packets
announce their changes through ``changed``. So one observer sees every single step, and numbers
from the kernel become typed errors in one place.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from types import TracebackType
from typing import Any

from hostnet import calls
from hostnet.errors import KernelError, from_errno
from hostnet.netns import Netns
from hostnet.rtnetlink import ACK, DUMP, Message, packed, parts

Observer = Callable[[str], None]
"""Called after each single change with its name, as in ``"link add"``; may raise."""

_DUMP_TRIES = 5
_AT_ONCE = 128
"""Requests in one lot: were all of them refused, the answers would still fit in the socket."""
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_THREADS_OWN = "/proc/thread-self/ns/net"
_loading = threading.Lock()
_loaded: tuple[Any, type[Exception], type[Exception]] | None = None


class Net:
    """One open netlink socket in one network namespace; used by one thread only.

    ``entered``: whether the thread that uses it is in that namespace, which sysctls and
    packets need. ``late``: where to leave what takes its time to close, for whoever waits for
    the job must not wait for that. ``close`` is the maker's business.
    """

    __slots__ = (
        "_home",
        "_observer",
        "_rare",
        "_sequence",
        "_socket",
        "entered",
        "late",
    )

    def __init__(
        self, observer: Observer | None = None, *, late: ExitStack, entered: bool = True
    ) -> None:
        self.late = late
        self._observer = observer
        self._rare: Any = None
        self._sequence = 0
        self.entered = entered
        self._home = -1
        self._socket = _opened()
        if not entered:
            self._home = calls.open_file(_THREADS_OWN, os.O_RDONLY)

    def ask(self, what: str, which: str, message: Message) -> list[bytes]:
        """Send one reading request; the bodies of the messages of the answer, one where it asks
        for one object."""
        for _ in range(_DUMP_TRIES):
            whole, bodies = self._answer(what, which, message)
            if whole:
                return bodies
        raise from_errno(11, "the list changed while it was read", what, which)

    def do(self, what: str, which: str, message: Message) -> None:
        """Send one changing request and tell the observer when the kernel did it."""
        self._answer(what, which, message, ACK)
        self.changed(message.step)

    def do_many(
        self, what: str, which: str, messages: Iterable[Message]
    ) -> list[tuple[int, KernelError]]:
        """Send many changing requests, some at a time, of which the kernel acknowledges the last
        and those that it refuses: these by their place among the messages. The observer is told
        of each lot by the name of its first message."""
        refused: list[tuple[int, KernelError]] = []
        at, left = 0, iter(messages)
        while lot := list(islice(left, _AT_ONCE)):
            for place, code, text in self._lot(what, which, lot):
                refused.append((at + place, from_errno(code, text, what, which)))
            at += len(lot)
            self.changed(lot[0].step)
        return refused

    def look(self, what: str, which: str, verb: str, command: str, **values: Any) -> list[Any]:
        """Send one reading request through pyroute2; the messages of the answer."""
        _, failure, interrupted = _pyroute2()
        for _ in range(_DUMP_TRIES):
            try:
                return list(getattr(self._pyroute2(), verb)(command, **values))
            except interrupted:
                continue
            except failure as error:
                raise self._typed(error, what, which) from None
        raise from_errno(11, "the list changed while it was read", what, which)

    def change(self, what: str, which: str, verb: str, command: str, **values: Any) -> None:
        """Send one changing request through pyroute2 and tell the observer when it is done."""
        _, failure, _ = _pyroute2()
        try:
            getattr(self._pyroute2(), verb)(command, **values)
        except failure as error:
            raise self._typed(error, what, which) from None
        self.changed(f"{verb} {command}")

    def changed(self, step: str) -> None:
        """Tell the observer that one change was made."""
        if self._observer is not None:
            self._observer(step)

    def close(self) -> None:
        """Close the sockets."""
        self._socket.close()
        if self._home >= 0:
            calls.close_file(self._home)
            self._home = -1
        if self._rare is not None:
            self._rare.close()
            self._rare = None

    def __enter__(self) -> Net:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _answer(
        self, what: str, which: str, message: Message, flags: int = 0
    ) -> tuple[bool, list[bytes]]:
        """The bodies of an answer; False where the list changed while it was read."""
        self._sequence += 1
        bodies: list[bytes] = []
        whole, several = True, message.flags & DUMP == DUMP
        try:
            self._socket.send(packed(message, self._sequence, flags))
            while True:
                for part in parts(self._received()):
                    if part.sequence != self._sequence:
                        continue
                    whole = whole and not part.interrupted
                    if part.code:
                        raise from_errno(part.code, part.text, what, which)
                    if part.code == 0:
                        return whole, bodies
                    bodies.append(part.body)
                if bodies and not several:
                    return whole, bodies
        except OSError as error:
            raise from_errno(error.errno or 0, "", what, which) from None

    def _lot(self, what: str, which: str, lot: list[Message]) -> list[tuple[int, int, str]]:
        """The places of refused messages, each with the kernel's number and words."""
        first, last = self._sequence + 1, len(lot) - 1
        self._sequence += len(lot)
        refused: list[tuple[int, int, str]] = []
        data = b"".join(
            packed(message, first + place, ACK if place == last else 0)
            for place, message in enumerate(lot)
        )
        try:
            self._socket.send(data)
            while True:
                for part in parts(self._received()):
                    place = part.sequence - first
                    if part.code is None or not 0 <= place <= last:
                        continue
                    if part.code:
                        refused.append((place, part.code, part.text))
                    if place == last:
                        return refused
        except OSError as error:
            raise from_errno(error.errno or 0, "", what, which) from None

    def _received(self) -> bytes:
        """The next datagram of the answer. It is there as soon as the request was sent, so it is
        taken without giving the interpreter away: another thread would keep it for milliseconds."""
        try:
            return calls.receive(self._socket.fileno())
        except BlockingIOError:
            return self._socket.recv(calls.MOST_BYTES)

    def _pyroute2(self) -> Any:
        """pyroute2's socket in this namespace, opened when first needed."""
        if self._rare is None:
            if self.entered:
                self._rare = _open_rare()
            else:
                back = Netns(os.open(_THREADS_OWN, os.O_RDONLY | os.O_CLOEXEC), "(the job's)")
                with back, Netns(os.dup(self._home), "(the host's)") as home:
                    home.enter()
                    try:
                        self._rare = _open_rare()
                    finally:
                        back.enter()
        return self._rare

    @staticmethod
    def _typed(error: Exception, what: str, which: str) -> KernelError:
        code, said = error.args[0], error.args[1] if len(error.args) > 1 else ""
        return from_errno(code, str(said or ""), what, which)


def load() -> None:
    """Import pyroute2 now rather than when something first needs it (about 70 ms)."""
    _pyroute2()


def _opened() -> socket.socket:
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    except OSError as error:
        raise from_errno(error.errno or 0, "", "open", "a netlink socket") from None
    # The kernel's own words with its errors, and not the request again.
    opened.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
    opened.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
    return opened


def _open_rare() -> Any:
    iproute, _, _ = _pyroute2()
    try:
        # Not bound to multicast groups: the kernel picks a free port at the first send, and no
        # news of other links fills the buffer.
        return iproute(groups=0, ext_ack=True)
    except OSError as error:
        raise from_errno(error.errno or 0, "", "open", "a netlink socket") from None


def _pyroute2() -> tuple[Any, type[Exception], type[Exception]]:
    """pyroute2's ``IPRoute`` and two of its exceptions, without the rest of the package."""
    global _loaded
    if _loaded is None:
        with bare_pyroute2():
            from pyroute2.iproute.linux import IPRoute
            from pyroute2.netlink.exceptions import (
                NetlinkDumpInterrupted,
                NetlinkError,
            )
        _loaded = IPRoute, NetlinkError, NetlinkDumpInterrupted
    return _loaded


@contextmanager
def bare_pyroute2() -> Iterator[None]:
    """Import modules of pyroute2 without the rest of the package.

    Its ``__init__`` imports all protocols it knows, which takes as long again as the part used
    here, and a database, which frozen programs do not have. So a bare package of the same path
    stands in for it during an import, and is taken away after it: ``import pyroute2`` then does
    what it always does.
    """
    with _loading:
        stand_in = None
        if "pyroute2" not in sys.modules:
            spec = importlib.util.find_spec("pyroute2")
            if spec is not None:
                stand_in = importlib.util.module_from_spec(spec)
                sys.modules["pyroute2"] = stand_in
        try:
            yield
        finally:
            if stand_in is not None and sys.modules.get("pyroute2") is stand_in:
                del sys.modules["pyroute2"]
