"""Bonds of two network cards: made, adopted, refused, undone, and their state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Address, ip_interface
from itertools import count

import pytest

from hostnet import (
    BondOptionFixed,
    CardHasAddresses,
    CardMissing,
    CardTaken,
    Link,
    Net,
    NotABond,
    add_address,
    bond_state,
    ensure_bond,
    get_link,
    run_in,
    set_down,
    set_mtu,
    set_up,
)
from tests.bonded import BOND, Place, wait_for_active
from tests.wires import InjectedError, fail_after


@pytest.fixture
def place() -> Iterator[Place]:
    with ExitStack() as opened:
        yield Place(opened)


def test_a_bond_is_made_with_its_cards_and_everything_is_up(place: Place) -> None:
    state = place.ensure(
        replace(
            BOND,
            updelay=200,
            num_peer_notif=3,
            fail_over_mac="active",
            min_links=1,
            primary="card1",
            primary_reselect="better",
            mtu=1400,
        )
    )
    assert state.link.up
    assert (state.mode, state.primary, state.link.mtu) == ("active-backup", "card1", 1400)
    assert [(c.link.name, c.link.up, c.link.mtu) for c in state.cards] == [
        ("card0", True, 1400),
        ("card1", True, 1400),
    ]
    assert (
        state.options.items()
        >= {
            "miimon": 100,
            "updelay": 200,
            "num_peer_notif": 3,
            "fail_over_mac": "active",
            "min_links": 1,
            "primary_reselect": "better",
        }.items()
    )


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "802.3ad", "lacp_rate": "fast", "ad_select": "count", "ad_user_port_key": 5},
        {"mode": "balance-xor", "xmit_hash_policy": "layer3+4"},
        {"mode": "balance-rr", "packets_per_slave": 4, "resend_igmp": 2},
        {"mode": "balance-tlb", "tlb_dynamic_lb": 0, "lp_interval": 3},
        {"all_slaves_active": 1, "miimon": 50, "downdelay": 150},
        {
            "arp_interval": 400,
            "arp_ip_target": (IPv4Address("10.9.1.1"), IPv4Address("10.9.1.2")),
            "arp_validate": "all",
            "arp_all_targets": "all",
        },
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_the_kernel_has_the_options_that_were_asked_for(
    place: Place, options: dict[str, object]
) -> None:
    state = place.ensure(replace(BOND, **options))  # type: ignore[arg-type]
    assert state.options.items() >= options.items()


def test_a_bond_that_is_right_is_not_touched(place: Place) -> None:
    wanted = replace(BOND, primary="card0", mtu=1400)
    place.ensure(wanted)
    steps: list[str] = []
    run_in(place.node, lambda net: ensure_bond(net, wanted), steps.append)
    assert steps == []


def test_a_bond_that_exists_is_adopted_and_set_without_losing_its_cards(place: Place) -> None:
    index = place.ensure().link.index
    state = place.ensure(replace(BOND, miimon=50, num_peer_notif=5, primary="card1"))
    assert state.link.index == index
    assert (state.options["miimon"], state.options["num_peer_notif"]) == (50, 5)
    assert (state.primary, len(state.cards)) == ("card1", 2)


def test_an_empty_bond_of_another_mode_is_adopted_whole(place: Place) -> None:
    def job(net: Net) -> None:
        net.change("make", "bond0", "link", "add", kind="bond", ifname="bond0", bond_mode=0)
        set_up(net, get_link(net, "bond0"))

    run_in(place.node, job)
    state = place.ensure(replace(BOND, fail_over_mac="active"))
    assert (state.mode, state.link.up, len(state.cards)) == ("active-backup", True, 2)


def test_a_bond_in_use_keeps_its_mode_and_says_why(place: Place) -> None:
    before = place.ensure()
    with pytest.raises(BondOptionFixed, match=r"mode is active-backup, wanted is 802\.3ad"):
        place.ensure(replace(BOND, mode="802.3ad", num_peer_notif=7))
    after = run_in(place.node, lambda net: bond_state(net, "bond0"))
    assert after.options == before.options
    assert after.link.up


def test_a_card_that_joined_by_another_hand_stays(place: Place) -> None:
    place.ensure()
    state = place.ensure(replace(BOND, slaves=("card0",)))
    assert [card.link.name for card in state.cards] == ["card0", "card1"]


def test_a_link_of_the_name_that_is_no_bond_is_refused(place: Place) -> None:
    with pytest.raises(NotABond, match="card0: it is a veth"):
        place.ensure(replace(BOND, name="card0", slaves=("card1",)))


def test_a_card_that_is_missing_is_named_and_nothing_is_made(place: Place) -> None:
    with pytest.raises(CardMissing, match="card7"):
        place.ensure(replace(BOND, slaves=("card0", "card7")))
    assert "bond0" not in place.links()
    assert place.links()["card0"].up


def test_a_card_of_another_bond_is_refused(place: Place) -> None:
    place.ensure()
    with pytest.raises(CardTaken, match="card1: it belongs to bond0 already"):
        place.ensure(replace(BOND, name="bond1", slaves=("card1",)))
    assert "bond1" not in place.links()


def test_a_card_with_the_nodes_own_addresses_is_refused(place: Place) -> None:
    own = [ip_interface("192.0.2.7/24"), ip_interface("2001:db8::7/64")]

    def job(net: Net) -> None:
        for interface in own:
            add_address(net, get_link(net, "card1"), interface)

    run_in(place.node, job)
    with pytest.raises(CardHasAddresses, match=r"card1: it carries 192\.0\.2\.7/24, 2001:db8::7"):
        place.ensure()
    assert "bond0" not in place.links()
    assert (place.links()["card0"].up, place.links()["card0"].master) == (True, None)


def test_a_failure_after_any_step_gives_the_cards_back_as_they_were(place: Place) -> None:
    def prepare(net: Net) -> None:
        set_down(net, get_link(net, "card1"))
        set_mtu(net, get_link(net, "card1"), 1450)

    run_in(place.node, prepare)
    before = place.links()
    wanted = replace(BOND, primary="card1", mtu=1400)
    for passing in count():
        try:
            run_in(place.node, lambda net: ensure_bond(net, wanted), fail_after(passing))
        except InjectedError:
            after = place.links()
            assert {n: _kept(i) for n, i in after.items()} == {
                n: _kept(i) for n, i in before.items()
            }, f"after step {passing}"
        else:
            break
    assert passing >= 8


def test_a_failure_after_any_step_gives_an_adopted_bond_back_as_it_was(place: Place) -> None:
    before = place.ensure(replace(BOND, slaves=("card0",)))
    wanted = replace(BOND, miimon=50, num_peer_notif=5, primary="card1")
    for passing in count():
        try:
            run_in(place.node, lambda net: ensure_bond(net, wanted), fail_after(passing))
        except InjectedError:
            after = run_in(place.node, lambda net: bond_state(net, "bond0"))
            assert (after.options, after.primary) == (before.options, None)
            assert after.link.up
            assert [card.link.name for card in after.cards] == ["card0"]
            assert place.links()["card1"].up
        else:
            break
    assert passing >= 3


def _kept(link: Link) -> tuple[bool, int, str, int | None]:
    return link.up, link.mtu, link.mac, link.master


def test_the_state_shows_which_card_is_lost(place: Place) -> None:
    place.ensure(replace(BOND, miimon=20))
    run_in(place.switch, lambda net: set_down(net, get_link(net, "a0")))
    state = wait_for_active(place, "card1")
    assert {c.link.name: (c.monitored_up, c.backup, c.failures) for c in state.cards} == {
        "card0": (False, True, 1),
        "card1": (True, False, 0),
    }
