"""How long a node takes to become one of 200: its desired state computed and applied.

The other 199 are values in a view, half of its peers homogeneous and half heterogeneous; the node
is a network namespace with one link, and all parts of its data plane are the agent's own, but for
charon's, since nobody is there to answer it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from ipaddress import ip_interface
from pathlib import Path
from typing import Final

import msgspec

from bench import federation_plan
from bench.place import Failed
from federation.desired import DesiredNode
from federation.node.config import FederationAgentConfig
from federation.node.keeping import DataPlane, Done
from federation.node.parts import Parts
from federation.plan.node import desired
from hostnet import (
    Kernel,
    Net,
    Netns,
    Route,
    add_address,
    add_route,
    anonymous_netns,
    get_link,
    run_in,
    set_up,
)
from netspace.messages.federation import ClusterInfo, View

NODES: Final = 200
NODE: Final = "node-0007"
ADDRESS: Final = "172.16.0.7/16"
ROUTER: Final = "172.16.255.254"
UPLINK: Final = "up0"
_PATIENCE: Final = 120.0


def milliseconds(folder: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Of each round: until a node that joins has all of it, and until one that has it knows one
    node more. Raises `Failed`."""
    whole, one = [], []
    for number in range(rounds):
        with anonymous_netns() as space, anonymous_netns() as other:
            run_in(space, lambda net, peer=other: _wire(net, peer))  # type: ignore[misc]
            state = folder / str(number)
            joined, more = run_in(space, lambda _, at=state: asyncio.run(_round(at)))  # type: ignore[misc]
        whole.append(joined * 1e3)
        one.append(more * 1e3)
    return whole, one


def view(nodes: int) -> View:
    """Cluster c0's view: c1 is of another kind, c2 of its own; `nodes` altogether."""
    each = nodes // 3 + 1
    made = federation_plan.view(3, each)
    surplus = 3 * each - nodes
    last = made.federations[0].peers[-1]
    assert last.info is not None
    fewer = _with(last.info, last.info.nodes[: each - surplus])
    peers = [*made.federations[0].peers[:-1], msgspec.structs.replace(last, info=fewer)]
    joined = msgspec.structs.replace(made.federations[0], peers=peers)
    return msgspec.structs.replace(made, federations=[joined])


def _with(info: ClusterInfo, nodes: Sequence[object]) -> ClusterInfo:
    return msgspec.structs.replace(info, nodes=list(nodes))


async def _round(state: Path) -> tuple[float, float]:
    config = FederationAgentConfig(
        cluster="c0", node=NODE, state_dir=state, run_dir=state, handover=state / "handover.json"
    )
    state.mkdir(parents=True)
    plane = DataPlane()

    async def no_tunnels(_: DesiredNode) -> Done:
        return Done()

    parts = Parts(config, Kernel(), plane, no_tunnels)
    await parts.begin()
    running = asyncio.create_task(plane.run())
    try:
        return await _applied(plane, view(NODES)), await _applied(plane, view(NODES + 1))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _applied(plane: DataPlane, seen: View) -> float:
    began = time.perf_counter()
    wanted = desired(seen, NODE)
    plane.want(wanted)
    if not await plane.settled(wanted, _PATIENCE):
        faults = {name: keeper.faults for name, keeper in plane.keepers.items() if keeper.faults}
        raise Failed(f"the node is not as it should be after {_PATIENCE:.0f} s: {faults}")
    return time.perf_counter() - began


def _wire(net: Net, other: Netns) -> None:
    peer = {"ifname": UPLINK, "net_ns_fd": other.fd}
    net.change("make the wire", UPLINK, "link", "add", kind="veth", ifname=UPLINK, peer=peer)
    link = get_link(net, UPLINK)
    address = ip_interface(ADDRESS)
    add_address(net, link, address)
    set_up(net, link)
    run_in(other, lambda far: set_up(far, get_link(far, UPLINK)))
    default = ip_interface("0.0.0.0/0").network
    add_route(net, link, Route(default, ip_interface(ROUTER).ip))
