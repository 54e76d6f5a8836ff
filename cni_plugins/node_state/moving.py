"""The node's own addresses on the move into a bond: written down before anything moves, so that a
move that was cut off half-way is undone at the next start.

One file for each bond, STATE_DIR/moving/BOND.json, which is there only while addresses move.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import msgspec

from hostnet import Belongings, Moving, Route
from netspace.disk import write_synced


class _Route(msgspec.Struct):
    destination: str
    gateway: str | None
    scope: str | None
    source: str | None
    mtu: int
    advmss: int
    priority: int
    table: int
    onlink: bool


class _Goods(msgspec.Struct):
    addresses: list[str]
    routes: list[_Route]


class Journal:
    """Moves under way. Every method blocks for a file or two."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "moving"

    def write(self, bond: str, moving: Moving) -> None:
        """Before the move; when this returns it outlives a power cut."""
        told = {name: _written(goods) for name, goods in moving.items()}
        write_synced(self._folder / f"{bond}.json", msgspec.json.encode(told))

    def read(self, bond: str) -> Moving | None:
        """What was moving when the last move was cut off; None where none was."""
        try:
            data = (self._folder / f"{bond}.json").read_bytes()
            told = msgspec.json.decode(data, type=dict[str, _Goods])
            return {name: _read(goods) for name, goods in told.items()}
        except (FileNotFoundError, msgspec.DecodeError, ValueError):
            return None

    def done(self, bond: str) -> None:
        """The move is complete, or undone."""
        (self._folder / f"{bond}.json").unlink(missing_ok=True)


def _written(goods: Belongings) -> _Goods:
    return _Goods(
        [str(interface) for interface in goods.addresses],
        [
            _Route(
                str(route.destination),
                None if route.gateway is None else str(route.gateway),
                route.scope,
                None if route.source is None else str(route.source),
                route.mtu,
                route.advmss,
                route.priority,
                route.table,
                route.onlink,
            )
            for route in goods.routes
        ],
    )


def _read(goods: _Goods) -> Belongings:
    return Belongings(
        tuple(map(ip_interface, goods.addresses)),
        tuple(
            Route(
                ip_network(route.destination),
                ip_address(route.gateway) if route.gateway else None,
                route.scope,
                ip_address(route.source) if route.source else None,
                route.mtu,
                route.advmss,
                route.priority,
                route.table,
                route.onlink,
            )
            for route in goods.routes
        ),
    )
