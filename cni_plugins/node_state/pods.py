"""Pods' interfaces put right: built again from their records, and kept down where the slot is
somebody else's now.

What a pod does with an interface that is there is its own business. Every repair holds the
attachment's lock and reads the record again under it, so that it never races ADD or DEL: an
attachment that a call is at work on is left to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import hostnet
from cni_plugins.attachment import Host, load, log_fields, save
from cni_plugins.locks import held
from cni_plugins.node_state.desired import PodLink, pod_link
from cni_plugins.node_state.faults import suspects
from cni_plugins.node_state.guards import Guards
from cni_plugins.node_state.links import LOCK_WAIT
from cni_plugins.node_state.report import Change, Failure, Report
from cni_plugins.protocol import CniError
from cni_plugins.records import Key
from cni_plugins.steps import in_thread
from cni_plugins.wiring import Plan, guarded, has_guard, make_guard, sandbox_of
from hostnet import Kernel, KernelError, Net
from netspace.upkeep import Dispute

logger = logging.getLogger(__name__)

AT_ONCE: Final = 8
"""Interfaces that are worked on at the same time."""
_GONE: Final = (hostnet.NetnsMissing, hostnet.NotANetns, hostnet.OwnNetns)


async def mend_pods(
    kernel: Kernel, host: Host, pods: Sequence[PodLink], guards: Guards, report: Report
) -> None:
    """Builds missing interfaces again, gives back MTUs that went down with their parent's, makes
    filters again that were taken away, and takes down what is fenced."""
    if not pods:
        return
    forwarded = await kernel.run(None, hostnet.list_forwarded)
    found = {str(pod.key): pod for pod in suspects(pods, report.links, forwarded)}
    found |= {str(pod.key): pod for pod in pods if pod.parent in report.lowered}
    found |= {str(pod.key): pod for pod in await guards.missing(kernel, pods)}
    by_parent: dict[str, list[PodLink]] = {}
    for pod in found.values():
        # Without its parent nothing can be built; that failure has been told.
        if pod.plan.in_container or pod.parent in report.links:
            by_parent.setdefault(pod.parent, []).append(pod)
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(pod: PodLink) -> None:
        async with slots:
            await _mend(kernel, host, pod, report)

    for name, group in by_parent.items():
        async with AsyncExitStack() as stack:
            try:
                # An ADD that made the VLAN may take it back, and all on it.
                lock = held(host.records.lock_file, f"vlan-{name}", LOCK_WAIT, shared=True)
                await stack.enter_async_context(lock)
            except CniError:
                report.again = report.passed = True
                continue
            await asyncio.gather(*map(one, group))


async def fence(host: Host, disputes: Iterable[Dispute]) -> bool:
    """Notes in the records which attachments' slots are somebody else's, by the server's last
    word; whether anything is new. What is no longer so is removed, to be built again."""
    lost = {Key(d.container, d.ifname): f"{d.address}: {d.why}" for d in disputes if d.other}
    new = False
    for known in await in_thread(host.records.all):
        if bool(known.fenced) == (known.key in lost) or known.state != "held":
            continue
        try:
            async with host.lock(known.key):
                record = await load(host, known.key)
                if record is None or record.state != "held":
                    continue
                record.fenced = lost.get(record.key, "")
                if not record.fenced and record.plugin == "netspace":
                    await host.wiring.detach(record.netns, record.ifname, record.mac)
                await save(host, record)
        except (CniError, KernelError) as error:
            logger.warning(
                "an attachment could not be fenced",
                extra={**log_fields(known), "error": str(error)},
            )
            continue
        new = True
        said = "somebody else has the attachment's slot" if record.fenced else "the slot is its own"
        logger.warning(said, extra={**log_fields(record), "why": record.fenced})
    return new


async def _mend(kernel: Kernel, host: Host, known: PodLink, report: Report) -> None:
    subject = f"interface {known.key.ifname} of {known.key.container}"
    try:
        async with host.lock(known.key, 0):
            record = await load(host, known.key)
            pod = None if record is None else pod_link(record)
            if record is None or pod is None:
                return
            if record.pod.name:
                subject = (
                    f"interface {pod.key.ifname} of pod {record.pod.namespace}/{record.pod.name}"
                )
            change = await _put_right(kernel, host, pod, report.lowered)
            if change is not None:
                report.changes.append(Change(subject, *change))
                report.mended.append(pod.key)
    except CniError:
        report.again = report.passed = True
    except _GONE:
        # The sandbox is gone, and the runtime's DEL or GC follows.
        return
    except (KernelError, OSError) as error:
        report.failures.append(Failure(subject, str(error)))


def _guard(plan: Plan, net: Net) -> bool:
    link = hostnet.get_link(net, plan.ifname)
    return guarded(plan) and not has_guard(net, link, plan) and make_guard(net, link, plan)


async def _put_right(
    kernel: Kernel, host: Host, pod: PodLink, lowered: Mapping[str, Collection[int]]
) -> tuple[str, str] | None:
    """What was found and what was done about it."""
    plan = pod.plan
    with hostnet.open_netns(plan.netns) as netns:
        if sandbox_of(netns) != pod.sandbox:
            return None
        link = await kernel.run(netns, lambda net: hostnet.find_link(net, plan.ifname))
        if link is not None:
            if (link.kind, link.mac) != ("macvlan", plan.mac):
                return None
            if pod.fenced and link.up:
                await kernel.run(netns, lambda net: hostnet.set_down(net, link))
                return f"its slot is somebody else's ({pod.fenced})", "taken down"
            if not pod.fenced and link.mtu < plan.mtu and link.mtu in lowered.get(pod.parent, ()):
                await kernel.run(netns, lambda net: hostnet.set_mtu(net, link, plan.mtu))
                return f"its MTU was {link.mtu}, not {plan.mtu}", "set"
            if not pod.fenced and await kernel.run(netns, partial(_guard, plan)):
                return "it had no filter of what it may send", "made"
            return None
    if pod.fenced:
        return None
    wired = await host.wiring.attach(plan)
    if wired.sandbox != pod.sandbox:
        await host.wiring.detach(plan.netns, plan.ifname, wired.mac)
        return None
    addresses = ", ".join(ip.address for ip in plan.ips) or "no address"
    return "it was missing", f"built again on {pod.parent} with {plan.mac} and {addresses}"
