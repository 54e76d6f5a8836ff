"""ADD, DEL, CHECK and GC of one process: a host put together, one coroutine run, the answer given.

The answer goes out before pending releases of earlier calls are replayed, of which there are few
and for a short time, since the runtime waits for this process to end.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Mapping
from typing import Final, Generic, TypeVar

from cni_plugins import add, check, delete, ipam
from cni_plugins.attachment import Host
from cni_plugins.failures import to_cni_error
from cni_plugins.hosts import api_of, client_of, host_on, pods_of
from cni_plugins.leases import replay_pending
from cni_plugins.netconf import OWN_IPAM, parse_netconf
from cni_plugins.protocol import TRY_AGAIN, CniError, Invocation
from cni_plugins.records import Plugin
from cni_plugins.results import encode_ipam_result, encode_result
from cni_plugins.setting import node_of
from cni_plugins.wiring import HostWiring
from netspace import logs

T = TypeVar("T")
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
        async with client_of(node) as client:
            api = api_of(node, environ)
            host = host_on(node, client, HostWiring(), environ, pods_of(api))
            try:
                output = await _until_signal(Interruptible(operate(plugin, host, invocation)))
            finally:
                if api is not None:
                    await api.close()
            status = answer(output) if output else 0
            if conf.ipam.type == OWN_IPAM and invocation.command in ("ADD", "DEL", "GC"):
                await _replay(host)
            return status

    try:
        return asyncio.run(whole())
    except (Exception, asyncio.CancelledError) as error:
        raise failure_of(invocation, error) from None


def failure_of(invocation: Invocation, error: BaseException) -> CniError:
    """What is answered to an operation that ended so, once it is in the log."""
    if isinstance(error, asyncio.CancelledError):
        return CniError(
            TRY_AGAIN, f"{invocation.command} was interrupted", "what was begun is undone"
        )
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
    return failure


class Interruptible(Generic[T]):
    """Work that begins now and can be told to stop, which undoes what it began. A cancellation that
    comes when the last step is done comes too late: the result counts."""

    def __init__(self, work: Coroutine[None, None, T]) -> None:
        self._results: list[T] = []
        self._task = asyncio.ensure_future(self._kept(work))

    def cancel(self) -> None:
        """Have the work stop and undone, if it is not done."""
        self._task.cancel()

    async def result(self) -> T:
        """The result of the work; `CancelledError` where it was stopped in time."""
        try:
            await self._task
        except asyncio.CancelledError:
            if not self._results:
                raise
        return self._results[0]

    async def _kept(self, work: Coroutine[None, None, T]) -> None:
        self._results.append(await work)


async def _until_signal(work: Interruptible[T]) -> T:
    """The result of the work, which SIGTERM and SIGINT cancel; those that come too late are not
    heeded."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    return await work.result()


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
