"""ADD: a pod's interface made in steps, all of them taken back when one fails.

With our own IPAM: lock, record on disk, older sandboxes of the pod, slot, check of the answer,
VLAN and macvlan, announcement, record, result. With another IPAM plugin its call stands in the
place of the slot, and without one the interface gets no address.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack

import msgspec

from cni_plugins import delegate
from cni_plugins.answers import result_of
from cni_plugins.attachment import Host, forget, key_of, load, log_fields, save
from cni_plugins.failures import FOREIGN_INTERFACE, to_cni_error
from cni_plugins.leases import acquire, clear_older_sandboxes, surely_not_done, withdraw
from cni_plugins.locks import held
from cni_plugins.netconf import (
    OWN_IPAM,
    NetConf,
    parse_netconf,
    pod_of,
    selections,
    wanted_mac,
)
from cni_plugins.protocol import TRY_AGAIN, CniError, Invocation
from cni_plugins.records import Plugin, Record
from cni_plugins.results import Dns, Interface, Private, Result, attached, gateway_of
from cni_plugins.steps import Undo
from cni_plugins.wiring import Plan, Wired
from hostnet import vlan_name

logger = logging.getLogger(__name__)


async def add(host: Host, invocation: Invocation) -> Result:
    """The result of a new attachment, or again that of one which is complete."""
    conf = parse_netconf(invocation.config)
    mac = wanted_mac(conf, invocation)
    async with host.lock(key_of(invocation)), AsyncExitStack() as vlan_lock:
        old = await load(host, key_of(invocation))
        refuse_other_network(old, invocation)
        if old is not None and old.result is not None and old.state == "held":
            again = await _repeated(host, invocation, conf, old)
            if again is not None:
                return again
        record = begin(host, invocation, conf, old, "netspace")
        record.mac = mac or (old.mac if old else "") or host.new_mac()
        if conf.mode == "passthru" and mac is None:
            record.mac = ""
        undo = Undo()
        try:
            if old is not None:
                await host.wiring.detach(old.netns, old.ifname, old.mac)
            reused = old is not None
            addresses = await _addresses(host, invocation, conf, record, undo, reused=reused)
            plan = await _plan(host, invocation, conf, record, addresses)
            wired = await _wire(host, record, plan, undo, vlan_lock)
            return await _complete(host, conf, record, addresses, wired)
        except BaseException as error:
            raise_if_left(error, await undo.run())
            raise


def begin(
    host: Host, invocation: Invocation, conf: NetConf, old: Record | None, plugin: Plugin
) -> Record:
    """The record of an attachment that is about to be made. An earlier try's claim is used again,
    so that what it may hold is found, and a release that was pending for it is cancelled."""
    own = conf.ipam.type == OWN_IPAM
    claim = (old.claim if old else None) or host.new_claim()
    return Record(
        state="adding",
        plugin=plugin,
        network=invocation.network,
        ipam=conf.ipam.type,
        cluster=host.cluster,
        node=host.node,
        container=invocation.container,
        ifname=invocation.ifname,
        netns=invocation.netns,
        pod=pod_of(invocation),
        claim=claim if own else None,
    )


def refuse_other_network(old: Record | None, invocation: Invocation) -> None:
    """`CniError` 111 where the sandbox has the interface from another CNI network."""
    if old is not None and old.network != invocation.network:
        raise CniError(
            FOREIGN_INTERFACE,
            f"{invocation.ifname} of {invocation.container} belongs to the network {old.network}",
            "choose another interface name for this network",
        )


async def lease(
    host: Host,
    invocation: Invocation,
    conf: NetConf,
    record: Record,
    undo: Undo,
    *,
    reused: bool,
) -> Result:
    """The steps that our two plugins share: record, older sandboxes, slot, checked answer."""
    asked, default = selections(conf, invocation)
    may_hold = reused

    async def take_back() -> None:
        await withdraw(host, record, asked=may_hold)

    undo.push("record", take_back)
    await save(host, record)
    host.step("record")
    removed = await clear_older_sandboxes(host, record)
    host.step("older sandboxes")
    before, may_hold = may_hold, True
    try:
        allocation = await acquire(host, record, asked, default, removed)
    except BaseException as error:
        may_hold = before or not surely_not_done(error)
        raise
    host.step("slot")
    return result_of(allocation, conf)


def raise_if_left(error: BaseException, failures: list[Exception]) -> None:
    """`CniError` 11 where something could not be undone: it is in the record, and the next call of
    this attachment or the node's agent sees to it."""
    if not failures:
        return
    raise CniError(
        TRY_AGAIN,
        to_cni_error(error).msg if isinstance(error, Exception) else "interrupted",
        f"{error}; and it is not all undone yet: {'; '.join(map(str, failures))}: the rest is "
        "done by the DEL that follows, or later",
    ) from error


async def _addresses(
    host: Host,
    invocation: Invocation,
    conf: NetConf,
    record: Record,
    undo: Undo,
    *,
    reused: bool,
) -> Result:
    take = lease if conf.ipam.type == OWN_IPAM else _foreign
    return await take(host, invocation, conf, record, undo, reused=reused)


async def _complete(
    host: Host, conf: NetConf, record: Record, addresses: Result, wired: Wired
) -> Result:
    result = attached(
        addresses,
        Interface(name=record.ifname, mac=wired.mac, sandbox=record.netns, mtu=wired.mtu),
    )
    if conf.dns != Dns():
        result.dns = conf.dns
    record.result, record.state = result, "held"
    await save(host, record)
    host.step("held")
    logger.info(
        "the attachment is made",
        extra={**log_fields(record), "addresses": [ip.address for ip in result.ips]},
    )
    return result


async def _foreign(
    host: Host,
    invocation: Invocation,
    conf: NetConf,
    record: Record,
    undo: Undo,
    *,
    reused: bool,
) -> Result:
    """The addresses of another IPAM plugin, or none where the configuration names none."""

    async def drop_record() -> None:
        await forget(host, record.key)

    taken = reused

    async def give_back() -> None:
        try:
            await delegate.run(invocation, conf.ipam.type, "DEL", host.environ)
        except CniError:
            # After an ADD of its own that failed there is most likely nothing to give back.
            if taken:
                raise

    if conf.ipam.type:
        delegate.find(invocation.path, conf.ipam.type)
    undo.push("record", drop_record)
    await save(host, record)
    host.step("record")
    if not conf.ipam.type:
        return Result()
    undo.push("slot", give_back)
    if reused:
        await give_back()
    addresses = await delegate.add(invocation, conf.ipam.type, host.environ)
    taken = True
    host.step("slot")
    return addresses


async def _plan(
    host: Host, invocation: Invocation, conf: NetConf, record: Record, addresses: Result
) -> Plan:
    private = addresses.netspace or Private(vlan=conf.vlan)
    master = conf.master or private.parent
    if not master:
        home = invocation.netns if conf.link_in_container else ""
        master = await host.wiring.default_master(home)
    record.master, record.vlan = master, private.vlan
    record.mode, record.in_container = conf.mode or "bridge", conf.link_in_container
    return Plan(
        netns=invocation.netns,
        ifname=invocation.ifname,
        master=master,
        vlan=private.vlan,
        mode=record.mode,
        mac=record.mac,
        mtu=conf.mtu or private.mtu,
        in_container=conf.link_in_container,
        ips=tuple(addresses.ips),
        routes=tuple(
            msgspec.structs.replace(route, gw=gateway_of(addresses, route))
            for route in addresses.routes
        ),
    )


async def _wire(
    host: Host, record: Record, plan: Plan, undo: Undo, vlan_lock: AsyncExitStack
) -> Wired:
    """Makes and announces the interface. As long as a VLAN interface that this ADD made may have to
    go again, no other ADD may put its macvlan on it: hence the lock, which the caller ends."""
    if plan.vlan is not None:
        name = f"vlan-{vlan_name(plan.master, plan.vlan)}"
        await vlan_lock.enter_async_context(held(host.records.locks, name, host.lock_wait))
    wired = await host.wiring.attach(plan)
    record.mac, record.mtu = wired.mac, wired.mtu
    if wired.made_vlan:
        undo.push("VLAN", lambda: host.wiring.drop_vlan(plan))
    else:
        await vlan_lock.aclose()
    undo.push("interface", lambda: host.wiring.detach(plan.netns, plan.ifname, wired.mac))
    host.step("interface")
    if plan.ips:
        await host.wiring.announce(plan)
    host.step("announcement")
    return wired


async def _repeated(
    host: Host, invocation: Invocation, conf: NetConf, old: Record
) -> Result | None:
    """What the first ADD answered, where the interface and the slot are still as it left them."""
    assert old.result is not None
    live = await host.wiring.inspect(invocation.netns, old.ifname)
    wanted = {ip.address for ip in old.result.ips}
    if (
        invocation.netns != old.netns
        or live is None
        or not live.up
        or (live.kind, live.mac) != ("macvlan", old.mac)
        or not wanted <= live.addresses
    ):
        return None
    if old.claim is not None and old.allocation is not None:
        asked, default = selections(conf, invocation)
        before = old.allocation
        now = await acquire(host, old, asked, default, [])
        if (now.slot, now.generation, now.network.uid) != (
            before.slot,
            before.generation,
            before.network.uid,
        ):
            return None
    return old.result
