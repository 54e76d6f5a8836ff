"""`netspace-agent diagnose`: a look at all that a pod's interface needs, and what to do where it is
not there. Nothing on the node is changed; kernel features are tried in a namespace of their own.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import hostnet
from cni_plugins import agent_status
from cni_plugins.attachment import Host
from cni_plugins.findings import Finding, Verdict
from cni_plugins.hosts import api_of
from cni_plugins.node_config import NodeConfig
from cni_plugins.node_state.desired import Desired, Parent, desired, settings
from cni_plugins.node_state.faults import bond_faults, parent_steps, suspects
from cni_plugins.node_state.links import look
from cni_plugins.services.diagnosis import services_findings
from cni_plugins.steps import in_thread
from hostnet import BondState, Kernel, KernelError, Link, Net
from ipam_server.client import Client
from netspace.messages import Network
from netspace.problems import Problem
from netspace.tls import Tls, explained, shown_to_others

if TYPE_CHECKING:
    from cni_plugins.kubernetes.rights import Answer

GATEWAY_WAIT: Final = 2.0
"""Seconds that a gateway may take to answer."""
SOON: Final = 14 * 86400.0
"""Seconds before a certificate's end from which on it is named."""


async def diagnose(config: NodeConfig, kernel: Kernel, client: Client, host: Host) -> list[Finding]:
    """All findings, in the order of the way from the kernel to the server."""
    found = await in_thread(lambda: list(features(config)))
    networks: Sequence[Network] | None = None
    server = []
    for url in config.server.endpoints:
        server.append(await _endpoint(config, url))
    try:
        networks = await client.networks(config.cluster)
    except Problem as problem:
        server.append(Finding("fault", f"cluster {config.cluster}", str(problem), problem.do or ""))
    records = await in_thread(host.records.all)
    wanted = desired(config, networks, records)
    made = await in_thread(host.records.made.all)
    found += await kernel.run(None, lambda net: list(_bonds(net, wanted)))
    found += await kernel.run(None, lambda net: list(_parents(net, wanted, made)))
    found += await kernel.run(None, lambda net: list(_gateways(net, networks or ())))
    found += await kernel.run(None, lambda net: list(_pods(net, wanted)))
    found += await services_findings(config, kernel, client, networks or (), records)
    found += server
    if (tls := config.server.tls()) is not None:
        found.append(await in_thread(lambda: certificate(tls, config, time.time())))
    found += await _kubernetes(config)
    found.append(await in_thread(lambda: _agent(Path(config.agent.socket))))
    return found


def features(config: NodeConfig) -> Iterator[Finding]:
    """What the kernel can do, tried in a network namespace that goes again."""
    try:
        with hostnet.anonymous_netns() as netns:
            yield from hostnet.run_in(netns, lambda net: list(_tried(net, config)))
    except KernelError as error:
        do = "run as root, on a kernel with network namespaces"
        yield Finding("fault", "kernel: network namespaces", error.why, do)


def _tried(net: Net, config: NodeConfig) -> Iterator[Finding]:
    peer = {"ifname": "try1"}
    tries: list[tuple[str, str, dict[str, Any]]] = [
        ("veth", "veth", {"kind": "veth", "ifname": "try0", "peer": peer}),
        ("VLANs (802.1Q)", "8021q", {"kind": "vlan", "ifname": "try0.9", "vlan_id": 9}),
        ("macvlan", "macvlan", {"kind": "macvlan", "ifname": "try2"}),
    ]
    if config.bonds:
        tries.append(("bonds", "bonding", {"kind": "bond", "ifname": "try3"}))
    for name, module, values in tries:
        if values["kind"] in ("vlan", "macvlan"):
            below = hostnet.find_link(net, "try0")
            if below is None:
                continue
            values["link"] = below.index
        try:
            net.change("try", name, "link", "add", **values)
        except KernelError as error:
            yield Finding("fault", f"kernel: {name}", error.why, f"load the module {module}")
        else:
            yield Finding("ok", f"kernel: {name}", "there")
    ways = hostnet.egress_ways()
    yield egress_finding(ways)
    if hostnet.has_ipv6():
        yield Finding("ok", "kernel: IPv6", "there")
    else:
        do = "start the kernel without ipv6.disable=1, or use IPv4 only"
        yield Finding("warning", "kernel: IPv6", "not there", do)


def egress_finding(ways: Sequence[hostnet.Way]) -> Finding:
    """Of what keeps pods from sending under others' addresses. Pure."""
    subject = "kernel: filter of what pods send"
    if "nftables" in ways:
        return Finding("ok", subject, "there, by nftables")
    do = "use a kernel with nftables' egress hook (Linux 5.16, CONFIG_NETFILTER_EGRESS)"
    if ways:
        found = "by tc alone: a pod's packet socket can go round it (PACKET_QDISC_BYPASS)"
        return Finding("warning", subject, found, do)
    return Finding("warning", subject, "not there: pods can send under any address", do)


def _bonds(net: Net, wanted: Desired) -> Iterator[Finding]:
    for each in wanted.bonds:
        subject = f"bond {each.bond.name}"
        try:
            there = hostnet.find_link(net, each.bond.name)
            state = None if there is None else hostnet.bond_state(net, each.bond.name)
            yield from bond_findings(subject, bond_faults(each.bond, state), state)
        except KernelError as error:
            yield Finding("fault", subject, error.why, error.remedy)


def bond_findings(
    subject: str, faults: Sequence[str], state: BondState | None
) -> Iterator[Finding]:
    """Of a bond: what differs from the configuration, and how its cards are. Pure."""
    if faults:
        do = "netspace-agent serve puts it right, or netspace-agent prepare once"
        yield Finding("fault", subject, ", ".join(faults), do)
    if state is None:
        return
    lost = [card.link.name for card in state.cards if not card.monitored_up]
    check = "check their cables, switch ports and drivers"
    if lost and len(lost) == len(state.cards):
        yield Finding("fault", subject, f"no card has a link: {', '.join(lost)}", check)
    elif lost:
        yield Finding("warning", subject, f"no link on {', '.join(lost)}: not redundant", check)
    elif len(state.cards) < 2:
        do = "name a second card in its slaves"
        yield Finding("warning", subject, "it has one card: not redundant", do)
    elif not faults:
        cards = ", ".join(card.link.name for card in state.cards)
        active = f", active {state.active}" if state.active else ""
        yield Finding("ok", subject, f"{state.mode} over {cards}{active}")
    for card in state.cards:
        if card.failures:
            said = f"{card.link.name} lost its link {card.failures} times"
            yield Finding("warning", subject, said, "look whether that goes on")


def _parents(net: Net, wanted: Desired, made: dict[str, int]) -> Iterator[Finding]:
    links = look(net)
    for parent in wanted.parents:
        yield from parent_findings(parent, links, made)
        if parent.name not in links:
            continue
        for setting in settings(parent, own=parent.name in made):
            name = "/".join(setting.segments)
            try:
                value = hostnet.read_sysctl(net, *setting.segments)
            except KernelError:
                continue
            if value != setting.value:
                found = f"net/{name} is {value}, not {setting.value}: {setting.why}"
                do = "netspace-agent serve sets it; look what else does"
                yield Finding("fault", f"link {parent.name}", found, do)


def parent_findings(
    parent: Parent, links: dict[str, Link], made: dict[str, int]
) -> Iterator[Finding]:
    """Of a link that pods' interfaces lie on. Pure."""
    subject = f"link {parent.name}"
    who = f"networks {', '.join(parent.networks) or 'none'}, {parent.pods} pods"
    if parent.master not in links:
        verdict: Verdict = "fault" if parent.pods else "warning"
        do = "add the link, or ignore it where this node is not for these networks"
        yield Finding(verdict, subject, f"this node has no link {parent.master} ({who})", do)
        return
    steps = parent_steps(parent, links, made)
    for step in steps:
        # What is said of the time before a repair is still so here.
        found = f"{step.name}: {step.found.replace('was', 'is', 1)} ({who})"
        do = "netspace-agent serve puts it right, or netspace-agent prepare once"
        yield Finding("fault", subject, found, do)
    link = links.get(parent.name)
    if link is not None and not steps:
        if link.carrier:
            yield Finding("ok", subject, f"up, MTU {link.mtu} ({who})")
        else:
            do = "check cables, switch ports and the bond's cards"
            yield Finding("fault", subject, "no carrier", do)


def _gateways(net: Net, networks: Iterable[Network]) -> Iterator[Finding]:
    for network in networks:
        name = network.parent
        if network.vlan:
            name = hostnet.vlan_name(network.parent, network.vlan)
        link = hostnet.find_link(net, name)
        if link is None or not link.up:
            continue
        for gateway in filter(None, (network.gateway4, network.gateway6)):
            subject = f"network {network.name}"
            try:
                mac = hostnet.who_has(net, link, ip_address(gateway), wait=GATEWAY_WAIT)
            except KernelError as error:
                yield Finding("fault", subject, error.why, error.remedy)
                continue
            if mac is None:
                found = f"its gateway {gateway} does not answer on {name}"
                do = "check that the switch ports carry the VLAN, and the gateway's address"
                yield Finding("fault", subject, found, do)
            else:
                yield Finding("ok", subject, f"its gateway {gateway} answers on {name} from {mac}")


def _pods(net: Net, wanted: Desired) -> Iterator[Finding]:
    forwarded = hostnet.list_forwarded(net)
    found = suspects(
        (pod for pod in wanted.pods if not pod.plan.in_container), look(net), forwarded
    )
    for pod in found:
        if pod.plan.mode == "passthru":
            continue
        subject = f"interface {pod.key.ifname} of {pod.key.container}"
        if pod.fenced:
            do = "delete the pod: its controller makes another one"
            yield Finding("fault", subject, f"up, though its slot is lost ({pod.fenced})", do)
        else:
            do = "netspace-agent serve builds it again; a pod that is gone needs its runtime's DEL"
            yield Finding("warning", subject, f"not up on {pod.parent}", do)
    for pod in wanted.pods:
        if pod.fenced and pod not in found:
            subject = f"interface {pod.key.ifname} of {pod.key.container}"
            do = "delete the pod: its controller makes another one"
            yield Finding("warning", subject, f"kept down, its slot is lost ({pod.fenced})", do)
    if wanted.pods and not found:
        yield Finding("ok", "pods", f"{len(wanted.pods)} interfaces are there")


async def _endpoint(config: NodeConfig, url: str) -> Finding:
    subject = f"server {url}"
    try:
        async with Client([url], min(config.server.timeout, 5.0), config.server.tls()) as client:
            await client.ready()
    except Problem as problem:
        do = problem.do or "start it, or take it out of `server.endpoints`"
        verdict: Verdict = "fault" if len(config.server.endpoints) == 1 else "warning"
        return Finding(verdict, subject, problem.detail, do)
    return Finding("ok", subject, "ready")


def certificate(tls: Tls, config: NodeConfig, now: float) -> Finding:
    """Of the node's own certificate: whether servers will take it, for whom it is, how long yet."""
    subject = f"certificate {tls.cert}"
    do = "make a new one (docs/security.md)"
    try:
        shown = shown_to_others(tls, "client")
    except (OSError, ssl.SSLError) as error:
        return Finding("fault", subject, f"servers would not take it: {explained(error)}", do)
    names = {key: value for part in shown.get("subject", ()) for key, value in part}
    who = (names.get("organizationalUnitName"), names.get("commonName"))
    if who != (config.cluster, config.node_name):
        found = f"it is for node {who[1]} of cluster {who[0]}, not {config.node_name} of "
        return Finding("fault", subject, found + config.cluster, do)
    end = float(ssl.cert_time_to_seconds(shown["notAfter"]))
    day = datetime.fromtimestamp(end, UTC).date().isoformat()
    if end - now < SOON:
        return Finding("warning", subject, f"it ends on {day}", do)
    return Finding("ok", subject, f"node {who[1]} of cluster {who[0]}, until {day}")


async def _kubernetes(config: NodeConfig) -> list[Finding]:
    section, api = config.kubernetes, api_of(config, os.environ)
    if section is None or api is None:
        return []
    from cni_plugins.kubernetes import rights

    try:
        answer = await rights.ask(api, section)
    finally:
        await api.close()
    return list(kubernetes_findings(answer))


def kubernetes_findings(answer: Answer) -> Iterator[Finding]:
    """Of the API and what it lets the node do. Pure."""
    if not answer.reached:
        do = "correct kubernetes in the node's configuration; or take it out, where the runtime"
        yield Finding("fault", "kubernetes", answer.found, f"{do} passes annotations")
        return
    for lack in answer.lacks:
        verdict: Verdict = "fault" if lack.startswith("get pods") else "warning"
        do = "let the node do it, by a ClusterRole and its binding"
        yield Finding(verdict, "kubernetes", f"the node may not {lack}", do)
    if not answer.lacks:
        yield Finding("ok", "kubernetes", f"{answer.found}, and lets the node do all it has to")


def _agent(path: Path) -> Finding:
    try:
        agent_status.ask(path, "status")
    except Problem as problem:
        do = "start netspace-agent serve: without it nothing is repaired"
        return Finding("warning", "agent", problem.detail, do)
    return Finding("ok", "agent", f"it answers on {path}")
