"""ADD: a pod's interface made in steps, all of them taken back when one fails.

With our own IPAM: lock, record on disk, older sandboxes of the pod, slot, check of the answer,
VLAN and announced macvlan, record, result. With another IPAM plugin its call stands in the
place of the slot, and without one the interface gets no address.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack

import msgspec

from cni_plugins import delegate
from cni_plugins.answers import result_of
from cni_plugins.attachment import Host, key_of, load, log_fields, save
from cni_plugins.attempt import (
    Attempt,
    begin,
    drop_record,
    lease,
    refuse_other_network,
    wishes,
    write_record,
)
from cni_plugins.leases import acquire
from cni_plugins.locks import held
from cni_plugins.netconf import (
    OWN_IPAM,
    NetConf,
    parse_netconf,
    wanted_mac,
)
from cni_plugins.protocol import CniError, Invocation
from cni_plugins.records import Record
from cni_plugins.results import Dns, Interface, Private, Result, Route, attached, gateway_of
from cni_plugins.services.book import for_families, read_book
from cni_plugins.services.handed import federated, read_handed
from cni_plugins.steps import in_thread
from cni_plugins.wiring import Plan, Wired
from hostnet import AddressConflict, check_name, vlan_name

logger = logging.getLogger(__name__)


async def add(host: Host, invocation: Invocation) -> Result:
    """The result of a new attachment, or again that of one which is complete."""
    conf = parse_netconf(invocation.config)
    mac = wanted_mac(conf, invocation)
    host.wiring.check_pod(invocation.netns)
    check_name(invocation.ifname)
    async with host.lock(key_of(invocation)), AsyncExitStack() as vlan_lock:
        old = await load(host, key_of(invocation))
        refuse_other_network(old, invocation)
        if old is not None and old.result is not None and old.state == "held":
            again = await _repeated(host, invocation, conf, old)
            if again is not None:
                return again
        attempt = begin(host, invocation, conf, old, "netspace")
        attempt.record.mac = mac or (old.mac if old else "") or host.new_mac()
        if conf.mode == "passthru" and mac is None:
            attempt.record.mac = ""
        try:
            if old is not None:
                await host.wiring.detach(old.netns, old.ifname, old.mac)
            own = conf.ipam.type == OWN_IPAM
            addresses = await (lease if own else _foreign)(attempt)
            plan = await _plan(attempt, addresses)
            wired = await _wire(attempt, plan, vlan_lock)
            result = await _complete(attempt, addresses, wired)
        except BaseException as error:
            await attempt.taken_back(error)
            raise
        attempt.undo.forget()
        return result


async def _foreign(attempt: Attempt) -> Result:
    """The addresses of another IPAM plugin, or none where the configuration names none."""
    host, invocation, ipam = attempt.host, attempt.invocation, attempt.conf.ipam.type
    taken = attempt.reused

    async def give_back() -> None:
        try:
            await delegate.run(invocation, ipam, "DEL", host.environ)
        except CniError:
            # After an ADD of its own that failed there is most likely nothing to give back.
            if taken:
                raise

    if ipam:
        delegate.find(invocation.path, ipam)
    attempt.undo.push("record", lambda: drop_record(attempt))
    await write_record(attempt)
    if not ipam:
        return Result()
    attempt.undo.push("slot", give_back)
    if attempt.reused:
        await give_back()
    addresses = await delegate.add(invocation, ipam, host.environ)
    taken = True
    host.step("slot")
    return addresses


async def _plan(attempt: Attempt, addresses: Result) -> Plan:
    invocation, conf, record = attempt.invocation, attempt.conf, attempt.record
    private = addresses.netspace or Private(vlan=conf.vlan)
    master = conf.master or private.parent
    if not master:
        home = invocation.netns if conf.link_in_container else ""
        master = await attempt.host.wiring.default_master(home)
    record.master, record.vlan = master, private.vlan
    record.mode, record.in_container = conf.mode or "bridge", conf.link_in_container
    record.guard = conf.guard_sources
    vmac, beyond, sources = _services(attempt, addresses, private)
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
        routes=(
            *(
                msgspec.structs.replace(route, gw=gateway_of(addresses, route))
                for route in addresses.routes
            ),
            *beyond,
        ),
        probe=private.probe,
        guard=record.guard,
        vmac=vmac,
        sources=sources,
    )


def _services(
    attempt: Attempt, addresses: Result, private: Private
) -> tuple[str, tuple[Route, ...], tuple[str, ...]]:
    """The vmac, the pod's routes to Services, the node and other clusters, and the addresses that
    the node speaks from, as the agents wrote them down: nothing before there is a vmac. The runtime
    is not told of them: they come and go with the agents' configuration."""
    if not private.network or attempt.conf.link_in_container:
        return "", (), ()
    book = read_book(attempt.host.records.folder)
    known = book.routes.get(private.network, ())
    own = [ip.address for ip in addresses.ips]
    routes = for_families(known, own)
    handed = read_handed(attempt.host.handover)
    routes += federated(handed, book.segment(private.network), own)
    return book.vmac(private.network), routes, book.sources


async def _wire(attempt: Attempt, plan: Plan, vlan_lock: AsyncExitStack) -> Wired:
    """Makes and announces the interface. As long as a VLAN interface that this ADD made may have to
    go again, no other ADD may put its macvlan on it: hence the lock, which the caller ends."""
    host, record = attempt.host, attempt.record
    alone = await _lock_vlan(host, plan, vlan_lock)

    async def detach() -> None:
        attempt.stuck = True
        await host.wiring.detach(plan.netns, plan.ifname, record.mac)
        attempt.stuck = False

    try:
        wired = await host.wiring.attach(plan)
    except BaseException as error:
        record.conflict = isinstance(error, AddressConflict)
        if record.mac:
            attempt.undo.push("interface", detach)
        raise
    record.mac, record.mtu, record.sandbox = wired.mac, wired.mtu, wired.sandbox

    if wired.made_vlan and alone:
        attempt.undo.push("VLAN", lambda: _drop_vlan(host, plan))
    else:
        await vlan_lock.aclose()
    attempt.undo.push("interface", detach)
    if wired.made_vlan:
        await _remember_vlan(host, plan)
    host.step("interface")
    return wired


async def _lock_vlan(host: Host, plan: Plan, lock: AsyncExitStack) -> bool:
    """Holds the VLAN interface's lock: with others where it is there and stays, else alone; whether
    it is alone."""
    if plan.vlan is None:
        return True
    link = vlan_name(plan.master, plan.vlan)
    name = f"vlan-{link}"
    if not plan.in_container and await host.wiring.link_index(link) is not None:
        await lock.enter_async_context(
            held(host.records.lock_file, name, host.lock_wait, shared=True)
        )
        # Whoever made it may have taken it back before the lock was given.
        if await host.wiring.link_index(link) is not None:
            return False
        await lock.aclose()
    await lock.enter_async_context(held(host.records.lock_file, name, host.lock_wait))
    return True


async def _drop_vlan(host: Host, plan: Plan) -> None:
    """Undoes the making of the VLAN interface, and the note of it."""
    await host.wiring.drop_vlan(plan)
    if plan.vlan is None or plan.in_container:
        return
    name = vlan_name(plan.master, plan.vlan)
    if await host.wiring.link_index(name) is None:
        await in_thread(lambda: host.records.made.forget(name))


async def _remember_vlan(host: Host, plan: Plan) -> None:
    """Notes that the VLAN interface is ours: the agent takes away no other one."""
    if plan.vlan is None or plan.in_container:
        return
    name = vlan_name(plan.master, plan.vlan)
    if (index := await host.wiring.link_index(name)) is not None:
        await in_thread(lambda: host.records.made.remember(name, index))


async def _complete(attempt: Attempt, addresses: Result, wired: Wired) -> Result:
    host, record, dns = attempt.host, attempt.record, attempt.conf.dns
    result = attached(
        addresses,
        Interface(name=record.ifname, mac=wired.mac, sandbox=record.netns, mtu=wired.mtu),
    )
    if dns != Dns():
        result.dns = dns
    record.result, record.state = result, "held"
    await save(host, record)
    host.step("held")
    logger.info(
        "the attachment is made",
        extra={**log_fields(record), "addresses": [ip.address for ip in result.ips]},
    )
    return result


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
    if old.claim is not None:
        asked, default = await wishes(host, conf, invocation)
        now = result_of(await acquire(host, old, asked, default, []), conf)
        if [ip.address for ip in now.ips] != [ip.address for ip in old.result.ips]:
            return None
        await save(host, old)
    return old.result
