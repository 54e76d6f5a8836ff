"""Which unicast addresses a link takes frames for beside its own: those of what lies on it.

A macvlan that is up enters its address into the list of the link below it, whichever namespace the
macvlan is in (drivers/net/macvlan.c, ``macvlan_open``); one in passthru mode does not.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from hostnet.netlink import Net
from hostnet.rtnetlink import DUMP, Message, attributes

_GETNEIGH: Final = 30
_NEIGHBOUR: Final = struct.Struct("=BxxxiHBB")
_NDA_LLADDR: Final = 2


def list_forwarded(net: Net) -> dict[int, frozenset[str]]:
    """The hardware addresses by the index of the link that takes frames for them."""
    found: dict[int, set[str]] = {}
    body = _NEIGHBOUR.pack(socket.AF_BRIDGE, 0, 0, 0, 0)
    request = Message(_GETNEIGH, DUMP, body, "fdb dump")
    for answer in net.ask("list the hardware addresses of", "the links", request):
        _, index, _, _, _ = _NEIGHBOUR.unpack_from(answer)
        address = attributes(answer, _NEIGHBOUR.size).get(_NDA_LLADDR, b"")
        if len(address) == 6 and not address[0] & 1:
            found.setdefault(index, set()).add(address.hex(":"))
    return {index: frozenset(addresses) for index, addresses in found.items()}
