"""What a pod's annotations and a conflist's keys choose, and what of them is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netspace.messages import Selection
from netspace.problems import Problem
from netspace.selection import PREFIX, from_annotations, select


@pytest.mark.parametrize(
    ("annotations", "selection"),
    [
        ({}, Selection()),
        ({"kubernetes.io/config.seen": "x", "other.ipam.com/netspace": "a"}, Selection()),
        ({"ipam.com/netspace": "tenant-a"}, Selection(netspace="tenant-a")),
        ({"ipam.com/application": "web.v1"}, Selection(application="web.v1")),
        ({"ipam.com/ip": "10.0.0.5"}, Selection(ip=("10.0.0.5",))),
        ({"ipam.com/ip": "10.0.0.5, FD00:0::5"}, Selection(ip=("10.0.0.5", "fd00::5"))),
        ({"ipam.com/families": "ipv6,ipv4"}, Selection(families=("ipv4", "ipv6"))),
        (
            {"ipam.com/netspace": "a", "ipam.com/ip": "fd00::5", "ipam.com/families": "ipv6"},
            Selection(netspace="a", ip=("fd00::5",), families=("ipv6",)),
        ),
    ],
)
def test_annotations_choose_pool_address_and_families(
    annotations: dict[str, str], selection: Selection
) -> None:
    assert from_annotations(annotations) == selection


def test_a_conflist_may_write_lists() -> None:
    wanted = Selection(ip=("10.0.0.5", "fd00::5"), families=("ipv4",))
    assert select({"ip": ["10.0.0.5", "fd00::5"], "families": ["ipv4"], "type": "x"}) == wanted


@pytest.mark.parametrize(
    ("annotations", "why"),
    [
        ({"ipam.com/netspaces": "a"}, "there is no such annotation"),
        ({"ipam.com/": "a"}, "there is no such annotation"),
        ({"ipam.com/" + "x" * 10_000: "a"}, "there is no such annotation"),
        ({"ipam.com/netspace": ""}, "no pool name"),
        ({"ipam.com/netspace": "a\n"}, "no pool name"),
        ({"ipam.com/netspace": "a/../b"}, "no pool name"),
        ({"ipam.com/netspace": "A"}, "no pool name"),
        ({"ipam.com/netspace": "a" * 64}, "no pool name"),
        ({"ipam.com/application": "a,b"}, "no pool name"),
        ({"ipam.com/netspace": "a", "ipam.com/application": "b"}, "both name a pool"),
        ({"ipam.com/ip": ""}, "not an IP address"),
        ({"ipam.com/ip": "10.0.0.5,"}, "not an IP address"),
        ({"ipam.com/ip": "10.0.0.0/24"}, "not an IP address"),
        ({"ipam.com/ip": "10.0.0.5,10.0.0.6"}, "two addresses of one family"),
        ({"ipam.com/ip": "10.0.0.5,fd00::5,fd00::6"}, "two addresses of one family"),
        ({"ipam.com/ip": "fe80::1%eth0"}, "not a plain IPv6"),
        ({"ipam.com/families": ""}, "is wrong"),
        ({"ipam.com/families": "ipv5"}, "is wrong"),
        ({"ipam.com/families": "ipv4,ipv4"}, "is wrong"),
        ({"ipam.com/families": "IPv4"}, "is wrong"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(annotations: dict[str, str], why: str) -> None:
    with pytest.raises(Problem, match=why) as caught:
        from_annotations(annotations)
    assert caught.value.code == "invalid"
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [5, True, {"a": "b"}, [1], [None], []])
@pytest.mark.parametrize("key", ["netspace", "application", "ip", "families"])
def test_a_value_of_the_wrong_type_is_refused(key: str, value: object) -> None:
    with pytest.raises(Problem) as caught:
        select({key: value})
    assert caught.value.code == "invalid"


@given(
    st.dictionaries(
        st.one_of(
            st.sampled_from(
                [PREFIX + key for key in ("netspace", "application", "ip", "families")]
            ),
            st.text().map(lambda text: PREFIX + text),
        ),
        st.one_of(st.text(), st.sampled_from(["10.0.0.5", "ipv4", "pool"])),
    )
)
def test_hostile_annotations_are_a_selection_or_a_problem(annotations: dict[str, str]) -> None:
    try:
        selection = from_annotations(annotations)
    except Problem as problem:
        assert problem.code == "invalid"
    else:
        assert None in (selection.netspace, selection.application)
        assert len(selection.ip) <= 2
