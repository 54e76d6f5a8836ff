"""``Net``: one open netlink socket in one network namespace, as a job gets it.

Everything that reads or changes the kernel through netlink passes ``look`` or ``change``;
sysctls and packets announce their changes through ``changed``. So one observer sees every
single step, and numbers from the kernel become typed errors in one place.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from hostnet.errors import KernelError, from_errno

Observer = Callable[[str], None]
"""Called after each single change with its name, as in ``"link add"``; may raise."""

_DUMP_TRIES = 5
_loading = threading.Lock()
_loaded: tuple[Any, type[Exception], type[Exception]] | None = None


class Net:
    """One open netlink socket in one network namespace; used by one thread only.

    ``entered``: whether the thread that uses it is in that namespace, which sysctls and
    packets need. ``close`` is the maker's business.
    """

    __slots__ = ("_failure", "_interrupted", "_observer", "_socket", "entered")

    def __init__(self, observer: Observer | None = None, *, entered: bool = True) -> None:
        socket, self._failure, self._interrupted = _pyroute2()
        try:
            # Not bound to multicast groups: the kernel picks a free port at the first send,
            # and no news of other links fills the buffer.
            self._socket = socket(groups=0, ext_ack=True)
        except OSError as error:
            raise from_errno(error.errno or 0, "", "open", "a netlink socket") from None
        self._observer = observer
        self.entered = entered

    def look(self, what: str, which: str, verb: str, command: str, **values: Any) -> list[Any]:
        """Send one reading request; the messages of the answer."""
        for _ in range(_DUMP_TRIES):
            try:
                return list(getattr(self._socket, verb)(command, **values))
            except self._interrupted:
                continue
            except self._failure as error:
                raise self._typed(error, what, which) from None
        raise from_errno(11, "the list changed while it was read", what, which)

    def change(self, what: str, which: str, verb: str, command: str, **values: Any) -> None:
        """Send one changing request and tell the observer when the kernel did it."""
        try:
            getattr(self._socket, verb)(command, **values)
        except self._failure as error:
            raise self._typed(error, what, which) from None
        self.changed(f"{verb} {command}")

    def changed(self, step: str) -> None:
        """Tell the observer that one change was made."""
        if self._observer is not None:
            self._observer(step)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Net:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @staticmethod
    def _typed(error: Exception, what: str, which: str) -> KernelError:
        code, said = error.args[0], error.args[1] if len(error.args) > 1 else ""
        return from_errno(code, str(said or ""), what, which)


def load() -> None:
    """Import the netlink library now rather than with the first socket (about 70 ms)."""
    _pyroute2()


def _pyroute2() -> tuple[Any, type[Exception], type[Exception]]:
    """pyroute2's ``IPRoute`` and two of its exceptions, without the rest of the package.

    Its ``__init__`` imports all protocols it knows, which takes as long again as the part
    used here. So a bare package of the same path stands in for it during this import, and
    is taken away after it: ``import pyroute2`` then does what it always does.
    """
    global _loaded
    with _loading:
        if _loaded is None:
            stand_in = None
            if "pyroute2" not in sys.modules:
                spec = importlib.util.find_spec("pyroute2")
                if spec is not None:
                    stand_in = importlib.util.module_from_spec(spec)
                    sys.modules["pyroute2"] = stand_in
            try:
                from pyroute2.iproute.linux import IPRoute
                from pyroute2.netlink.exceptions import (
                    NetlinkDumpInterrupted,
                    NetlinkError,
                )
            finally:
                if stand_in is not None and sys.modules.get("pyroute2") is stand_in:
                    del sys.modules["pyroute2"]
            _loaded = IPRoute, NetlinkError, NetlinkDumpInterrupted
        return _loaded
