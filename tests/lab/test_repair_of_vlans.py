"""A node heals its bond and its VLANs with the pods on them, within two seconds, and says so."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostnet import (
    Net,
    bond_state,
    delete_link,
    ensure_vlan,
    find_link,
    get_link,
    run_in,
    set_down,
    set_mtu,
)
from tests.node_fixtures import CLUSTER
from tests.nodes import IpamServer, Node, dual_stack, links
from tests.repairing import (
    Pod,
    add_pod,
    as_before,
    delete_pod,
    has_link,
    kept,
    reconciled,
)
from tests.wires import namespaces, wire

NETWORK = dual_stack(1, parent="bond0", vlan=910)


@pytest.fixture
def node(server: IpamServer, tmp_path: Path) -> Iterator[Node]:
    """A node with a bond of two cards, as it should be."""
    with namespaces(2) as (host, other):
        wire(host, "card1", other, "far1")
        wire(host, "card2", other, "far2")
        made = Node(host, tmp_path, CLUSTER, server.url)
        config = json.loads(made.config.read_text())
        bond = {"name": "bond0", "slaves": ["card1", "card2"], "primary": "card1", "mtu": 1500}
        made.config.write_text(json.dumps({**config, "bonds": [bond]}))
        assert reconciled(made).failures == []
        yield made


@pytest.fixture
def pods(node: Node) -> Iterator[list[Pod]]:
    with namespaces(2) as sandboxes:
        made = [add_pod(node, f"c{n}", netns) for n, netns in enumerate(sandboxes)]
        yield made
        for pod in made:
            delete_pod(node, pod)


def test_what_is_reconciled_is_not_touched_again(node: Node, pods: list[Pod]) -> None:
    reconciled(node)
    steps: list[str] = []
    report = reconciled(node, steps.append)
    assert (steps, report.changes, report.failures) == ([], [], [])


def test_a_port_removed_from_the_bond_is_taken_in_again(
    node: Node, pods: list[Pod], caplog: pytest.LogCaptureFixture
) -> None:
    def remove(net: Net) -> None:
        card = get_link(net, "card2").index
        net.change("take out", "card2", "link", "set", index=card, master=0)

    with kept(node) as keeper, caplog.at_level(logging.WARNING):
        run_in(node.netns, remove)
        keeper.heals(lambda: _cards(node) == ["card1", "card2"])
        keeper.heals(lambda: all(as_before(node, pod) for pod in pods))
        keeper.heals(lambda: "card2 was not in it" in _found(caplog))


def test_a_bond_option_changed_by_hand_is_set_again(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    def change(net: Net) -> None:
        bond = get_link(net, "bond0").index
        net.change("set", "bond0", "link", "set", index=bond, kind="bond", bond_miimon=900)

    with kept(node) as keeper, caplog.at_level(logging.WARNING):
        run_in(node.netns, change)
        keeper.heals(lambda: _miimon(node) == 100)
        keeper.heals(lambda: "miimon was 900" in _found(caplog))


def test_a_vlan_deleted_with_pods_on_it_is_made_again_with_every_pods_interface(
    node: Node, pods: list[Pod], caplog: pytest.LogCaptureFixture
) -> None:
    with kept(node) as keeper, caplog.at_level(logging.WARNING):
        run_in(node.netns, lambda net: delete_link(net, "bond0.910"))
        keeper.heals(lambda: all(as_before(node, pod) for pod in pods))
        keeper.heals(lambda: _found(caplog).count("it was missing") >= 1 + len(pods))


def test_a_bond_deleted_with_all_that_lies_on_it_is_made_again(node: Node, pods: list[Pod]) -> None:
    with kept(node) as keeper:
        run_in(node.netns, lambda net: delete_link(net, "bond0"))
        keeper.heals(lambda: all(as_before(node, pod) for pod in pods))
        assert _cards(node) == ["card1", "card2"]


@pytest.mark.parametrize("name", ["bond0.910", "bond0", "card1"])
def test_a_link_set_down_is_set_up(node: Node, pods: list[Pod], name: str) -> None:
    with kept(node) as keeper:
        run_in(node.netns, lambda net: set_down(net, get_link(net, name)))
        keeper.heals(lambda: run_in(node.netns, lambda net: get_link(net, name)).up)
        keeper.heals(lambda: all(as_before(node, pod) for pod in pods))


@pytest.mark.parametrize("name", ["bond0.910", "bond0"])
def test_an_mtu_changed_by_hand_comes_back_down_to_the_pods(
    node: Node, pods: list[Pod], name: str
) -> None:
    with kept(node) as keeper:
        run_in(node.netns, lambda net: set_mtu(net, get_link(net, name), 1300))
        keeper.heals(lambda: all(as_before(node, pod) for pod in pods))
        found = run_in(
            node.netns, lambda net: [get_link(net, n).mtu for n in ("bond0", "bond0.910")]
        )
        assert found == [1500, 1500]


def test_a_vlan_that_nobody_wants_any_more_goes_and_those_of_others_stay(node: Node) -> None:
    run_in(node.netns, lambda net: ensure_vlan(net, "bond0", 921))
    with kept(node) as keeper:
        keeper.know([])
        keeper.heals(lambda: not has_link(node.netns, "bond0.910"))
    assert links(node.netns) == ["bond0", "bond0.921", "card1", "card2"]


def test_a_vlan_with_pods_on_it_stays_when_its_network_is_gone(node: Node, pods: list[Pod]) -> None:
    with kept(node) as keeper:
        keeper.know([])
        assert keeper.look().changes == []
    assert all(as_before(node, pod) for pod in pods)


def test_a_vlan_of_an_add_is_ours(node: Node) -> None:
    run_in(node.netns, lambda net: delete_link(net, "bond0.910"))
    with namespaces(1) as (netns,):
        pod = add_pod(node, "c9", netns)
        delete_pod(node, pod)
    with kept(node) as keeper:
        keeper.know([])
        keeper.heals(lambda: not has_link(node.netns, "bond0.910"))


def _cards(node: Node) -> list[str]:
    def job(net: Net) -> list[str]:
        if find_link(net, "bond0") is None:
            return []
        return sorted(card.link.name for card in bond_state(net, "bond0").cards)

    return run_in(node.netns, job)


def _miimon(node: Node) -> int:
    return int(run_in(node.netns, lambda net: bond_state(net, "bond0")).options["miimon"])


def _found(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = (getattr(record, "found", "") for record in caplog.records)
    return [part for text in said for part in text.split(", ")]
