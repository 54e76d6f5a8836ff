"""Links, macvlan interfaces among them, in namespaces of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count

import pytest

from hostnet import (
    AddressInUse,
    InvalidMac,
    InvalidMtu,
    InvalidName,
    InvalidValue,
    Link,
    LinkMissing,
    Macvlan,
    NameTaken,
    Net,
    Netns,
    NetnsMissing,
    NotThatVlan,
    ParentMissing,
    add_macvlan,
    delete_link,
    delete_macvlan,
    ensure_vlan,
    find_link,
    get_link,
    list_links,
    rename_link,
    run_in,
    set_down,
    set_mtu,
    set_up,
    temporary_name,
)
from tests.wires import InjectedError, between, fail_after, namespaces, wire

PARENT = "bond0.910"
MAC = "02:00:00:00:00:05"


@pytest.fixture
def place() -> Iterator[tuple[Netns, Netns]]:
    """A host whose link has a dot in its name, wired to a switch, and an empty pod."""
    with namespaces(3) as (host, pod, switch):
        wire(host, PARENT, switch, "port0")
        yield host, pod


def make(place: tuple[Netns, Netns], wanted: Macvlan) -> Link:
    host, pod = place
    return between(host, pod, lambda home, there: add_macvlan(home, there, pod, wanted))


def names(netns: Netns) -> list[str]:
    return [link.name for link in run_in(netns, list_links)]


def test_a_link_is_found_by_name_and_by_index(place: tuple[Netns, Netns]) -> None:
    link = run_in(place[0], lambda net: get_link(net, PARENT))
    assert (link.name, link.kind, link.up, link.mtu) == (PARENT, "veth", True, 1500)
    assert run_in(place[0], lambda net: get_link(net, link.index)) == link
    assert run_in(place[0], lambda net: find_link(net, "bond0")) is None
    assert run_in(place[0], lambda net: find_link(net, 4711)) is None


def test_an_alternative_name_finds_nothing(place: tuple[Netns, Netns]) -> None:
    def job(net: Net) -> Link | None:
        index = get_link(net, PARENT).index
        net.change("name", "x", "link", "property_add", index=index, altname="other")
        return find_link(net, "other")

    assert run_in(place[0], job) is None


def test_a_link_is_deleted_any_number_of_times(place: tuple[Netns, Netns]) -> None:
    assert run_in(place[0], lambda net: delete_link(net, PARENT))
    assert not run_in(place[0], lambda net: delete_link(net, PARENT))


def test_a_link_takes_a_new_name_and_mtu_and_goes_down(place: tuple[Netns, Netns]) -> None:
    def job(net: Net) -> Link:
        link = get_link(net, PARENT)
        set_down(net, link)
        rename_link(net, link, "eth1")
        set_mtu(net, link, 1280)
        return get_link(net, "eth1")

    link = run_in(place[0], job)
    assert (link.mtu, link.up) == (1280, False)
    with pytest.raises(InvalidMtu):
        run_in(place[0], lambda net: set_mtu(net, link, -1))


def test_a_name_that_is_taken_stays_its_owners(place: tuple[Netns, Netns]) -> None:
    _, pod = place
    make(place, Macvlan("eth0", PARENT))
    make(place, Macvlan("eth1", PARENT))
    with pytest.raises(NameTaken, match="rename to eth0"):
        run_in(pod, lambda net: rename_link(net, get_link(net, "eth1"), "eth0"))
    assert names(pod) == ["lo", "eth0", "eth1"]


def test_a_macvlan_appears_in_the_pod_alone(place: tuple[Netns, Netns]) -> None:
    host, pod = place
    made = make(place, Macvlan("eth0", PARENT, mac=MAC))
    seen = run_in(pod, lambda net: get_link(net, "eth0"))
    assert seen == made
    assert (seen.kind, seen.macvlan_mode, seen.mac, seen.mtu) == ("macvlan", "bridge", MAC, 1500)
    assert seen.parent == run_in(host, lambda net: get_link(net, PARENT)).index
    assert seen.parent_netns is not None
    assert not seen.up
    assert names(host) == ["lo", PARENT]


@pytest.mark.parametrize("mode", ["bridge", "private", "vepa", "passthru"])
def test_a_macvlan_has_the_mode_it_was_given(place: tuple[Netns, Netns], mode: str) -> None:
    assert make(place, Macvlan("eth0", PARENT, mode=mode)).macvlan_mode == mode


def test_a_macvlan_carries_what_its_parent_carries_or_less(place: tuple[Netns, Netns]) -> None:
    host, pod = place
    run_in(host, lambda net: set_mtu(net, get_link(net, PARENT), 1400))
    assert make(place, Macvlan("eth0", PARENT)).mtu == 1400
    assert make(place, Macvlan("eth1", PARENT, mtu=1300)).mtu == 1300
    for mtu in (1401, -1, 67):
        with pytest.raises(InvalidMtu):
            make(place, Macvlan("eth2", PARENT, mtu=mtu))
    assert names(pod) == ["lo", "eth0", "eth1"]


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"mac": "01:00:5e:00:00:01"}, InvalidMac),
        ({"mac": "00:00:00:00:00:00"}, InvalidMac),
        ({"mode": "bridged"}, InvalidValue),
        ({"name": "eth%d"}, InvalidName),
        ({"parent": "bond7"}, ParentMissing),
    ],
)
def test_a_wrong_macvlan_is_refused_before_anything_is_made(
    place: tuple[Netns, Netns], wrong: dict[str, str], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        make(place, replace(Macvlan("eth0", PARENT), **wrong))  # type: ignore[arg-type]
    assert names(place[1]) == ["lo"]


def test_a_hardware_address_is_up_only_once_on_a_parent(place: tuple[Netns, Netns]) -> None:
    make(place, Macvlan("eth0", PARENT, mac=MAC))
    make(place, Macvlan("eth1", PARENT, mac=MAC))
    run_in(place[1], lambda net: set_up(net, get_link(net, "eth0")))
    with pytest.raises(AddressInUse):
        run_in(place[1], lambda net: set_up(net, get_link(net, "eth1")))


def test_a_name_taken_in_the_pod_is_refused_and_nothing_is_left(
    place: tuple[Netns, Netns],
) -> None:
    make(place, Macvlan("eth0", PARENT))
    with pytest.raises(NameTaken, match="the pod has a link eth0 already"):
        make(place, Macvlan("eth0", PARENT))
    assert names(place[1]) == ["lo", "eth0"]


def test_the_host_may_have_a_link_of_that_name(place: tuple[Netns, Netns]) -> None:
    make(place, Macvlan(PARENT, PARENT))
    assert names(place[1]) == ["lo", PARENT]


def test_a_failure_after_any_step_leaves_nothing_in_the_pod(place: tuple[Netns, Netns]) -> None:
    host, pod = place

    def job(home: Net, there: Net) -> Link:
        return add_macvlan(home, there, pod, Macvlan("eth0", PARENT, mac=MAC, mtu=1400))

    for passing in count():
        try:
            between(host, pod, job, fail_after(passing))
        except InjectedError:
            assert names(pod) == ["lo"]
        else:
            break
    assert passing == 1
    assert names(pod) == ["lo", "eth0"]


def test_what_a_killed_call_left_is_deleted(place: tuple[Netns, Netns]) -> None:
    pod = place[1]
    make(place, Macvlan(temporary_name("eth0"), PARENT))
    assert run_in(pod, lambda net: delete_macvlan(net, "eth0"))
    assert names(pod) == ["lo"]
    assert not run_in(pod, lambda net: delete_macvlan(net, "eth0"))


def test_the_parent_may_live_in_the_pod() -> None:
    with namespaces(2) as (pod, peer):
        wire(pod, "net0", peer, "port0")
        made = run_in(pod, lambda net: add_macvlan(net, net, pod, Macvlan("eth0", "net0")))
        assert (made.parent, made.parent_netns) == (
            run_in(pod, lambda net: get_link(net, "net0")).index,
            None,
        )


def test_a_macvlan_goes_with_its_parent_and_deleting_it_needs_none(
    place: tuple[Netns, Netns],
) -> None:
    host, pod = place
    make(place, Macvlan("eth0", PARENT))
    run_in(host, lambda net: delete_link(net, PARENT))
    assert not run_in(pod, lambda net: delete_macvlan(net, "eth0"))


def test_a_namespace_that_was_closed_takes_no_macvlan(place: tuple[Netns, Netns]) -> None:
    host, pod = place
    with namespaces(1) as (gone,):
        pass
    with pytest.raises(NetnsMissing):
        between(
            host,
            pod,
            lambda home, there: add_macvlan(home, there, gone, Macvlan("eth0", PARENT)),
        )


def test_untagged_is_the_parent_itself_and_up(place: tuple[Netns, Netns]) -> None:
    host, _ = place
    run_in(host, lambda net: set_down(net, get_link(net, PARENT)))
    for vlan_id in (0, None):
        link = run_in(host, partial(ensure_vlan, parent=PARENT, vlan_id=vlan_id))
        assert (link.name, link.up) == (PARENT, True)


@pytest.mark.parametrize(
    ("parent", "vlan_id", "kind"),
    [("bond7", 910, ParentMissing), (PARENT, 4095, InvalidValue), (PARENT, -1, InvalidValue)],
)
def test_a_wrong_vlan_is_refused(
    place: tuple[Netns, Netns], parent: str, vlan_id: int, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        run_in(place[0], lambda net: ensure_vlan(net, parent, vlan_id))


def test_a_vlans_name_on_another_kind_of_link_is_refused(place: tuple[Netns, Netns]) -> None:
    with namespaces(1) as (other,):
        wire(place[0], "bond0", other, "port1")
        with pytest.raises(NotThatVlan, match=r"bond0\.910 exists and is a veth"):
            run_in(place[0], lambda net: ensure_vlan(net, "bond0", 910))


def test_a_link_that_is_gone_cannot_be_set_up(place: tuple[Netns, Netns]) -> None:
    link = make(place, Macvlan("eth0", PARENT))
    run_in(place[1], lambda net: delete_link(net, "eth0"))
    with pytest.raises(LinkMissing):
        run_in(place[1], lambda net: set_up(net, link))
