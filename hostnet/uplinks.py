"""A node's own addresses and routes on the move: from a network card to the bond it goes into.

They move in one go, and come back when a step fails or the default gateway does not answer on the
bond. Routes that the kernel makes by itself, and what routers advertise, come by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from hostnet.addresses import Interface, add_address, delete_address, list_addresses
from hostnet.announce import announce
from hostnet.errors import CardHasAddresses, GatewaySilent, KernelError
from hostnet.links import Link, find_link, set_up
from hostnet.netlink import Net
from hostnet.probe import who_has
from hostnet.routes import Route, add_route, delete_route, list_routes

_BY_KERNEL: Final = 2
_ADVERTISED: Final = 9
_BEFORE: Final = 3.0
"""Seconds that a gateway may take to answer before anything is moved."""


@dataclass(frozen=True, slots=True)
class Belongings:
    """The addresses and routes of a node on one card."""

    addresses: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] = ()

    @property
    def gateways(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """The gateways of its default routes."""
        found = (r.gateway for r in self.routes if r.destination.prefixlen == 0)
        return tuple(dict.fromkeys(gateway for gateway in found if gateway is not None))


Moving = Mapping[str, Belongings]
"""What moves with each card, by the card's name."""


@dataclass(frozen=True, slots=True)
class Take:
    """Cards may carry addresses of the node: they move. ``wait``: seconds within which default
    gateways must answer on the bond, else all is put back; ``before`` is told what moves before
    anything does."""

    wait: float
    before: Callable[[Moving], None]


def put_back(net: Net, bond: str, moving: Moving) -> None:
    """Undoes a move that was cut off half-way: the cards leave the bond and have what they had."""
    master = find_link(net, bond)
    for name, goods in moving.items():
        if (card := find_link(net, name)) is None:
            continue
        if master is not None:
            strip(net, master, goods)
            if card.master == master.index:
                what = f"take out of bond {bond} the card"
                net.change(what, name, "link", "set", index=card.index, master=0)
        give_back(net, card, goods)


def belongings(net: Net, card: Link) -> Belongings:
    """What is to move with the card. ``CardHasAddresses`` where one of its IPv4 addresses is
    leased: whoever leased it would lose it."""
    addresses = [a for a in list_addresses(net, card) if a.scope != "link"]
    leased = [str(a.interface) for a in addresses if not a.permanent and a.interface.version == 4]
    if leased:
        raise CardHasAddresses(
            "take the addresses of the card",
            card.name,
            f"{', '.join(leased)} is leased by DHCP",
            "have the DHCP client use the bond instead, and take the address from the card",
        )
    return Belongings(
        tuple(a.interface for a in addresses if a.permanent),
        tuple(
            found.route
            for found in list_routes(net, card, table=None)
            if found.protocol not in (_BY_KERNEL, _ADVERTISED)
        ),
    )


def give(net: Net, link: Link, goods: Belongings) -> None:
    """Gives addresses and routes to the link, which is up; what it has already stays."""
    for interface in goods.addresses:
        add_address(net, link, interface)
    # A gateway may be reached by another of the routes: those without one go first.
    for route in sorted(goods.routes, key=lambda route: route.gateway is not None):
        add_route(net, link, route)


def give_back(net: Net, link: Link, goods: Belongings) -> None:
    """As ``give``, as much of it as can be given."""
    with suppress(KernelError):
        set_up(net, link)
    for interface in goods.addresses:
        with suppress(KernelError):
            add_address(net, link, interface)
    for route in sorted(goods.routes, key=lambda route: route.gateway is not None):
        with suppress(KernelError):
            add_route(net, link, route)
    with suppress(KernelError):
        announce(net, link, [interface.ip for interface in goods.addresses])


def strip(net: Net, link: Link, goods: Belongings) -> None:
    """Takes addresses and routes from the link."""
    for route in goods.routes:
        delete_route(net, link, route)
    for interface in goods.addresses:
        delete_address(net, link, interface)


def must_answer(net: Net, link: Link, goods: Iterable[Belongings], wait: float | None) -> None:
    """``GatewaySilent`` where a default gateway does not answer on the link within `wait` seconds;
    None: before anything is moved."""
    for each in goods:
        for gateway in each.gateways:
            same = (a.ip for a in each.addresses if a.version == gateway.version)
            # A link-local gateway may not answer to an address of another scope.
            source = None if gateway.is_link_local else next(same, None)
            seconds = _BEFORE if wait is None else wait
            if who_has(net, link, gateway, source=source, wait=seconds) is None:
                why = f"the default gateway {gateway} did not answer within {seconds:g} s"
                raise GatewaySilent(
                    "move the node's addresses, by",
                    link.name,
                    f"{why}, " + ("nothing was changed" if wait is None else "all was put back"),
                    "check cables, switch ports and the bond's mode",
                )


def moving_with(net: Net, bond: str, cards: Iterable[Link], take: Take | None) -> Moving:
    """What the node has on the cards that are to go into the bond, once their gateways have
    answered. ``CardHasAddresses`` where nothing may move, ``GatewaySilent``."""
    moving: dict[str, Belongings] = {}
    for card in cards:
        own = [str(a.interface) for a in list_addresses(net, card) if a.scope != "link"]
        if own and take is None:
            raise CardHasAddresses(
                f"take into bond {bond} the card",
                card.name,
                f"it carries {', '.join(own)}",
                f"move the addresses and their routes to {bond} or another link first, or have "
                "them taken along (take_addresses)",
            )
        if own and (goods := belongings(net, card)).addresses:
            must_answer(net, card, [goods], None)
            moving[card.name] = goods
    if take is not None and moving:
        take.before(moving)
    return moving


def settle(net: Net, link: Link, moving: Moving, take: Take) -> None:
    """Gives all of it to the link; ``GatewaySilent`` where a gateway does not answer there."""
    for goods in moving.values():
        give(net, link, goods)
    must_answer(net, link, moving.values(), take.wait)
    announce(net, link, [a.ip for goods in moving.values() for a in goods.addresses])


def strip_all(net: Net, link: Link, moving: Moving) -> None:
    """Takes all of it from the link again."""
    for goods in moving.values():
        strip(net, link, goods)
