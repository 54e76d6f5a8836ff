"""What a node tells its server: itself with its links, its live attachments, its pending releases.

`prepare` does each once and the running agent again and again. `say` is told what came of it as one
line, and nothing is raised: every part is tried whatever becomes of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

import hostnet
import netspace
from cni_plugins.attachment import Host
from cni_plugins.leases import replay_pending
from cni_plugins.live import report_attachments
from cni_plugins.node_config import NodeConfig
from cni_plugins.protocol import CniError
from hostnet import Kernel, KernelError, Link, Net
from ipam_server.client import Client
from netspace.messages import LinkReport, Network, NodeReport
from netspace.problems import Problem
from netspace.upkeep import Dispute

REPLAY_TIME: Final = 60.0
"""Seconds that may go into pending releases."""
MOST_PENDING: Final = 100_000

Say = Callable[[str], None]


class Outcome(msgspec.Struct):
    """What came of it. `failed`: something on this node could not be made as configured;
    `server_away`: the server could not be asked, so VLANs, report or releases are not done."""

    failed: bool = False
    server_away: bool = False


async def report_node(
    config: NodeConfig,
    kernel: Kernel,
    client: Client,
    networks: Sequence[Network],
    say: Say,
    outcome: Outcome,
) -> None:
    """Reports the node and its logical cards: bonds, VLANs and the networks' parents."""
    parents = {network.parent for network in networks} | {bond.name for bond in config.bonds}
    try:
        links = await kernel.run(None, lambda net: logical_cards(net, parents))
        report = NodeReport(version=netspace.__version__, links=links, networks=list(config.links))
        await client.report_node(config.cluster, config.node_name, report)
    except KernelError as error:
        outcome.failed = True
        say(f"report: {error}")
    except Problem as problem:
        outcome.server_away = True
        say(f"report: {problem}")
    else:
        say(f"report: node {config.node_name} of cluster {config.cluster}, {len(links)} links")


async def replay(host: Host, say: Say, outcome: Outcome) -> int:
    """Gives back what earlier calls could not; how many releases are left."""
    try:
        done, left = await replay_pending(host, most=MOST_PENDING, within=REPLAY_TIME)
    except OSError as error:
        outcome.failed = True
        say(f"pending releases: {error}")
        return 0
    if left:
        outcome.server_away = True
    say(f"pending releases: {done} done, {left} left")
    return left


async def report_live(
    client: Client, host: Host, say: Say, outcome: Outcome
) -> Sequence[Dispute] | None:
    """Reports the attachments that live or may live; whose slots are somebody else's by the
    server's answer, None without one."""
    try:
        live, told = await report_attachments(host, client)
    except (OSError, CniError) as error:
        outcome.failed = True
        say(f"attachments: {error}")
    except Problem as problem:
        outcome.server_away = True
        say(f"attachments: {problem}")
    else:
        say(f"attachments: {live} live, {told.missing} of {told.held} held addresses have none")
        if told.adopted:
            say(f"attachments: {told.adopted} that the server did not know were taken back")
        for each in told.disputes:
            outcome.failed = True
            say(f"attachments: {_dispute(each)}")
        return told.disputes
    return None


def _dispute(dispute: Dispute) -> str:
    pod = f"pod {dispute.namespace}/{dispute.pod}" if dispute.pod else "a pod without name"
    return (
        f"{pod} ({dispute.ifname} of {dispute.container}) lives with {dispute.address}, but for the"
        f" server {dispute.why}: delete the pod, or see netspacectl audit"
    )


def logical_cards(net: Net, parents: set[str]) -> list[LinkReport]:
    """The bonds, the VLANs on links and the parents of networks, with their addresses."""
    links = {link.index: link for link in hostnet.list_links(net)}
    addresses: dict[int, list[str]] = {}
    for address in hostnet.list_addresses(net):
        if address.scope == "global":
            addresses.setdefault(address.link, []).append(str(address.interface))
    return [
        _card(link, links, addresses.get(link.index, []))
        for link in links.values()
        if link.kind in ("bond", "vlan") or link.name in parents
    ]


def _card(link: Link, links: dict[int, Link], addresses: list[str]) -> LinkReport:
    below = None if link.kind != "vlan" or link.parent is None else links.get(link.parent)
    return LinkReport(
        name=link.name,
        kind=link.kind or "card",
        mac=link.mac,
        mtu=link.mtu,
        up=link.up,
        parent=None if below is None else below.name,
        vlan=link.vlan_id,
        slaves=[other.name for other in links.values() if other.master == link.index],
        addresses=addresses,
    )
