"""`netspace-agent serve` from its start to its end: socket, rounds, signals, signs of life.

Whatever a call could need is imported before the agent says that it is ready. SIGTERM and SIGINT:
stop taking calls, finish those that were taken, end. SIGHUP: read the configuration anew, and
report. A file that changed is read anew without being told.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import logging
import os
import resource
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import hostnet.netlink
import netspace
from cni_plugins import sockets
from cni_plugins.agent_status import Picture, status_of
from cni_plugins.hosts import Hosts, Kept
from cni_plugins.kubernetes.telling import Teller
from cni_plugins.making import Maker, MakerWiring
from cni_plugins.node_config import NodeConfig
from cni_plugins.node_state.state import NodeState
from cni_plugins.rounds import Rounds
from cni_plugins.services.keeper import NodeServices
from cni_plugins.serving import Agent, Witnesses
from hostnet import Kernel
from netspace import logs
from netspace.problems import Problem
from netspace.programs import told_to_stop

logger = logging.getLogger(__name__)

STOP_TIME: Final = 25.0
"""Seconds that calls under way may take to end once the agent is told to stop."""
WATCH: Final = 2.0
"""Seconds between two looks at the configuration's file."""
_COLLECT: Final = (1_000, 5, 5)
"""Calls leave no cycles behind. What does, as errors may, must not wait for long."""
_M_ARENA_MAX: Final = -8
_ARENAS: Final = 2
"""Heaps that glibc keeps (mallopt(3)). It would make one for each of many threads, and what a pod's
thread leaves free in one no other thread uses."""
_LATE: Final = (
    "asyncio.base_subprocess",
    "cni_plugins.delegate",
    "cni_plugins.kubernetes.pods",
    "encodings.idna",
)
"""What is imported only once it is needed, and would be with the first call."""


def run(config: NodeConfig, path: Path) -> None:
    """Serves until SIGTERM or SIGINT. `config` is what the file at `path` says. Raises `Problem`
    where it cannot listen."""
    _prepare_process()
    asyncio.run(_serve(config, path, Maker.start()))


async def _serve(config: NodeConfig, path: Path, maker: Maker) -> None:
    loop = asyncio.get_running_loop()
    stop = told_to_stop()
    listener, handed_over = sockets.listener(Path(config.agent.socket))
    kernel = Kernel()
    hosts = Hosts(MakerWiring(kernel, maker), environment(os.environ))
    rounds = Rounds(hosts, str(path), kernel, lambda kept: node_state_of(kept, kernel))
    teller = Teller(hosts, str(path))
    agent = Agent(hosts, config.agent, Witnesses(rounds, teller))
    picture = Picture(agent, rounds, hosts, path, kernel, teller, maker)
    agent.questions["status"] = lambda: status_of(picture)
    loop.add_signal_handler(signal.SIGHUP, hosts.reload)
    running = [
        asyncio.create_task(rounds.run()),
        asyncio.create_task(teller.run()),
        asyncio.create_task(_signs_of_life()),
        asyncio.create_task(_watch(agent, hosts, rounds, path)),
    ]
    agent.serve(listener)
    sockets.notify("READY=1")
    logger.info("serving", extra={"version": netspace.__version__, "by_systemd": handed_over})
    try:
        await stop.wait()
        sockets.notify("STOPPING=1")
        logger.info("stopping: calls under way are finished", extra={"calls": agent.open})
        await agent.stop(STOP_TIME, None if handed_over else Path(config.agent.socket))
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await hosts.close()
    logger.info("stopped")


def node_state_of(kept: Kept, kernel: Kernel) -> NodeState:
    """What keeps the node as this configuration wants it."""
    folder = Path(kept.config.state_dir)
    services = NodeServices(kept.config, kernel, kept.client, folder)
    return NodeState(kept.config, kernel, kept.host, services)


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What other IPAM plugins get of the agent's environment: neither what is a call's nor what
    systemd told the agent alone."""
    own = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "INVOCATION_ID", "JOURNAL_STREAM")
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(("CNI_", "LISTEN_")) and name not in own
    }


def _prepare_process() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with suppress(AttributeError):  # Another C library has no such thing.
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
    hostnet.netlink.load()
    for name in _LATE:
        importlib.import_module(name)
    # What is there now stays: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)


async def _watch(agent: Agent, hosts: Hosts, rounds: Rounds, path: Path) -> None:
    """Brings what was made from the configuration up to date when the file has changed."""
    known: Kept | None = None
    while True:
        with suppress(Problem), hosts.using(str(path)) as kept:
            if known not in (None, kept):
                logger.info("the configuration was read anew", extra={"file": str(path)})
                logs.setup(kept.config.log_level)
                agent.limits = kept.config.agent
                rounds.reload()
            known = kept
        await asyncio.sleep(WATCH)


async def _signs_of_life() -> None:
    """Tells systemd that the event loop runs, where it watches."""
    interval = sockets.watchdog_interval()
    while interval is not None:
        sockets.notify("WATCHDOG=1")
        await asyncio.sleep(interval)
