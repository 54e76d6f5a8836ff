"""What of a node's way to Services is not as it should be, in words: for `netspace-agent diagnose`.

Each function is a job with a `Net` of the host's namespace, or a part of one; nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface

import hostnet
from cni_plugins.services import chains
from cni_plugins.services.book import Place
from cni_plugins.services.guard import Ability
from cni_plugins.services.vmac import settings_of
from cni_plugins.services.wanted import Wanted
from hostnet import KernelError, Net
from hostnet import firewall as fw
from hostnet import sets as ipsets
from hostnet.chains import faults


def services_faults(net: Net, wanted: Wanted, ability: Ability) -> list[str]:
    """All of it: vmacs, settings, chains, sets."""
    found = [fault for place in wanted.places for fault in vmac_faults(net, place, wanted)]
    found += _settings(net, wanted)
    for family, firewall in ability.firewalls.items():
        tables = chains.tables_of(wanted, family, ability.kinds)
        present = fw.read_firewall(net, firewall)
        found += [f"IPv{family}: {fault}" for fault in faults(tables, chains.HOOKS, present)]
    for each in chains.sets_of(wanted, ability.kinds):
        entries = ipsets.read_set(net, each)
        if entries is None:
            found.append(f"the set {each.name} is missing")
        elif entries != each.entries:
            lost, more = len(each.entries - entries), len(entries - each.entries)
            found.append(f"the set {each.name} lacks {lost} entries and has {more} others")
    return found


def vmac_faults(net: Net, place: Place, wanted: Wanted) -> Iterator[str]:
    """Of one vmac, its addresses and the node's routes by it to its pods."""
    name = place.name
    parent, link = hostnet.find_link(net, place.parent), hostnet.find_link(net, name)
    if parent is None:
        return  # That is told of the link itself.
    if link is None:
        yield f"{name} is missing on {place.parent}"
        return
    if (link.kind, link.parent, link.mac) != ("macvlan", parent.index, place.mac):
        yield f"{name} is not the macvlan on {place.parent} with the address {place.mac}"
    if not link.up:
        yield f"{name} is down"
    there = {str(each.interface) for each in hostnet.list_addresses(net, link)}
    for text in place.addresses:
        if text not in there:
            yield f"{name} lacks the address {text}"
    routed = {str(each.route.destination) for each in hostnet.list_routes(net, link)}
    pods = [pod.address for pod in wanted.pods if pod.vmac == name]
    lost = [text for text in pods if str(ip_interface(text).network) not in routed]
    if lost:
        yield f"{name} has no route to {len(lost)} of {len(pods)} pods' addresses, as {lost[0]}"


def path_filter(net: Net, link: str) -> str:
    """The link's `rp_filter` as it counts: the greater of its own and that of all."""
    values = (hostnet.read_sysctl(net, "ipv4", "conf", each, "rp_filter") for each in ("all", link))
    return max(values)


def _settings(net: Net, wanted: Wanted) -> Iterator[str]:
    for value, path in settings_of(wanted.places):
        if path[0] == "ipv6" and not hostnet.has_ipv6():
            continue
        try:
            there = hostnet.read_sysctl(net, *path)
        except KernelError:
            continue
        if there != value:
            yield f"net/{'/'.join(path)} is {there}, not {value}"
