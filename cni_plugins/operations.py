"""ADD, DEL, CHECK and GC of one process: a host put together, one coroutine run, the answer given.

The answer goes out before pending releases of earlier calls are replayed, of which there are few
and for a short time, since the runtime waits for this process to end.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Final

from cni_plugins import add, check, delete, ipam
from cni_plugins.attachment import Host
from cni_plugins.failures import to_cni_error
from cni_plugins.leases import replay_pending
from cni_plugins.netconf import OWN_IPAM, parse_netconf
from cni_plugins.protocol import TRY_AGAIN, CniError, Invocation
from cni_plugins.records import Plugin, Records
from cni_plugins.results import encode_ipam_result, encode_result
from cni_plugins.setting import node_of
from cni_plugins.wiring import HostWiring
from ipam_server.client import Client
from netspace import logs

logger = logging.getLogger(__name__)

REPLAYED: Final = 3
"""Pending releases that one call takes on, when it is done itself."""
REPLAY_TIME: Final = 1.0
"""Seconds it may take for them."""


def serve(
    plugin: Plugin,
    invocation: Invocation,
    environ: Mapping[str, str],
    answer: Callable[[bytes], int],
) -> int:
    """Does the operation, answers, replays; the exit status. Raises `CniError` only."""
    conf = parse_netconf(invocation.config)
    node = node_of(conf)
    logs.setup(node.log_level)

    async def whole() -> int:
        async with Client(node.server.endpoints, node.server.timeout, node.server.tls()) as client:
            host = Host(
                cluster=node.cluster,
                node=node.node_name,
                records=Records(Path(node.state_dir)),
                client=client,
                wiring=HostWiring(),
                environ=dict(environ),
            )
            output = await _interruptible(operate(plugin, host, invocation))
            status = answer(output) if output else 0
            if conf.ipam.type == OWN_IPAM and invocation.command in ("ADD", "DEL", "GC"):
                await _replay(host)
            return status

    try:
        return asyncio.run(whole())
    except asyncio.CancelledError:
        raise CniError(
            TRY_AGAIN, f"{invocation.command} was interrupted", "what was begun is undone"
        ) from None
    except Exception as error:
        failure = to_cni_error(error)
        logger.error(
            "%s failed",
            invocation.command,
            extra={
                "network": invocation.network,
                "container": invocation.container,
                "ifname": invocation.ifname,
                "code": failure.code,
                "error": str(failure),
            },
            exc_info=None if isinstance(error, CniError) or failure.code < 121 else error,
        )
        raise failure from None


async def _interruptible(work: Coroutine[None, None, bytes]) -> bytes:
    """The result of the work, which SIGTERM and SIGINT cancel. A cancellation that comes when the
    last step is done comes too late: the result counts, and later signals are not heeded."""
    done: list[bytes] = []

    async def kept() -> None:
        done.append(await work)

    task = asyncio.ensure_future(kept())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        if not done:
            raise
    return done[0]


async def operate(plugin: Plugin, host: Host, invocation: Invocation) -> bytes:
    """One operation of one of the plugins, and what it answers; nothing but ADD has an answer.

    This is the whole of a plugin but for its process: any number may run at once.
    """
    match invocation.command, plugin:
        case "ADD", "netspace":
            return encode_result(await add.add(host, invocation), invocation.version)
        case "ADD", "netspace-ipam":
            return encode_ipam_result(await ipam.add(host, invocation), invocation.version)
        case "CHECK", "netspace":
            await check.check(host, invocation)
        case "CHECK", "netspace-ipam":
            await ipam.check(host, invocation)
        case "DEL", _:
            await delete.delete(host, invocation, plugin)
        case "GC", _:
            await delete.collect(host, invocation, plugin)
    return b""


async def _replay(host: Host) -> None:
    try:
        done, left = await replay_pending(host, most=REPLAYED, within=REPLAY_TIME)
    except Exception as error:
        logger.warning("pending releases were not replayed", extra={"error": str(error)})
        return
    if done or left:
        logger.info("pending releases were replayed", extra={"done": done, "left": left})
