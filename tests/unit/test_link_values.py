"""Names, hardware addresses and MTUs that are refused before the kernel sees them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostnet import (
    InvalidMac,
    InvalidMtu,
    InvalidName,
    Link,
    check_mac,
    check_mtu,
    check_name,
    temporary_name,
    vlan_name,
)

PARENT = Link(2, "eth0", "", "02:00:00:00:00:01", 1500, True, True)
names = st.text(st.characters(codec="utf-8", exclude_characters="/:% "), min_size=1, max_size=15)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "a\n", "a\0", "eth%d", "a" * 16, "é" * 8]
)
def test_a_wrong_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        check_name(name)


@pytest.mark.parametrize("name", ["eth0", "bond0.910", "a" * 15, "é" * 7, "..."])
def test_a_right_name_passes(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "mac",
    ["", "02:00:00:00:00", "02:00:00:00:00:0g", "00:00:00:00:00:00", "01:00:5e:00:00:01", "x" * 17],
)
def test_a_wrong_hardware_address_is_refused(mac: str) -> None:
    with pytest.raises(InvalidMac):
        check_mac(mac)


def test_a_hardware_address_is_written_one_way() -> None:
    assert check_mac("02-AB-00-00-00-0F") == "02:ab:00:00:00:0f"


@pytest.mark.parametrize("mtu", [-1, 1, 67, 1501])
def test_an_mtu_that_the_parent_cannot_carry_is_refused(mtu: int) -> None:
    with pytest.raises(InvalidMtu):
        check_mtu(mtu, PARENT)


def test_an_mtu_of_zero_is_the_parents() -> None:
    assert check_mtu(0, PARENT) == 1500
    assert check_mtu(68, PARENT) == 68


def test_a_vlans_name_is_the_parents_and_its_id() -> None:
    assert vlan_name("bond0", 910) == "bond0.910"


def test_two_long_parents_with_the_same_beginning_get_different_names() -> None:
    one, other = vlan_name("enp175s0f1np0", 4094), vlan_name("enp175s0f1np1", 4094)
    assert one != other
    assert one.startswith("enp175~")
    assert one.endswith(".4094")


@given(names.filter(lambda n: len(n.encode()) <= 15), st.integers(1, 4094))
def test_a_derived_name_always_fits(parent: str, vlan_id: int) -> None:
    name = vlan_name(parent, vlan_id)
    assert len(name.encode()) <= 15
    assert name.endswith(f".{vlan_id}")
    assert vlan_name(parent, vlan_id) == name


def test_the_temporary_name_follows_from_the_final_one() -> None:
    assert check_name(temporary_name("eth0")) == temporary_name("eth0")
    assert temporary_name("eth0") != temporary_name("eth1")
