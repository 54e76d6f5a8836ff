"""A node that keeps itself as it should be, for tests that break it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from cni_plugins import node_config
from cni_plugins.add import add
from cni_plugins.attachment import Host
from cni_plugins.delete import delete
from cni_plugins.node_state.report import Report
from cni_plugins.node_state.state import NodeState, Services
from cni_plugins.results import Result
from cni_plugins.wiring import Live
from hostnet import Kernel, Netns, Observer, find_link, run_in
from ipam_server.client import Client
from netspace.messages import Network
from netspace.upkeep import Dispute
from tests.nodes import Node, netns_path, pod_args

Work = Callable[[Host], Coroutine[Any, Any, None]]
BOUND = 2.0
"""Seconds within which a fault is healed."""
PATIENCE = 20.0
"""Seconds after which nothing is waited for."""


@dataclass
class Pod:
    """A pod's namespace and what its interface was when it was made."""

    container: str
    netns: Netns
    result: Result
    before: Live


def add_pod(node: Node, container: str, netns: Netns, **conf: Any) -> Pod:
    """A pod with `eth0`, as ADD makes it; `conf`: what of the conflist is other than usual."""
    call = node.invocation("ADD", container, netns, node.conflist(**conf), args=pod_args(container))
    result = node.inside(lambda host: add(host, call))
    before = look(node, netns)
    assert before is not None
    return Pod(container, netns, result, before)


def delete_pod(node: Node, pod: Pod) -> None:
    """What DEL does."""
    call = node.invocation("DEL", pod.container, pod.netns, node.conflist())
    node.inside(lambda host: delete(host, call, "netspace"))


def look(node: Node, pod: Netns) -> Live | None:
    """The interface that is in the pod now."""
    return node.inside(lambda host: host.wiring.inspect(netns_path(pod), "eth0"))


def as_before(node: Node, pod: Pod) -> bool:
    """Whether the pod's interface is up with the MAC, MTU, mode, addresses and routes it had."""
    live, then = look(node, pod.netns), pod.before
    return live is not None and (
        (live.mac, live.mtu, live.mode, live.up) == (then.mac, then.mtu, then.mode, True)
        and (live.addresses, live.routes) == (then.addresses, then.routes)
    )


@dataclass
class Keeper:
    """The running `NodeState` of a node."""

    state: NodeState
    loop: asyncio.AbstractEventLoop

    def fence(self, *disputes: Dispute) -> None:
        asyncio.run_coroutine_threadsafe(self.state.fence(disputes), self.loop).result(10)

    def look(self) -> Report:
        return asyncio.run_coroutine_threadsafe(self.state.reconcile(), self.loop).result(10)

    def heals(self, healed: Callable[[], bool]) -> None:
        """Waits until the condition holds: `BOUND` seconds, and on a machine that stood still
        meanwhile until the node has been looked at twice."""
        began, looks = time.monotonic(), self.state.looks
        while not healed():
            took = time.monotonic() - began
            enough = took > BOUND and self.state.looks >= looks + 2
            assert not enough and took < PATIENCE, f"not healed after {took:.2f} s"
            # What heals runs in this process: looking all the time would hold it up.
            time.sleep(0.1)

    def know(self, networks: Sequence[Network]) -> None:
        def tell() -> None:
            self.state.networks = networks
            self.state.changed()

        self.loop.call_soon_threadsafe(tell)


def kept(node: Node) -> AbstractContextManager[Keeper]:
    """The node looks after itself; its first look is over."""
    return keeping(node.inside, lambda host: node_state(node, host))


@contextmanager
def keeping(
    inside: Callable[[Work], None], made: Callable[[Host], Awaitable[NodeState]]
) -> Iterator[Keeper]:
    """The state that is made there keeps the node; its first look is over."""
    began = threading.Event()
    keepers: list[Keeper] = []
    stop = asyncio.Event()

    async def work(host: Host) -> None:
        state = await made(host)
        keepers.append(Keeper(state, asyncio.get_running_loop()))
        task = asyncio.create_task(state.run())
        while state.looks == 0 and not task.done():
            await asyncio.sleep(0.005)
        began.set()
        await stop.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    thread = threading.Thread(target=lambda: inside(work))
    thread.start()
    try:
        assert began.wait(20)
        yield keepers[0]
    finally:
        keepers[0].loop.call_soon_threadsafe(stop.set)
        thread.join(20)


def reconciled(node: Node, observer: Observer | None = None) -> Report:
    """What one look at the node comes to; `observer` is told every change of the kernel."""

    async def work(host: Host) -> Report:
        return await (await node_state(node, host, observer)).reconcile()

    return node.inside(work)


def has_link(netns: Netns, name: str) -> bool:
    return run_in(netns, lambda net: find_link(net, name)) is not None


async def node_state(
    node: Node, host: Host, observer: Observer | None = None, services: Services | None = None
) -> NodeState:
    """The node's state, not running, with the networks as the server has them."""
    state = NodeState(node_config.load(node.config), Kernel(observer), host, services)
    async with Client([node.server_url]) as client:
        state.networks = await client.networks(node.cluster)
    return state
