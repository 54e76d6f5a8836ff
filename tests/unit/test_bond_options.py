"""What a bond may be, and which of its options may change when."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest

from hostnet import Bond, InvalidName, InvalidValue
from hostnet.bond_options import (
    OPTIONS,
    differences,
    fixed,
    from_netlink,
    to_netlink,
    wanted_options,
)

CARDS = ("eth0", "eth1")


def test_a_bond_that_says_nothing_is_active_backup_and_watches_its_cards() -> None:
    assert wanted_options(Bond("bond0", CARDS)) == {"mode": "active-backup", "miimon": 100}


def test_watching_by_arp_turns_the_other_watch_off() -> None:
    bond = Bond("bond0", CARDS, arp_interval=500, arp_ip_target=(IPv4Address("10.0.0.1"),))
    assert wanted_options(bond)["miimon"] == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"mode": "round-robin"}, "use balance-rr, active-backup"),
        ({"lacp_rate": "fast"}, "mode active-backup has no lacp_rate"),
        ({"mode": "802.3ad", "lacp_rate": "quick"}, "use slow, fast"),
        ({"xmit_hash_policy": "layer4"}, "use layer2"),
        ({"miimon": -1}, "negative"),
        ({"updelay": 250}, "no multiple of miimon 100"),
        ({"downdelay": 100, "miimon": 0}, "no multiple of miimon 0"),
        ({"primary": "eth2"}, "primary eth2 is not in slaves"),
        ({"mode": "802.3ad", "primary": "eth0"}, "mode 802.3ad has no primary"),
        ({"arp_interval": 500}, "arp_interval without arp_ip_target"),
        ({"arp_interval": 500, "miimon": 100}, "exclude each other"),
        (
            {
                "mode": "802.3ad",
                "arp_interval": 500,
                "arp_ip_target": (IPv4Address("10.0.0.1"),),
            },
            "cannot watch by ARP",
        ),
        ({"slaves": ()}, "it has no cards"),
        ({"slaves": ("eth0", "eth0")}, "named twice"),
        ({"slaves": ("bond0",)}, "named twice, or is the bond"),
    ],
)
def test_options_that_contradict_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidValue, match=says):
        wanted_options(Bond(**{"name": "bond0", "slaves": CARDS, **wrong}))


@pytest.mark.parametrize("name", ["", "bond 0", "bond/0", "bond%d", "b" * 16])
def test_a_name_that_the_kernel_would_not_take_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        wanted_options(Bond(name, CARDS))


def test_every_word_survives_the_way_to_the_kernel_and_back() -> None:
    for name, option in OPTIONS.items():
        for word in option.words:
            assert from_netlink(to_netlink({name: word}))[name] == word


def test_only_what_differs_is_to_be_changed() -> None:
    wanted = {"mode": "active-backup", "miimon": 100}
    assert differences(wanted, {"mode": "active-backup", "miimon": 0, "updelay": 5}) == {
        "miimon": 100
    }


@pytest.mark.parametrize(
    ("empty", "down", "refused"),
    [
        (False, False, ["mode", "lacp_rate"]),
        (True, False, ["mode", "lacp_rate"]),
        (False, True, ["mode"]),
        (True, True, []),
    ],
)
def test_what_a_bond_in_use_cannot_change(empty: bool, down: bool, refused: list[str]) -> None:
    changes = {"mode": "802.3ad", "miimon": 50, "lacp_rate": "fast"}
    assert fixed(changes, empty=empty, down=down) == refused
