"""CHECK: the live kernel and the server's word compared with `prevResult`.

Later plugins of a chain may have changed what is not ours: further addresses and routes are fine,
missing ones are not (CNI specification, section 2, CHECK).
"""

from __future__ import annotations

from ipaddress import ip_interface, ip_network

import hostnet
from cni_plugins import delegate
from cni_plugins.attachment import Host, key_of, load
from cni_plugins.failures import NOT_AS_LEFT
from cni_plugins.netconf import OWN_IPAM, NetConf, parse_netconf
from cni_plugins.protocol import INVALID_CONFIG, UNKNOWN_CONTAINER, CniError, Invocation
from cni_plugins.records import Record
from cni_plugins.results import Interface, Result, gateway_of, parse_prev_result
from cni_plugins.wiring import Live
from netspace.messages import AttachmentId
from netspace.problems import Problem


async def check(host: Host, invocation: Invocation) -> None:
    """Raises `CniError` 112 with the first thing that is not as ADD left it."""
    conf = parse_netconf(invocation.config)
    before = required_prev_result(invocation)
    if conf.ipam.type == OWN_IPAM:
        await check_lease(host, invocation, before)
    elif conf.ipam.type:
        await delegate.run(invocation, conf.ipam.type, "CHECK", host.environ)
    record = await load(host, key_of(invocation))
    if record is None:
        raise CniError(
            UNKNOWN_CONTAINER,
            f"the node has no record of {invocation.ifname} of {invocation.container}",
            "it was never added here, or has been deleted",
        )
    live = await host.wiring.inspect(invocation.netns, invocation.ifname)
    if live is None:
        raise wrong(f"{invocation.ifname} is missing in {invocation.netns}")
    compare(live, _listed(before, invocation), before, conf)
    await _check_parent(host, live, record)


def required_prev_result(invocation: Invocation) -> Result:
    """The configuration's `prevResult`, which CHECK must have."""
    before = parse_prev_result(invocation.config)
    if before is None:
        raise CniError(INVALID_CONFIG, "prevResult is missing", "CHECK compares with it")
    return before


async def check_lease(host: Host, invocation: Invocation, before: Result) -> None:
    """The server must hold exactly these addresses for the attachment."""
    key = key_of(invocation)
    attachment = AttachmentId(container=key.container, ifname=key.ifname)
    try:
        allocation = await host.client.held(host.cluster, attachment)
    except Problem as problem:
        if problem.code == "not-found":
            raise wrong(f"the server holds no address for {key.container}") from None
        raise
    ours = {address for address in (allocation.ipv4, allocation.ipv6) if address is not None}
    listed = {str(ip_interface(ip.address).ip) for ip in before.ips}
    if not ours <= listed:
        raise wrong(
            f"the server holds {', '.join(sorted(ours))} for it, and prevResult has "
            f"{', '.join(sorted(listed)) or 'no address'}"
        )


def compare(live: Live, listed: Interface, before: Result, conf: NetConf) -> None:
    """The live interface against what `prevResult` says of it."""
    if live.kind != "macvlan":
        raise wrong(f"{listed.name} is a {live.kind or 'network card'}, not a macvlan")
    if live.mode != (conf.mode or "bridge"):
        raise wrong(f"{listed.name} has the mode {live.mode}, not {conf.mode or 'bridge'}")
    if listed.mac and live.mac != listed.mac.lower():
        raise wrong(f"{listed.name} has the address {live.mac}, not {listed.mac}")
    if not live.up:
        raise wrong(f"{listed.name} is down")
    position = before.interfaces.index(listed)
    for ip in before.ips:
        address = str(ip_interface(ip.address))
        if ip.interface in (None, position) and address not in live.addresses:
            raise wrong(f"{listed.name} has lost the address {address}")
    for route in before.routes:
        if route.table not in (None, 254):
            continue
        wanted = (str(ip_network(route.dst, strict=False)), gateway_of(before, route))
        # ADD leaves a destination to the pod's interface that had it first.
        if wanted not in live.routes and wanted[0] not in live.elsewhere:
            raise wrong(f"the route to {wanted[0]} by {wanted[1] or 'the link'} is missing")


def wrong(what: str) -> CniError:
    return CniError(
        NOT_AS_LEFT, what, "the pod's network is not as ADD left it: let the pod be made again"
    )


async def _check_parent(host: Host, live: Live, record: Record) -> None:
    if record.in_container or not record.master:
        return
    parent = record.master
    if record.vlan is not None:
        parent = hostnet.vlan_name(record.master, record.vlan)
    index = await host.wiring.link_index(parent)
    if index is None:
        raise wrong(f"the link {parent} below it does not exist")
    if live.parent_here or live.parent != index:
        raise wrong(f"{record.ifname} does not lie on {parent}")


def _listed(before: Result, invocation: Invocation) -> Interface:
    for interface in before.interfaces:
        if interface.name == invocation.ifname and interface.sandbox == invocation.netns:
            return interface
    raise wrong(f"prevResult has no {invocation.ifname} in {invocation.netns}")
