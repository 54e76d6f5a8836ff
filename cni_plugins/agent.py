"""`netspace-agent prepare`: bonds and VLANs made ready, the node and its live attachments reported,
old releases replayed.

Every part is tried whatever becomes of the others, and all may be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from typing import Any, Final

import msgspec

import hostnet
import netspace
from cni_plugins.attachment import Host
from cni_plugins.leases import replay_pending
from cni_plugins.live import report_attachments
from cni_plugins.node_config import BondSection, NodeConfig
from cni_plugins.protocol import CniError
from hostnet import Kernel, KernelError, Link, Net
from ipam_server.client import Client
from netspace.messages import LinkReport, Network, NodeReport
from netspace.problems import Problem
from netspace.upkeep import Dispute

REPLAY_TIME: Final = 60.0
"""Seconds that may go into pending releases."""

Say = Callable[[str], None]


class Outcome(msgspec.Struct):
    """What came of it. `failed`: something on this node could not be made as configured;
    `server_away`: the server could not be asked, so VLANs, report or releases are not done."""

    failed: bool = False
    server_away: bool = False


async def prepare(
    config: NodeConfig, kernel: Kernel, client: Client, host: Host, say: Say
) -> Outcome:
    """Makes the node ready; `say` is told each thing that was done or failed, as one line."""
    outcome = Outcome()
    for section in config.bonds:
        await _bond(kernel, section, say, outcome)
    try:
        networks = await client.networks(config.cluster)
    except Problem as problem:
        outcome.server_away = True
        say(f"server: {problem}")
        say("server: the VLANs of its networks are made when it answers, or by the first pod")
    else:
        for network in networks:
            await _network(kernel, network, say, outcome)
        await _report(config, kernel, client, networks, say, outcome)
    await _pending(host, say, outcome)
    if not outcome.server_away:
        await _live(client, host, say, outcome)
    return outcome


async def _bond(kernel: Kernel, section: BondSection, say: Say, outcome: Outcome) -> None:
    bond = _wanted(section)

    def job(net: Net) -> str:
        there = hostnet.find_link(net, section.name) is not None
        state = hostnet.ensure_bond(net, bond)
        cards = ", ".join(
            f"{card.link.name} ({'up' if card.monitored_up else 'DOWN'})" for card in state.cards
        )
        active = f", active {state.active}" if state.active else ""
        return f"{'there already' if there else 'made'}, {state.mode} over {cards}{active}"

    try:
        say(f"bond {section.name}: {await kernel.run(None, job)}")
    except KernelError as error:
        outcome.failed = True
        say(f"bond {section.name}: {error}")


async def _network(kernel: Kernel, network: Network, say: Say, outcome: Outcome) -> None:
    def job(net: Net) -> str:
        if hostnet.find_link(net, network.parent) is None:
            return f"this node has no link {network.parent}, nothing to make"
        if network.vlan is None:
            hostnet.ensure_vlan(net, network.parent, None)
            return f"untagged on {network.parent}, which is up"
        name = hostnet.vlan_name(network.parent, network.vlan)
        there = hostnet.find_link(net, name) is not None
        hostnet.ensure_vlan(net, network.parent, network.vlan)
        return f"VLAN {network.vlan} is {name}, {'there already' if there else 'made'}"

    try:
        say(f"network {network.name}: {await kernel.run(None, job)}")
    except KernelError as error:
        outcome.failed = True
        say(f"network {network.name}: {error}")


async def _report(
    config: NodeConfig,
    kernel: Kernel,
    client: Client,
    networks: Sequence[Network],
    say: Say,
    outcome: Outcome,
) -> None:
    parents = {network.parent for network in networks} | {bond.name for bond in config.bonds}
    try:
        links = await kernel.run(None, lambda net: logical_cards(net, parents))
        report = NodeReport(version=netspace.__version__, links=links)
        await client.report_node(config.cluster, config.node_name, report)
    except KernelError as error:
        outcome.failed = True
        say(f"report: {error}")
    except Problem as problem:
        outcome.server_away = True
        say(f"report: {problem}")
    else:
        say(f"report: node {config.node_name} of cluster {config.cluster}, {len(links)} links")


async def _pending(host: Host, say: Say, outcome: Outcome) -> None:
    try:
        done, left = await replay_pending(host, most=100_000, within=REPLAY_TIME)
    except OSError as error:
        outcome.failed = True
        say(f"pending releases: {error}")
        return
    if left:
        outcome.server_away = True
    say(f"pending releases: {done} done, {left} left")


async def _live(client: Client, host: Host, say: Say, outcome: Outcome) -> None:
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


def _wanted(section: BondSection) -> hostnet.Bond:
    values: dict[str, Any] = msgspec.structs.asdict(section)
    targets = section.arp_ip_target
    values["arp_ip_target"] = None if targets is None else tuple(map(IPv4Address, targets))
    return hostnet.Bond(**values)
