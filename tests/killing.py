"""An agent that is killed after the n-th step of its work, started anew at word.

`python -m tests.killing CONFIG DESCRIPTOR`: the listening socket, which it keeps as systemd does.
Each line on standard input is a number: the agent before is killed, if it lives, and the next one
begins to serve. SIGKILL ends that one after so many changes of the kernel and steps of operations;
with a negative number it lives on. One process with everything imported makes them all, so they
start in no time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import msgspec

import hostnet.netlink
from cni_plugins import node_config
from cni_plugins.hosts import Hosts
from cni_plugins.serving import Agent
from cni_plugins.wiring import HostWiring
from hostnet import Kernel


class Killer:
    """An observer that kills its process after so many steps."""

    def __init__(self, steps: int) -> None:
        self._left = steps
        self._lock = threading.Lock()

    def __call__(self, step: str) -> None:
        with self._lock:
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1


async def _serve(config: Path, descriptor: int, killer: Killer) -> None:
    section = node_config.load(config).agent
    hosts = Hosts(
        HostWiring(Kernel(killer)), {}, lambda host: msgspec.structs.replace(host, step=killer)
    )
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    Agent(hosts, section).serve(listener)
    await asyncio.Event().wait()


def main() -> None:
    config, descriptor = Path(sys.argv[1]), int(sys.argv[2])
    hostnet.netlink.load()
    child = 0
    for line in sys.stdin:
        _end(child)
        child = os.fork()
        if child == 0:
            asyncio.run(_serve(config, descriptor, Killer(int(line))))
    _end(child)


def _end(child: int) -> None:
    if child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
