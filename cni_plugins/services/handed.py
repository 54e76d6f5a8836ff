"""What the federation agent hands over, as the node uses it: read anew only when the file is
another one, and as routes of a pod by its node's vmac.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import NamedTuple

from cni_plugins.results import Route
from cni_plugins.services.book import Segment
from netspace import handover
from netspace.handover import Handover

logger = logging.getLogger(__name__)

Stamp = tuple[int, int, int]


class _Seen(NamedTuple):
    stamp: Stamp
    handed: Handover


_seen: dict[Path, _Seen] = {}
_NOTHING = Handover()


def stamp_of(path: Path) -> Stamp | None:
    """What changes when the file is replaced; None where there is none to be seen."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def read_handed(path: Path) -> Handover:
    """What is handed over; nothing where there is no file. One that cannot be read is passed over
    for the last one that could: only its absence means that a federation is gone."""
    stamp = stamp_of(path)
    known = _seen.get(path)
    if stamp is None:
        _seen.pop(path, None)
        return _NOTHING
    if known is not None and known.stamp == stamp:
        return known.handed
    try:
        handed = handover.read(path)
    except (OSError, ValueError) as error:
        logger.warning(
            "what the federation agent hands over cannot be read",
            extra={"file": str(path), "why": str(error)},
        )
        handed = _NOTHING if known is None else known.handed
    _seen[path] = _Seen(stamp, handed)
    return handed


def federated(
    handed: Handover, segment: Segment | None, addresses: Iterable[str]
) -> tuple[Route, ...]:
    """The routes of a pod with these addresses on the vmac's network to other clusters: of each
    family in which its address is federated."""
    if not handed or segment is None:
        return ()
    local = [ip_network(text) for text in handed.local]
    versions = set()
    for text in addresses:
        address = ip_interface(text).ip
        if any(address in each for each in local if each.version == address.version):
            versions.add(address.version)
    gateways = {4: segment.address4, 6: segment.address6}
    found = []
    for route in handed.routes:
        version = 6 if ":" in route.destination else 4
        gateway = gateways[version]
        if version in versions and gateway is not None:
            found.append(
                Route(dst=route.destination, gw=gateway, mtu=route.mtu, advmss=route.advmss)
            )
    return tuple(found)
