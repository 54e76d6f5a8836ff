"""Which networks follow from what nodes report of their logical cards."""

from __future__ import annotations

from pathlib import Path

import pytest

from cni_plugins import node_config
from netspace.messages import Network, NewNetwork, Node
from netspace.problems import Problem
from netspacectl.adoption import adoption


def space(name: str = "vlan910", **changes: object) -> NewNetwork:
    values: dict[str, object] = {
        "name": name,
        "parent": "bond0",
        "vlan": 910,
        "ipv4": "10.91.0.0/24",
        "gateway4": "10.91.0.1",
    }
    return NewNetwork(**{**values, **changes})  # type: ignore[arg-type]


def node(name: str, *spaces: NewNetwork) -> Node:
    return Node(name=name, version="1", reported=True, links=[], used=0, networks=list(spaces))


def network(new: NewNetwork, **changes: object) -> Network:
    values: dict[str, object] = {
        field: getattr(new, field) for field in NewNetwork.__struct_fields__
    }
    numbers = {"total": "1", "carved": "0", "used": 0, "reserved": 0, "revision": 1, "uid": "u"}
    return Network(**{**values, **numbers, **changes})  # type: ignore[arg-type]


def test_what_all_nodes_report_alike_is_made_once() -> None:
    found = adoption([node("a", space()), node("b", space())], [], ())
    assert (found.make, found.there, found.disagreements) == ([space()], [], [])


def test_what_is_there_as_reported_stays() -> None:
    found = adoption([node("a", space())], [network(space(), mtu=9000)], ())
    assert (found.make, found.there, found.disagreements) == ([], ["vlan910"], [])


def test_where_nodes_disagree_nothing_is_made_and_both_are_named() -> None:
    found = adoption([node("a", space()), node("b", space(vlan=911))], [], ())
    assert found.make == []
    (wrong,) = found.disagreements
    assert wrong.why == "nodes disagree: a: vlan 910; b: vlan 911"


def test_a_network_that_is_otherwise_than_reported_is_not_changed_but_named() -> None:
    there = network(space(), vlan=7, gateway4="10.91.0.254")
    (wrong,) = adoption([node("a", space())], [there], ()).disagreements
    assert "vlan is 7, reported is 910" in wrong.why
    assert "gateway4 is 10.91.0.254, reported is 10.91.0.1" in wrong.why


def test_only_the_named_networks_are_looked_at_and_an_unknown_name_is_refused() -> None:
    other = space("vlan920", vlan=920, ipv4="10.92.0.0/24", gateway4=None)
    assert adoption([node("a", space(), other)], [], ["vlan920"]).make == [other]
    with pytest.raises(Problem, match="no node reports vlan930"):
        adoption([node("a", space())], [], ["vlan930"])


def test_the_address_space_stands_in_the_nodes_configuration() -> None:
    text = b"""
cluster: prod
node: node-1
links:
  - {name: vlan910, parent: bond0, vlan: 910, ipv4: 10.91.0.0/24, gateway4: 10.91.0.1}
"""
    assert node_config.parse(text, Path("node.yaml")).links == (space(),)


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ("{name: a}", "links[0]"),
        ("{name: a, ipv4: 10.0.0.5/24}", "links[0]"),
        ("{name: a, ipv4: 10.0.0.0/24, colour: red}", "links[0].colour"),
    ],
)
def test_address_space_that_cannot_be_is_refused_with_its_place(link: str, fault: str) -> None:
    text = f"cluster: prod\nnode: node-1\nlinks:\n  - {link}\n".encode()
    with pytest.raises(Problem) as caught:
        node_config.parse(text, Path("node.yaml"))
    assert any(fault in error for error in caught.value.errors), caught.value.errors


def test_a_name_that_stands_there_twice_is_refused() -> None:
    one = "{name: a, ipv4: 10.0.0.0/24}"
    text = f"cluster: prod\nnode: node-1\nlinks: [{one}, {one}]\n".encode()
    with pytest.raises(Problem, match=r"links\[1\].name"):
        node_config.parse(text, Path("node.yaml"))
