"""A node's VXLAN devices, one for each federation with homogeneous peers, and what they lead to.

Only devices of our names (`nsf` and eight hexadecimal digits) and what lies on them is touched.
What another holds the place of is told and left. Between two looks at all that the kernel has,
changes are computed from what was left there: 100,000 addresses are only sent once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

import hostnet
from federation.desired import ROUTE_PROTOCOL, DesiredNode, Vxlan
from federation.node.keeping import Done
from federation.node.own import own_addresses
from hostnet import Kernel, KernelError, Net
from hostnet.leading import ensure_forwarding
from hostnet.vxlan import Address, Entries, Remote, ensure_vxlan, entries_of, look, sync
from hostnet.vxlan import Vxlan as Device

_OURS: Final = re.compile(r"nsf[0-9a-f]{8}")


def is_ours(name: str) -> bool:
    """Whether a link of this name is a federation's device."""
    return _OURS.fullmatch(name) is not None


@dataclass(slots=True)
class _Known:
    """What a device was left with: the index of the link, its entries, and of what they were made.
    `looked`: when all of it was last looked at (monotonic)."""

    index: int
    entries: Entries
    wanted: Vxlan
    sources: tuple[Address, ...]
    taken: frozenset[bytes]
    looked: float


class VxlanDriver:
    """Call it with the desired node to bring its devices in line. `full`: seconds for which what
    was left is believed when something else is wanted; when nothing else is, all is looked at."""

    def __init__(self, kernel: Kernel, *, full: float = 30.0) -> None:
        self._kernel = kernel
        self._full = full
        self._known: dict[str, _Known] = {}

    async def __call__(self, desired: DesiredNode) -> Done:
        return await self._kernel.run(None, lambda net: self._ensure(net, desired))

    def concerns(self, index: int) -> bool:
        """Whether news of the link with this index is news of a device of ours."""
        return any(known.index == index for known in self._known.values())

    def _ensure(self, net: Net, desired: DesiredNode) -> Done:
        done, faults = [], []
        wanted = {vxlan.link for vxlan in desired.vxlans}
        links = hostnet.list_links(net)
        for link in links:
            if is_ours(link.name) and link.kind == "vxlan" and link.name not in wanted:
                self._known.pop(link.name, None)
                if hostnet.delete_link(net, link.index):
                    done.append(f"deleted {link.name}")
        if desired.vxlans:
            done += ensure_forwarding(net)
        sources = own_addresses(net, links, desired.local) if desired.vxlans else ()
        for vxlan in desired.vxlans:
            try:
                changes, wrong = self._one(net, vxlan, sources)
            except KernelError as error:
                self._known.pop(vxlan.link, None)
                faults.append(str(error))
            else:
                done += changes
                faults += wrong
        return Done(tuple(done), tuple(faults))

    def _one(
        self, net: Net, vxlan: Vxlan, sources: tuple[Address, ...]
    ) -> tuple[list[str], Sequence[str]]:
        device = Device(
            vxlan.link, vxlan.vni, vxlan.port, ip_address(vxlan.local), vxlan.mac, vxlan.mtu
        )
        link, fresh = ensure_vxlan(net, device)
        known = self._known.pop(vxlan.link, None)
        now = time.monotonic()
        same = known is not None and (known.wanted, known.sources) == (vxlan, sources)
        if same and known is not None:
            after = known.entries
        else:
            remotes = [
                Remote(n.mac, ip_address(n.underlay), n.ranges, n.mtu) for n in vxlan.neighbours
            ]
            after = entries_of(remotes, sources)
        if (
            known is None
            or fresh
            or same
            or known.index != link.index
            or (now - known.looked > self._full)
        ):
            seen = look(net, link, ROUTE_PROTOCOL, after.routes)
            before, taken, looked = seen.entries, seen.taken, now
        else:
            before, taken, looked = known.entries, known.taken, known.looked
        synced = sync(net, link, ROUTE_PROTOCOL, before, after, taken)
        if not synced.refused or taken:
            self._known[vxlan.link] = _Known(link.index, after, vxlan, sources, taken, looked)
        done = [f"made {link.name} or set it up"] if fresh else []
        if synced.changed:
            done.append(f"{link.name}: {synced.changed} entries")
        return done, synced.refused
