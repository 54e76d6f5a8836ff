"""What a node's way to Services is made of, remembered on disk: STATE_DIR/services.json.

ADD reads a pod's routes from it, without a question to anybody. The agent builds a vmac that
somebody deleted again from it, the node's own addresses and routes included, and takes back what
it made when it is no longer wanted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from cni_plugins import parsed
from cni_plugins.results import Route
from netspace.disk import write_synced
from netspace.messages import Services

FILE: Final = "services.json"


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A network of the cluster on a vmac. `ipv4`, `ipv6`: its subnets; `address4`, `address6`: the
    vmac's own addresses in them without prefix length, None where there is none."""

    network: str
    ipv4: str | None = None
    ipv6: str | None = None
    address4: str | None = None
    address6: str | None = None
    services: Services = "open"


class OwnRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A route of the node's own that lay on the VLAN interface."""

    destination: str
    gateway: str | None = None
    source: str | None = None
    priority: int = 0


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A vmac: its link's name, the link it lies on, its MAC, and its networks. `addresses`: all it
    has, with prefix length. `own` of them, and `routes`, are the VLAN interface's and go back to it
    when the vmac goes."""

    name: str
    parent: str
    mac: str
    segments: tuple[Segment, ...] = ()
    addresses: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    routes: tuple[OwnRoute, ...] = ()


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """The vmacs; by network the routes that its pods get besides their own; and the addresses of
    the node, one of a family, from which it speaks to its pods."""

    places: tuple[Place, ...] = ()
    routes: dict[str, tuple[Route, ...]] = {}
    sources: tuple[str, ...] = ()

    def segment(self, network: str) -> Segment | None:
        found = (s for place in self.places for s in place.segments if s.network == network)
        return next(found, None)

    def vmac(self, network: str) -> str:
        """The name of the network's vmac; empty where it has none."""
        found = (
            place.name
            for place in self.places
            if any(segment.network == network for segment in place.segments)
        )
        return next(found, "")


def for_families(routes: Iterable[Route], addresses: Iterable[str]) -> tuple[Route, ...]:
    """Those of the routes whose family the pod has an address of."""
    versions = {parsed.interface(address).version for address in addresses}
    return tuple(route for route in routes if parsed.network(route.dst).version in versions)


@lru_cache(16)
def _path(state_dir: Path) -> Path:
    return state_dir / FILE


class _Seen(NamedTuple):
    stamp: tuple[int, int, int]
    book: Book


_seen: dict[Path, _Seen] = {}


def read_book(state_dir: Path) -> Book:
    """The book; an empty one where there is none that can be read. A file that has not changed is
    not read again."""
    path = _path(state_dir)
    try:
        status = path.stat()
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = _seen.get(path)
        if known is None or known.stamp != stamp:
            known = _Seen(stamp, msgspec.json.decode(path.read_bytes(), type=Book))
            _seen[path] = known
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return Book()
    return known.book


def write_book(state_dir: Path, book: Book) -> None:
    """When this returns it outlives a power cut."""
    write_synced(state_dir / FILE, msgspec.json.encode(book), os.urandom(4).hex())
