"""Which unicast addresses a link takes frames for beside its own: those of what lies on it.

A macvlan that is up enters its address into the list of the link below it, whichever namespace the
macvlan is in (drivers/net/macvlan.c, ``macvlan_open``); one in passthru mode does not.
"""

from __future__ import annotations

import socket

from hostnet.neighbours import list_neighbours, read_neighbour
from hostnet.netlink import Net


def list_forwarded(net: Net) -> dict[int, frozenset[str]]:
    """The hardware addresses by the index of the link that takes frames for them."""
    found: dict[int, set[str]] = {}
    request = list_neighbours(socket.AF_BRIDGE)
    for answer in net.ask("list the hardware addresses of", "the links", request):
        entry = read_neighbour(answer)
        if len(entry.mac) == 6 and not entry.mac[0] & 1:
            found.setdefault(entry.link, set()).add(entry.mac.hex(":"))
    return {index: frozenset(addresses) for index, addresses in found.items()}
