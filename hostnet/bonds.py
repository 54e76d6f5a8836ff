"""Bonds in the kernel: making or adopting one, taking cards in, reading its state.

What a bond should be, and which options may change when, is in ``bond_options.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from hostnet.bond_options import (
    OPTIONS,
    Bond,
    differences,
    fixed,
    from_netlink,
    to_netlink,
    wanted_options,
)
from hostnet.errors import (
    AlreadyThere,
    BondOptionFixed,
    CardMissing,
    CardTaken,
    KernelError,
    LinkMissing,
    NotABond,
)
from hostnet.links import (
    Link,
    check_mtu,
    delete_link,
    find_link,
    get_link,
    list_links,
    set_down,
    set_mtu,
    set_up,
)
from hostnet.netlink import Net
from hostnet.uplinks import (
    Belongings,
    Take,
    give_back,
    moving_with,
    settle,
    strip,
    strip_all,
)

_NEEDS = {"empty": "a bond that is down and without cards", "down": "a bond that is down"}
_BACKUP = 1
_Undo = list[Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Card:
    """A network card in a bond. ``monitored_up``: what the bond's own monitoring says of it;
    ``backup``: it sends nothing now; ``failures``: how often it was lost; ``own_mac``: its
    permanent hardware address."""

    link: Link
    monitored_up: bool
    backup: bool
    failures: int
    own_mac: str


@dataclass(frozen=True, slots=True)
class BondState:
    """A bond as it is. ``active``: the card that carries the traffic, in the modes that have
    one; ``options``: those of ``Bond``, in its words."""

    link: Link
    mode: str
    active: str | None
    primary: str | None
    cards: tuple[Card, ...]
    options: Mapping[str, Any]


def bond_state(net: Net, name: str) -> BondState:
    """The state of the bond; ``LinkMissing``, or ``NotABond`` when it is another thing."""
    link = get_link(net, name)
    if link.kind != "bond":
        raise _not_a_bond(link)
    attributes = _info(net, link, "IFLA_INFO_DATA")
    options = from_netlink(attributes)
    cards = tuple(_card(net, card) for card in _cards(net, link))
    names = {card.link.index: card.link.name for card in cards}
    return BondState(
        link,
        str(options.get("mode")),
        names.get(attributes.get("IFLA_BOND_ACTIVE_SLAVE", 0)),
        names.get(attributes.get("IFLA_BOND_PRIMARY", 0)),
        cards,
        options,
    )


def ensure_bond(net: Net, bond: Bond, take: Take | None = None) -> BondState:
    """Make the bond, or adopt the one with its name; its cards are in it and it is up.

    Cards that an adopted bond has beside ``slaves`` stay. A step that fails is undone with
    all before it: cards come back as they were, an adopted bond's options too, and a new
    bond goes. Errors: ``InvalidValue``; ``NotABond``; ``CardMissing``; ``CardTaken``;
    ``CardHasAddresses``, unless ``take`` says that the addresses move; ``GatewaySilent`` (they
    were moved back); ``BondOptionFixed`` (an adopted bond would have to stop for it).
    """
    wanted = wanted_options(bond)
    present = find_link(net, bond.name)
    if present is not None and present.kind != "bond":
        raise _not_a_bond(present)
    cards = [_usable_card(net, bond, name, present) for name in bond.slaves]
    outside = [card for card in cards if present is None or card.master != present.index]
    moving = moving_with(net, bond.name, outside, take)
    undo: _Undo = []
    try:
        link = _made(net, bond, wanted, undo) if present is None else None
        if link is None:
            link = get_link(net, bond.name)
            _adopt(net, link, wanted, undo)
        if bond.mtu and link.mtu != bond.mtu:
            undo.append(lambda: set_mtu(net, link, link.mtu))
            set_mtu(net, link, bond.mtu)
        for card in cards:
            if card.master != link.index:
                _enslave(net, link, card, moving.get(card.name), undo)
        _set_primary(net, bond, link, undo)
        for card in cards:
            if not get_link(net, card.index).up:
                undo.append(partial(set_down, net, card))
                set_up(net, card)
        if not get_link(net, link.index).up:
            undo.append(lambda: set_down(net, link))
            set_up(net, link)
        if take is not None and moving:
            undo.append(lambda: strip_all(net, link, moving))
            settle(net, link, moving, take)
        return bond_state(net, bond.name)
    except BaseException:
        for step in reversed(undo):
            # The error that began it is what matters; what cannot be undone stays.
            with suppress(KernelError):
                step()
        raise


def _usable_card(net: Net, bond: Bond, name: str, present: Link | None) -> Link:
    what = f"take into bond {bond.name} the card"
    card = find_link(net, name)
    if card is None:
        raise CardMissing(what, name, "there is no such link", "correct slaves, or its driver")
    if present is not None and card.master == present.index:
        return card
    if card.master is not None:
        master = find_link(net, card.master)
        raise CardTaken(
            what,
            name,
            f"it belongs to {master.name if master else card.master} already",
            f"take it out there first (ip link set {name} nomaster), or leave it out here",
        )
    check_mtu(bond.mtu)
    return card


def _made(net: Net, bond: Bond, wanted: Mapping[str, Any], undo: _Undo) -> Link | None:
    """The new bond; None when one of the name appeared meanwhile.

    The bonding module makes a bond0 of its own when it is loaded, unless told not to, and
    the request for a bond is what loads it.
    """
    undo.append(lambda: delete_link(net, bond.name))
    try:
        net.change(
            "make the bond",
            bond.name,
            "link",
            "add",
            kind="bond",
            ifname=bond.name,
            **to_netlink(wanted),
        )
    except KernelError as error:
        undo.pop()
        if isinstance(error, AlreadyThere):
            return None
        raise
    return get_link(net, bond.name)


def _adopt(net: Net, link: Link, wanted: Mapping[str, Any], undo: _Undo) -> None:
    if link.kind != "bond":
        raise _not_a_bond(link)
    present = from_netlink(_info(net, link, "IFLA_INFO_DATA"))
    changes = differences(wanted, present)
    if not changes:
        return
    empty = not _cards(net, link)
    if empty and link.up and fixed(changes, empty=True, down=False):
        undo.append(lambda: set_up(net, link))
        set_down(net, link)
        link = get_link(net, link.index)
    refused = fixed(changes, empty=empty, down=not link.up)
    if refused:
        why = "; ".join(
            f"{n} is {present.get(n)}, wanted is {wanted[n]}, and to change it needs "
            f"{_NEEDS[OPTIONS[n].needs]}"
            for n in refused
        )
        raise BondOptionFixed(
            "adopt the bond", link.name, why, "change it while the node is drained, or keep it"
        )
    before = {name: present[name] for name in changes if name in present}
    undo.append(lambda: _set(net, link, to_netlink(before)))
    _set(net, link, to_netlink(changes))


def _enslave(net: Net, bond: Link, card: Link, goods: Belongings | None, undo: _Undo) -> None:
    def back() -> None:
        now = get_link(net, card.index)
        if now.master == bond.index:
            _set_master(net, bond, card, 0)
        if now.mtu != card.mtu:
            set_mtu(net, card, card.mtu)
        (set_up if card.up else set_down)(net, card)

    if goods is not None:
        undo.append(partial(give_back, net, card, goods))
    undo.append(back)
    if goods is not None:
        strip(net, card, goods)
    if card.up:
        set_down(net, card)
    _set_master(net, bond, card, bond.index)
    set_up(net, card)


def _set_primary(net: Net, bond: Bond, link: Link, undo: _Undo) -> None:
    if bond.primary is None:
        return
    present = _info(net, link, "IFLA_INFO_DATA").get("IFLA_BOND_PRIMARY", 0)
    wanted = get_link(net, bond.primary).index
    if present != wanted:
        undo.append(lambda: _set(net, link, {"IFLA_BOND_PRIMARY": present}))
        _set(net, link, {"IFLA_BOND_PRIMARY": wanted})


def _set_master(net: Net, bond: Link, card: Link, master: int) -> None:
    verb = "take into" if master else "take out of"
    net.change(
        f"{verb} bond {bond.name} the card",
        card.name,
        "link",
        "set",
        index=card.index,
        master=master,
    )


def _set(net: Net, link: Link, attributes: Mapping[str, Any]) -> None:
    names = ", ".join(name.removeprefix("IFLA_BOND_").lower() for name in attributes)
    net.change(
        f"set {names} of the bond",
        link.name,
        "link",
        "set",
        index=link.index,
        kind="bond",
        **attributes,
    )


def _cards(net: Net, bond: Link) -> list[Link]:
    return [link for link in list_links(net) if link.master == bond.index]


def _card(net: Net, link: Link) -> Card:
    data = _info(net, link, "IFLA_INFO_SLAVE_DATA")
    return Card(
        link,
        monitored_up=data.get("IFLA_BOND_SLAVE_MII_STATUS") == 0,
        backup=data.get("IFLA_BOND_SLAVE_STATE") == _BACKUP,
        failures=data.get("IFLA_BOND_SLAVE_LINK_FAILURE_COUNT", 0),
        own_mac=data.get("IFLA_BOND_SLAVE_PERM_HWADDR", ""),
    )


def _info(net: Net, link: Link, part: str) -> dict[str, Any]:
    messages = net.look("read the state of", link.name, "link", "get", index=link.index)
    if not messages:
        raise LinkMissing("read the state of", link.name, "it is gone", "make it again")
    info = messages[0].get_attr("IFLA_LINKINFO")
    data = info.get_attr(part) if info else None
    return dict(data["attrs"]) if data else {}


def _not_a_bond(link: Link) -> NotABond:
    return NotABond(
        "use as a bond the link",
        link.name,
        f"it is {'a ' + link.kind if link.kind else 'a network card'}",
        "delete or rename it, or choose another name",
    )
