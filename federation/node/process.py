"""The agent's process: it works, is asked, and ends leaving the data plane as it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import hostnet
import netspace
from federation.client import Client
from federation.node.agent import Agent
from federation.node.config import FederationAgentConfig
from federation.node.metrics import Metrics
from federation.node.serving import LIMITS, Asked, for_monitors, for_root, status
from hostnet import Kernel
from netspace.endpoints import Endpoint
from netspace.http_server import HttpServer
from netspace.problems import Problem
from netspace.programs import until

log = logging.getLogger(__name__)


async def run(
    config: FederationAgentConfig, environ: Mapping[str, str], stop: asyncio.Event
) -> None:
    """Until `stop` is set. `Problem` where it cannot listen, or a folder cannot be made."""
    _make_folders(config)
    hostnet.load()
    server = config.server
    async with Client(server.endpoints, server.timeout, server.tls) as client:
        agent = Agent(config, client, Kernel(), environ)
        asked = Asked(agent, Metrics(lambda: status(agent), agent.counts))
        own = HttpServer(for_root(asked), LIMITS)
        metrics = HttpServer(for_monitors(asked), LIMITS)
        try:
            await own.listen(Endpoint.parse(f"unix://{config.socket}"), 0o600)
            if config.listen is not None:
                await metrics.listen(Endpoint.parse(config.listen))
            log.info(
                "started",
                extra={
                    "version": netspace.__version__,
                    "cluster": config.cluster,
                    "node": config.node,
                },
            )
            stopping = partial(log.info, "stopping: what is on the node stays")
            await until(stop, stopping, agent=agent.run())
        finally:
            await own.stop()
            await metrics.stop()
    log.info("stopped")


async def leave(
    config: FederationAgentConfig, environ: Mapping[str, str], within: float
) -> list[str]:
    """Takes all that is ours off this node; what could not be, in words. `Problem` in-use while
    the agent runs, which would put it back."""
    _make_folders(config)
    if await _runs(config.socket):
        raise Problem(
            "in-use", f"the agent runs (it listens at {config.socket})", do="stop it first"
        )
    server = config.server
    async with Client(server.endpoints, server.timeout, server.tls) as client:
        agent = Agent(config, client, Kernel(), environ)
        if await agent.leave(within):
            agent.watching.forget()
            await agent.certificates.keep({}, ())
            try:
                await client.forget_node(config.cluster, config.node)
            except Problem as problem:
                log.warning("the server still counts the node", extra={"why": str(problem)})
            return []
        return [
            f"{name}: {'; '.join(keeper.faults) or 'not done in time'}"
            for name, keeper in agent.plane.keepers.items()
            if keeper.faults or keeper.done is None
        ] or ["charon still has connections of ours"]


async def _runs(socket: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(str(socket))
    except OSError:
        return False
    writer.close()
    return True


def _make_folders(config: FederationAgentConfig) -> None:
    for folder, mode in ((config.state_dir, 0o700), (config.run_dir, 0o755)):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=mode)
        except OSError as error:
            raise Problem(
                "invalid", f"cannot make {folder}: {error.strerror}", do="make it, or run as root"
            ) from None
