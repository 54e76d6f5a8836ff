"""What a node's federation agent hands to its node agent: a file with the routes that pods want.

Written whole and renamed into its place; gone or empty means that there is no federation.
"""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

PATH: Final = "/run/netspace/federation.json"
"""Where it is unless the configurations say otherwise."""

ROUTE_PROTOCOL: Final = 78
"""`proto` of a federation's own routes on a node (rtnetlink(7): above 4 is free)."""

MOST_BYTES: Final = 1 << 22
_MOST: Final = 1 << 14

Bytes = Annotated[int, Meta(ge=0, le=65_535)]


class HandedRoute(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A range of another cluster; `mtu` and `advmss` in bytes, 0 where not known."""

    destination: str
    mtu: Bytes = 0
    advmss: Bytes = 0


class Handover(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`routes`: what pods with an address in the ranges `local` reach by their node."""

    routes: Annotated[tuple[HandedRoute, ...], Meta(max_length=_MOST)] = ()
    local: Annotated[tuple[str, ...], Meta(max_length=_MOST)] = ()

    def __bool__(self) -> bool:
        return bool(self.routes)


def decode(data: bytes) -> Handover:
    """The file's content. Raises `ValueError` where it is none."""
    if not data.strip():
        return Handover()
    try:
        handed = msgspec.json.decode(data, type=Handover)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    for text in (*(route.destination for route in handed.routes), *handed.local):
        ip_network(text)
    return handed


def read(path: Path) -> Handover:
    """The same of the file at the path; an empty one where there is none. Raises `ValueError`, and
    `OSError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return Handover()
    if len(data) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    return decode(data)
