"""How much many TCP streams carry at once from a pod to a pod, and what each of them carried."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hostnet import Netns, open_netns
from lab import topology
from lab.federation.flows import Flow
from lab.federation.traffic import TrafficError, connected

_CHUNK: Final = bytes(1 << 16)


@dataclass(frozen=True, slots=True)
class Carried:
    """Bytes that each flow brought in so many seconds."""

    seconds: float
    bytes_of: dict[Flow, int]

    @property
    def megabits(self) -> float:
        return sum(self.bytes_of.values()) * 8e-6 / self.seconds


class Streams:
    """TCP flows that send as much as they can while `measure` runs. Used in `with`."""

    def __init__(self, flows: Sequence[Flow]) -> None:
        self.flows = tuple(flows)
        self._opened = contextlib.ExitStack()
        self._poll = select.epoll()
        self._senders: dict[int, socket.socket] = {}
        self._receivers: dict[int, tuple[socket.socket, Flow]] = {}

    def __enter__(self) -> Streams:
        self._opened.callback(self._poll.close)
        with contextlib.ExitStack() as opened:
            spaces: dict[str, Netns] = {}
            for flow in self.flows:
                for name in (flow.here, flow.there):
                    if name not in spaces:
                        path = str(topology.NETNS / name)
                        spaces[name] = opened.enter_context(open_netns(path))
            try:
                for flow in self.flows:
                    self._open(flow, spaces[flow.here], spaces[flow.there])
            except OSError as error:
                self._opened.close()
                raise TrafficError(f"flow {flow.name} to {flow.target}: {error}") from error
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def measure(self, seconds: float) -> Carried:
        """What arrives within so many seconds."""
        found = dict.fromkeys(self.flows, 0)
        began = time.monotonic()
        while (now := time.monotonic()) < began + seconds:
            for descriptor, _ in self._poll.poll(began + seconds - now):
                if descriptor in self._senders:
                    with contextlib.suppress(BlockingIOError):
                        self._senders[descriptor].send(_CHUNK)
                    continue
                receiver, flow = self._receivers[descriptor]
                with contextlib.suppress(BlockingIOError):
                    found[flow] += len(receiver.recv(1 << 17))
        return Carried(time.monotonic() - began, found)

    def _open(self, flow: Flow, here: Netns, there: Netns) -> None:
        sender, receiver = connected(flow, here, there, self._opened)
        # Little in the buffers: what is measured has gone all the way.
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        for each in (sender, receiver):
            each.setblocking(False)
        self._senders[sender.fileno()] = sender
        self._receivers[receiver.fileno()] = (receiver, flow)
        self._poll.register(sender.fileno(), select.EPOLLOUT)
        self._poll.register(receiver.fileno(), select.EPOLLIN)
