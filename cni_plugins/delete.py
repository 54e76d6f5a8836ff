"""DEL and GC: the interface goes and the address is given back, each whatever becomes of the other.

DEL may come any number of times, without namespace and without `prevResult`. Where the server is
away the release stays pending in the record and DEL succeeds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from cni_plugins import delegate
from cni_plugins.attachment import Host, forget, key_of, load, log_fields, save
from cni_plugins.failures import server_away, to_cni_error
from cni_plugins.leases import give_back, give_back_unrecorded
from cni_plugins.netconf import OWN_IPAM
from cni_plugins.protocol import CniError, Invocation, valid_attachments
from cni_plugins.records import Key, Plugin, Record
from cni_plugins.results import Result, parse_prev_result
from cni_plugins.steps import in_thread, settled
from netspace.problems import Problem

logger = logging.getLogger(__name__)


async def delete(host: Host, invocation: Invocation, plugin: Plugin) -> None:
    """Takes the attachment away, of which any part may be missing. Raises the first `CniError` when
    all that could be done is done."""
    key = key_of(invocation)
    ipam = str(invocation.config.get("ipam", {}).get("type", ""))
    failures: list[Exception] = []
    async with host.lock(key):
        record = await load(host, key)
        if record is not None and record.network != invocation.network:
            logger.info("the attachment is another network's", extra=log_fields(record))
            return
        if record is not None:
            failures += await _remove(host, record, also=invocation.netns)
        else:
            failures += await _remove_unrecorded(
                host, invocation, interface=plugin == "netspace", own=ipam == OWN_IPAM
            )
            await forget(host, key)
        if ipam and ipam != OWN_IPAM:
            failures += await _tried(delegate.run(invocation, ipam, "DEL", host.environ))
    if failures:
        raise to_cni_error(failures[0])


async def collect(host: Host, invocation: Invocation, plugin: Plugin) -> None:
    """GC: what this plugin has in the CNI network and the runtime does not list as valid is taken
    away. Without a list nothing is; an attachment that a call is at work on is left to it."""
    valid = valid_attachments(invocation.config)
    if valid is None:
        return
    failures: list[Exception] = []
    for record in await in_thread(host.records.all):
        known = (record.container, record.ifname) in valid
        if (record.network, record.plugin) != (invocation.network, plugin) or known:
            continue
        try:
            async with host.lock(record.key, 0):
                current = await load(host, record.key)
                if current is not None and current.network == invocation.network:
                    failures += await _remove(host, current)
                    logger.info("GC took an attachment away", extra=log_fields(current))
        except CniError:
            logger.info("GC left an attachment that is worked on", extra=log_fields(record))
    ipam = str(invocation.config.get("ipam", {}).get("type", ""))
    if ipam and ipam != OWN_IPAM:
        failures += await _tried(delegate.run(invocation, ipam, "GC", host.environ))
    if failures:
        raise to_cni_error(failures[0])


async def _remove(host: Host, record: Record, also: str = "") -> list[Exception]:
    """Interface, address and record; the record stays as long as one of the others does."""
    if record.state != "releasing":
        record.state = "releasing"
        # A full disk holds nothing back: to forget a record takes no room.
        await _tried(save(host, record))
    failures: list[Exception] = []
    pending = False
    gone = asyncio.Event()
    removing = asyncio.ensure_future(_detach(host, record, also, gone))
    try:
        # Its address must not be another pod's while it still answers for it.
        await gone.wait()
        await give_back(host, record)
    except Problem as problem:
        pending = True
        if server_away(problem):
            logger.warning(
                "the release is pending", extra={**log_fields(record), "why": problem.detail}
            )
        else:
            failures.append(problem)
    finally:
        failures = await settled(removing) + failures
    if pending or failures:
        await save(host, record)
    else:
        await forget(host, record.key)
    return failures


async def _detach(host: Host, record: Record, also: str, gone: asyncio.Event) -> list[Exception]:
    """Removes the interface, `also` from this namespace; `gone` is set when there is none that
    sends or receives any more, or no way to be rid of it."""
    failures: list[Exception] = []
    try:
        places = [netns for netns in dict.fromkeys((record.netns, also)) if netns]
        for netns in places if record.plugin == "netspace" else ():
            told = gone.set if netns == places[-1] else lambda: None
            removing = host.wiring.detach(netns, record.ifname, record.mac, told)
            failures += await _tried(removing)
    finally:
        gone.set()
    return failures


async def _remove_unrecorded(
    host: Host, invocation: Invocation, *, interface: bool, own: bool
) -> list[Exception]:
    """As much as can be taken away where the node knows nothing of the attachment any more."""
    failures: list[Exception] = []
    if interface and invocation.netns:
        mac = _mac_before(invocation)
        failures += await _tried(host.wiring.detach(invocation.netns, invocation.ifname, mac))
    if own:
        try:
            await give_back_unrecorded(host, Key(invocation.container, invocation.ifname))
        except Problem as problem:
            # Without a record there is nothing to keep it in: reclaiming finds what is left.
            logger.warning(
                "the server could not be asked what an attachment without record holds",
                extra={**log_fields(invocation), "why": problem.detail},
            )
    return failures


def _mac_before(invocation: Invocation) -> str:
    """The interface's MAC as `prevResult` has it; empty where that does not say."""
    try:
        before = parse_prev_result(invocation.config) or Result()
    except CniError:
        return ""
    for interface in before.interfaces:
        if interface.name == invocation.ifname and interface.sandbox:
            return interface.mac.lower()
    return ""


async def _tried(work: Awaitable[object]) -> list[Exception]:
    try:
        await work
    except Exception as error:
        return [error]
    return []
