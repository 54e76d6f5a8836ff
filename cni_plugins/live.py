"""The node's report of live attachments: what its records have and its kernel confirms.

What cannot be looked at, is at work, or whose record is unreadable counts as live: only what is
surely gone is left out. The server's revision is asked for first, so that the report is about
nothing that is newer than the look.
"""

from __future__ import annotations

import hostnet
from cni_plugins.attachment import Host, load
from cni_plugins.protocol import CniError
from cni_plugins.records import Key, Record
from cni_plugins.steps import in_thread
from hostnet.errors import KernelError
from ipam_server.client import Client
from netspace.names import is_ifname
from netspace.upkeep import AttachmentsReport, Holding, LiveAttachment, NodeAttachments


async def report_attachments(host: Host, client: Client) -> tuple[int, NodeAttachments]:
    """Reports to the server: how many are live, and what the server makes of it. Raises `Problem`,
    and `OSError` where the records cannot be read."""
    known = await client.node_attachments(host.cluster, host.node)
    since = await in_thread(lambda: host.records.since(known.revision))
    live = await live_attachments(host)
    report = AttachmentsReport(seen=known.revision, since=since, attachments=live)
    return len(live), await client.report_attachments(host.cluster, host.node, report)


async def live_attachments(host: Host) -> list[LiveAttachment]:
    """All attachments of the node whose interface or sandbox is there, or may be."""
    found = []
    for record in await in_thread(host.records.all):
        if record.claim is None or record.cluster != host.cluster:
            continue
        if await _lives(host, record.key):
            generation = record.allocation.generation if record.allocation else 0
            found.append(_live(record.key, generation, _holding(record)))
    aside = await in_thread(host.records.set_aside)
    return found + [_live(key, 0) for key in aside if is_ifname(key.ifname)]


def _live(key: Key, generation: int, holding: Holding | None = None) -> LiveAttachment:
    return LiveAttachment(
        container=key.container, ifname=key.ifname, generation=generation, holding=holding
    )


def _holding(record: Record) -> Holding | None:
    """What the record says was given; nothing of an attachment that is coming or going."""
    given = record.allocation
    if record.state != "held" or record.claim is None or given is None:
        return None
    return Holding(
        claim=record.claim,
        pod=record.pod,
        pool=given.pool,
        network=given.network.name,
        slot=given.slot,
        ipv4=given.ipv4,
        ipv6=given.ipv6,
    )


async def _lives(host: Host, key: Key) -> bool:
    try:
        async with host.lock(key, 0):
            record = await load(host, key)
            if record is None:
                return False
            if await host.wiring.present(record.netns, record.ifname, record.mac):
                return True
            # A link that went with its parent is built again while the sandbox is there.
            return record.state == "held" and await _sandbox(host, record.netns)
    except (CniError, KernelError, OSError):
        # Somebody is at work on it, or it cannot be looked at.
        return True


async def _sandbox(host: Host, netns: str) -> bool:
    try:
        await in_thread(lambda: host.wiring.check_pod(netns))
    except (hostnet.NetnsMissing, hostnet.NotANetns, hostnet.OwnNetns):
        return False
    return True
