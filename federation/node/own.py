"""The node's own addresses among its pods': what it speaks to other clusters' pods from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

import hostnet
from federation.desired import Network
from hostnet import Link, Net

_VMAC = "vmac"
"""What the names of vmacs begin with: the node's own macvlans beside its pods'."""


def own_addresses(
    net: Net, links: Iterable[Link], local: Sequence[Network]
) -> tuple[IPv4Address | IPv6Address, ...]:
    """One of each family, where there is one: that of a vmac in a federated range of this cluster,
    of another link in one, or else of any vmac."""
    vmacs = {link.index for link in links if link.kind == "macvlan" and link.name.startswith(_VMAC)}
    best: dict[int, tuple[tuple[bool, bool, int, int], IPv4Address | IPv6Address]] = {}
    for each in hostnet.list_addresses(net):
        address = each.interface.ip
        federated = any(address in one for one in local if one.version == address.version)
        on_vmac = each.link in vmacs
        if each.scope != "global" or not (federated or on_vmac):
            continue
        rank = not federated, not on_vmac, each.link, int(address)
        if address.version not in best or rank < best[address.version][0]:
            best[address.version] = rank, address
    return tuple(address for _, (_, address) in sorted(best.items()))
