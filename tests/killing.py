"""An agent that is killed after the n-th step of its work, started anew at word.

`python -m tests.killing CONFIG DESCRIPTOR WAY`: the listening socket, which it keeps as systemd
does. Each line on standard input is a number: the agent before is killed, if it lives, the next one
begins to serve, and the line is repeated on standard output. SIGKILL ends the agent after so many
steps; with a negative number it lives on. WAY says which steps these are, and what ends:

- `agent`: changes of the kernel and steps of operations; the agent makes interfaces itself
- `both`: changes of the kernel by the process that makes interfaces; the agent, which takes that
  process with it
- `maker`: the same changes; that process alone

One process with everything imported makes them all, so they start in no time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

import hostnet.netlink
from cni_plugins import node_config
from cni_plugins.hosts import Hosts
from cni_plugins.making import Maker, MakerWiring
from cni_plugins.serving import Agent
from cni_plugins.wiring import HostWiring, Wiring
from hostnet import Kernel


class Killer:
    """An observer that kills a process after so many steps: this one, or with `above` the one that
    began it."""

    def __init__(self, steps: int, *, above: bool = False) -> None:
        self._left, self._above = steps, above
        self._lock = threading.Lock()

    def __call__(self, step: str) -> None:
        with self._lock:
            if self._left == 0:
                os.kill(os.getppid() if self._above else os.getpid(), signal.SIGKILL)
                time.sleep(10)
            self._left -= 1


async def _serve(
    config: Path, descriptor: int, wiring: Callable[[], Wiring], killer: Killer | None
) -> None:
    section = node_config.load(config).agent
    hosts = Hosts(
        wiring(),
        {},
        lambda host: host if killer is None else msgspec.structs.replace(host, step=killer),
    )
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    Agent(hosts, section).serve(listener)
    await asyncio.Event().wait()


def _agent(config: Path, descriptor: int, way: str, steps: int) -> None:
    killer = Killer(steps, above=way == "both")
    if way == "agent":
        asyncio.run(_serve(config, descriptor, lambda: HostWiring(Kernel(killer)), killer))
    else:
        maker = Maker.start(killer)
        asyncio.run(_serve(config, descriptor, lambda: MakerWiring(Kernel(), maker, 1), None))


def main() -> None:
    config, descriptor, way = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    hostnet.netlink.load()
    child = 0
    for line in sys.stdin:
        _end(child)
        child = os.fork()
        if child == 0:
            _agent(config, descriptor, way, int(line))
        print(line, end="", flush=True)
    _end(child)


def _end(child: int) -> None:
    if child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
