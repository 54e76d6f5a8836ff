"""`netspace-agent prepare`: one look at the node as the running agent has them (`node_state`), the
node and its live attachments reported, old releases replayed.

Every part is tried whatever becomes of the others, and all may be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import hostnet
from cni_plugins.attachment import Host
from cni_plugins.node_config import NodeConfig
from cni_plugins.node_state.desired import desired
from cni_plugins.node_state.report import Report
from cni_plugins.node_state.state import NodeState
from cni_plugins.reporting import Outcome, Say, replay, report_live, report_node
from cni_plugins.services.keeper import NodeServices
from hostnet import Kernel, KernelError, Net
from ipam_server.client import Client
from netspace.messages import Network
from netspace.problems import Problem


async def prepare(
    config: NodeConfig, kernel: Kernel, client: Client, host: Host, say: Say
) -> Outcome:
    """Makes the node ready; `say` is told each thing that was done or failed, as one line."""
    outcome = Outcome()
    services = NodeServices(config, kernel, client, Path(config.state_dir))
    state = NodeState(config, kernel, host, services)
    # The way to the server may be one of the bonds.
    first = await state.reconcile()
    for bond in config.bonds:
        await _bond(kernel, bond.name, first, say, outcome)
    try:
        networks = await client.networks(config.cluster)
    except Problem as problem:
        outcome.server_away = True
        say(f"server: {problem}")
        say("server: the VLANs of its networks are made when it answers, or by the first pod")
        _others(first, config, (), say, outcome)
    else:
        state.networks = networks
        second = await state.reconcile()
        second.changes = first.changes + second.changes
        for network in networks:
            _network(network, second, say, outcome)
        _others(second, config, networks, say, outcome)
        await report_node(config, kernel, client, networks, say, outcome)
    await replay(host, say, outcome)
    if not outcome.server_away:
        disputes = await report_live(client, host, say, outcome)
        if disputes is not None and await state.fence(disputes):
            _others(await state.reconcile(), config, networks, say, outcome)
    return outcome


async def _bond(kernel: Kernel, name: str, report: Report, say: Say, outcome: Outcome) -> None:
    subject = f"bond {name}"

    def job(net: Net) -> str:
        state = hostnet.bond_state(net, name)
        cards = ", ".join(
            f"{card.link.name} ({'up' if card.monitored_up else 'DOWN'})" for card in state.cards
        )
        active = f", active {state.active}" if state.active else ""
        return f"{_done(report, subject)}, {state.mode} over {cards}{active}"

    if report.failed(subject):
        outcome.failed = True
        say(f"{subject}: {report.of(subject)}")
        return
    try:
        say(f"{subject}: {await kernel.run(None, job)}")
    except KernelError as error:
        outcome.failed = True
        say(f"{subject}: {error}")


def _network(network: Network, report: Report, say: Say, outcome: Outcome) -> None:
    name = network.parent
    if network.vlan:
        name = hostnet.vlan_name(network.parent, network.vlan)
    subject = f"link {name}"
    if report.failed(subject):
        outcome.failed = True
        said = report.of(subject)
    elif network.parent not in report.links:
        said = f"this node has no link {network.parent}, nothing to make"
    elif name not in report.links:
        # An ADD was making it while this looked.
        said = f"VLAN {network.vlan} is {name}, which is being made"
    elif network.vlan:
        said = f"VLAN {network.vlan} is {name}, {_done(report, subject)}"
    else:
        said = f"untagged on {network.parent}, which is up"
    say(f"network {network.name}: {said}")


def _done(report: Report, subject: str) -> str:
    found = [change for change in report.changes if change.subject == subject]
    if any(change.done == "made" for change in found):
        return "made"
    wrong = ", ".join(change.found for change in found)
    return f"put right ({wrong})" if wrong else "there already"


def _others(
    report: Report, config: NodeConfig, networks: Sequence[Network], say: Say, outcome: Outcome
) -> None:
    """What is neither a bond's nor a network's: pods' interfaces, what nobody wants any more."""
    told = {f"bond {bond.name}" for bond in config.bonds}
    for parent in desired(config, networks, ()).parents:
        told |= {f"link {parent.name}"}
    for change in report.changes:
        if change.subject not in told:
            say(str(change))
    for failure in report.failures:
        if failure.subject not in told:
            outcome.failed = True
            say(str(failure))
