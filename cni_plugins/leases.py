"""The server's side of an attachment: a slot taken, given back, looked up, replayed.

A record always names its claim before the server hears of it, so a slot can be given back even
where its answer was lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from time import monotonic
from typing import Final

from cni_plugins.answers import check_allocation
from cni_plugins.attachment import Host, forget, load, log_fields, save
from cni_plugins.failures import may_have_happened, server_away
from cni_plugins.places import Place
from cni_plugins.protocol import CniError
from cni_plugins.records import Key, Record
from cni_plugins.steps import in_thread
from hostnet.errors import KernelError
from netspace.messages import (
    AllocateRequest,
    Allocation,
    AttachmentId,
    ReleaseRequest,
    Selection,
)
from netspace.problems import Problem

logger = logging.getLogger(__name__)

SANDBOX_WAIT: Final = 5.0
"""Seconds an ADD waits for a call that is at work on an older sandbox of its pod."""


async def acquire(
    host: Host, record: Record, asked: Selection, default: Selection, removed: Sequence[str]
) -> Allocation:
    """The slot of the record's attachment, checked. The record keeps it, not yet on disk.

    Raises the server's `Problem`; `CniError` 110 where its answer cannot be right. A claim that was
    released meanwhile is replaced by a new one, once.
    """
    # The answer may bring another generation than the one that was known, and may be lost: until it
    # is here only the claim says what is ours.
    if record.allocation is not None:
        record.allocation = None
        await save(host, record)
    try:
        allocation = await _allocate(host, record, asked, default, removed)
    except Problem as problem:
        if problem.code != "claim-released":
            raise
        record.claim = host.new_claim()
        await save(host, record)
        allocation = await _allocate(host, record, asked, default, removed)
    record.allocation = allocation
    check_allocation(allocation, host.cluster)
    host.records.keep_mapping(allocation.network)
    host.leased(allocation.network)
    return allocation


async def give_back(host: Host, record: Record) -> None:
    """Releases what the record's claim holds; nothing to release is success. The record on disk is
    the caller's to change."""
    if record.claim is None:
        return
    released = await host.client.release(
        record.cluster,
        ReleaseRequest(
            attachment=AttachmentId(container=record.container, ifname=record.ifname),
            node=record.node,
            claim=record.claim,
            generation=record.allocation.generation if record.allocation else None,
            conflict=record.conflict,
        ),
    )
    record.claim = None
    if not released.released:
        logger.info(
            "there was nothing to release", extra={**log_fields(record), "why": released.why}
        )


async def give_back_unrecorded(host: Host, key: Key) -> None:
    """Releases what the server says the attachment holds, where this node has no record of it."""
    attachment = AttachmentId(container=key.container, ifname=key.ifname)
    try:
        allocation = await host.client.held(host.cluster, attachment)
    except Problem as problem:
        if problem.code == "not-found":
            return
        raise
    await host.client.release(
        host.cluster,
        ReleaseRequest(
            attachment=attachment,
            node=host.node,
            claim=host.new_claim(),
            generation=allocation.generation,
        ),
    )


def surely_not_done(error: BaseException) -> bool:
    """Whether an allocation that ended so has certainly taken no slot."""
    return isinstance(error, Problem) and not may_have_happened(error)


async def clear_older_sandboxes(host: Host, record: Record) -> list[str]:
    """The containers of this pod's older sandboxes on this node whose interface is gone.

    One of the same UID was given up by the kubelet: its interface is removed here, as one whose DEL
    could not do it. One of another UID is another pod under the same name: its interface is left
    alone and only looked at.
    """
    gone: list[str] = []
    if not (record.pod.namespace and record.pod.name):
        return gone
    for other in host.records.at(Place.of(record.cluster, record.pod, record.ifname)):
        if other.key != record.key and (other.claim is not None or other.pending):
            async with host.lock(other.key, SANDBOX_WAIT):
                older = await load(host, other.key)
                if older is None or await _cleared(host, older, record.pod.uid):
                    gone.append(other.container)
    return gone


async def replay_pending(host: Host, *, most: int, within: float) -> tuple[int, int]:
    """Gives back what earlier calls could not, at most so many and so many seconds; how many were
    and how many are left. Ends at the first sign that the server is away."""
    deadline = monotonic() + within
    done = 0
    pending = [record.key for record in await in_thread(host.records.all) if record.pending]
    for key in pending[:most]:
        left = deadline - monotonic()
        if left <= 0:
            break
        try:
            async with asyncio.timeout(left), host.lock(key, 0):
                done += await _replay(host, key)
        except TimeoutError:
            break
        except CniError:
            continue
        except (Problem, KernelError, OSError) as error:
            if server_away(error):
                break
            logger.warning(
                "a pending release failed",
                extra={"container": key.container, "ifname": key.ifname, "error": str(error)},
            )
    return done, len(pending) - done


async def _allocate(
    host: Host, record: Record, asked: Selection, default: Selection, removed: Sequence[str]
) -> Allocation:
    assert record.claim is not None
    return await host.client.allocate(
        host.cluster,
        AllocateRequest(
            attachment=AttachmentId(container=record.container, ifname=record.ifname),
            claim=record.claim,
            node=host.node,
            pod=record.pod,
            selection=asked,
            default=default,
            removed=list(removed),
        ),
    )


async def _cleared(host: Host, older: Record, uid: str) -> bool:
    ours = older.plugin == "netspace"
    lives = ours and bool(older.sandbox) and host.wiring.sandbox(older.netns) == older.sandbox
    if ours and (older.pending or (uid and older.pod.uid == uid)):
        if not older.pending:
            older.state = "releasing"
            await save(host, older)
        # In the sandbox that it was made in, it is ours whatever MAC it was given since.
        await host.wiring.detach(older.netns, older.ifname, "" if lives else older.mac)
        return True
    if lives and older.state == "held":
        # A link that went with its parent is built again while the sandbox is there.
        return False
    return not await host.wiring.present(older.netns, older.ifname, older.mac)


async def _replay(host: Host, key: Key) -> int:
    record = await load(host, key)
    if record is None or not record.pending:
        return 1
    if record.plugin == "netspace":
        # The interface goes before its address is anybody else's.
        await host.wiring.detach(record.netns, record.ifname, record.mac)
    await give_back(host, record)
    await forget(host, key)
    return 1
