"""What a bond should be, and what follows from it: values and decisions only, no kernel.

Source: Documentation/networking/bonding.rst; which option may change when is in
drivers/net/bonding/bond_options.c.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from hostnet.errors import InvalidValue
from hostnet.links import check_mtu, check_name

DEFAULT_MIIMON = 100
_WITH_PRIMARY = ("active-backup", "balance-tlb", "balance-alb")
_WITHOUT_ARP = ("802.3ad", "balance-tlb", "balance-alb")


@dataclass(frozen=True, slots=True)
class Bond:
    """A bond as it should be; an option that is None is the kernel's, or left as it is.

    ``slaves``: names of the network cards; ``mode``, ``lacp_rate``, ``xmit_hash_policy``,
    ``fail_over_mac``, ``primary_reselect``, ``arp_validate``, ``arp_all_targets`` and
    ``ad_select`` have the names of bonding.rst; ``miimon``, ``updelay``, ``downdelay`` and
    ``arp_interval`` are milliseconds (``miimon`` None: 100, or 0 with ``arp_interval``);
    ``lp_interval`` is seconds; ``mtu`` is bytes, 0: left alone.
    """

    name: str
    slaves: tuple[str, ...]
    mode: str = "active-backup"
    miimon: int | None = None
    updelay: int | None = None
    downdelay: int | None = None
    lacp_rate: str | None = None
    xmit_hash_policy: str | None = None
    primary: str | None = None
    primary_reselect: str | None = None
    fail_over_mac: str | None = None
    num_peer_notif: int | None = None
    min_links: int | None = None
    mtu: int = 0
    arp_interval: int | None = None
    arp_ip_target: tuple[IPv4Address, ...] | None = None
    arp_validate: str | None = None
    arp_all_targets: str | None = None
    ad_select: str | None = None
    all_slaves_active: int | None = None
    resend_igmp: int | None = None
    packets_per_slave: int | None = None
    lp_interval: int | None = None
    tlb_dynamic_lb: int | None = None
    ad_actor_sys_prio: int | None = None
    ad_user_port_key: int | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """How one option travels: its netlink attribute, and the number of each of its words.

    ``words`` empty: a plain number. ``modes`` empty: any. ``needs``: what the kernel asks
    for before it lets the option change: "" nothing, "down" the bond down, "empty" no cards.
    """

    attribute: str
    words: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    needs: str = ""


OPTIONS: Mapping[str, Option] = {
    "mode": Option(
        "IFLA_BOND_MODE",
        (
            "balance-rr",
            "active-backup",
            "balance-xor",
            "broadcast",
            "802.3ad",
            "balance-tlb",
            "balance-alb",
        ),
        needs="empty",
    ),
    "miimon": Option("IFLA_BOND_MIIMON"),
    "updelay": Option("IFLA_BOND_UPDELAY"),
    "downdelay": Option("IFLA_BOND_DOWNDELAY"),
    "lacp_rate": Option("IFLA_BOND_AD_LACP_RATE", ("slow", "fast"), ("802.3ad",), "down"),
    "xmit_hash_policy": Option(
        "IFLA_BOND_XMIT_HASH_POLICY",
        ("layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac"),
    ),
    "primary_reselect": Option(
        "IFLA_BOND_PRIMARY_RESELECT", ("always", "better", "failure"), _WITH_PRIMARY
    ),
    "fail_over_mac": Option("IFLA_BOND_FAIL_OVER_MAC", ("none", "active", "follow"), needs="empty"),
    "num_peer_notif": Option("IFLA_BOND_NUM_PEER_NOTIF"),
    "min_links": Option("IFLA_BOND_MIN_LINKS"),
    "arp_interval": Option("IFLA_BOND_ARP_INTERVAL"),
    "arp_ip_target": Option("IFLA_BOND_ARP_IP_TARGET"),
    "arp_validate": Option(
        "IFLA_BOND_ARP_VALIDATE",
        ("none", "active", "backup", "all", "filter", "filter_active", "filter_backup"),
    ),
    "arp_all_targets": Option("IFLA_BOND_ARP_ALL_TARGETS", ("any", "all")),
    "ad_select": Option(
        "IFLA_BOND_AD_SELECT", ("stable", "bandwidth", "count"), ("802.3ad",), "down"
    ),
    "all_slaves_active": Option("IFLA_BOND_ALL_SLAVES_ACTIVE"),
    "resend_igmp": Option("IFLA_BOND_RESEND_IGMP"),
    "packets_per_slave": Option("IFLA_BOND_PACKETS_PER_SLAVE", (), ("balance-rr",)),
    "lp_interval": Option("IFLA_BOND_LP_INTERVAL"),
    "tlb_dynamic_lb": Option(
        "IFLA_BOND_TLB_DYNAMIC_LB", (), ("balance-tlb", "balance-alb"), "down"
    ),
    "ad_actor_sys_prio": Option("IFLA_BOND_AD_ACTOR_SYS_PRIO", (), ("802.3ad",), "down"),
    "ad_user_port_key": Option("IFLA_BOND_AD_USER_PORT_KEY", (), ("802.3ad",), "down"),
}


def wanted_options(bond: Bond) -> dict[str, Any]:
    """The options to set, by name and in words; ``InvalidValue`` when they contradict.

    The primary card is not among them: it is set once the cards are in the bond.
    """
    check_name(bond.name)
    check_mtu(bond.mtu)
    values = {name: value for name in OPTIONS if (value := getattr(bond, name)) is not None}
    values.setdefault("miimon", 0 if bond.arp_interval else DEFAULT_MIIMON)
    for name, value in values.items():
        option = OPTIONS[name]
        if option.words and value not in option.words:
            raise _invalid(bond, f"{name} {value!r} is none", f"use {', '.join(option.words)}")
        if isinstance(value, int) and value < 0:
            raise _invalid(bond, f"{name} {value} is negative", "give 0 or more")
        if option.modes and bond.mode not in option.modes:
            raise _invalid(bond, f"mode {bond.mode} has no {name}", f"leave {name} out")
    _check_cards(bond)
    _check_monitoring(bond, values["miimon"])
    return values


def differences(wanted: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, Any]:
    """The wanted options that the present ones do not equal."""
    return {name: value for name, value in wanted.items() if present.get(name) != value}


def fixed(changes: Mapping[str, Any], *, empty: bool, down: bool) -> list[str]:
    """Which of the changes the kernel refuses for a bond in this state."""
    allowed = {"", *(("down",) if down else ()), *(("empty",) if empty and down else ())}
    return [name for name in changes if OPTIONS[name].needs not in allowed]


def to_netlink(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as netlink attributes."""
    return {OPTIONS[name].attribute: _number(name, value) for name, value in options.items()}


def from_netlink(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Netlink attributes as options in words; attributes of no option are left out."""
    options: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        value = attributes.get(option.attribute)
        if name == "arp_ip_target":
            options[name] = tuple(IPv4Address(target) for target in value or ())
        elif value is not None:
            known = option.words and value < len(option.words)
            options[name] = option.words[value] if known else value
    return options


def _number(name: str, value: Any) -> Any:
    if name == "arp_ip_target":
        return [str(target) for target in value]
    words = OPTIONS[name].words
    return words.index(value) if words else value


def _check_cards(bond: Bond) -> None:
    if not bond.slaves:
        raise _invalid(bond, "it has no cards", "name at least one in slaves")
    for card in bond.slaves:
        check_name(card)
    if len(set(bond.slaves)) != len(bond.slaves) or bond.name in bond.slaves:
        raise _invalid(bond, "a card is named twice, or is the bond", "name each card once")
    if bond.primary is not None:
        if bond.primary not in bond.slaves:
            raise _invalid(bond, f"primary {bond.primary} is not in slaves", "add or correct it")
        if bond.mode not in _WITH_PRIMARY:
            raise _invalid(bond, f"mode {bond.mode} has no primary", "leave primary out")


def _check_monitoring(bond: Bond, miimon: int) -> None:
    if bond.arp_interval:
        if miimon:
            raise _invalid(bond, "arp_interval and miimon exclude each other", "drop one")
        if not bond.arp_ip_target:
            raise _invalid(bond, "arp_interval without arp_ip_target", "name targets")
        if bond.mode in _WITHOUT_ARP:
            raise _invalid(bond, f"mode {bond.mode} cannot watch by ARP", "use miimon")
    for name in ("updelay", "downdelay"):
        delay = getattr(bond, name)
        if delay and (not miimon or delay % miimon):
            raise _invalid(bond, f"{name} {delay} is no multiple of miimon {miimon}", "correct it")


def _invalid(bond: Bond, why: str, remedy: str) -> InvalidValue:
    return InvalidValue("make the bond", bond.name, why, remedy)
