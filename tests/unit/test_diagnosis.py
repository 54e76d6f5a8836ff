"""What `netspace-agent diagnose` makes of bonds, links and certificates."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from cni_plugins.diagnosis import (
    bond_findings,
    certificate,
    kubernetes_findings,
    parent_findings,
)
from cni_plugins.kubernetes.rights import Answer
from cni_plugins.node_config import NodeConfig
from cni_plugins.node_state.desired import Parent
from hostnet import BondState, Card, Link
from netspace.tls import Tls
from tests.pki import NODE_1, Pki

CARDS = tuple(
    Card(Link(n, f"card{n}", "", "", 1500, True, True, master=9), True, n > 1, 0, "")
    for n in (1, 2)
)
STATE = BondState(
    Link(9, "bond0", "bond", "", 1500, True, True), "active-backup", "card1", None, CARDS, {}
)
PARENT = Parent("bond0", 910, 0, ("net",), 3)


def verdicts(state: BondState | None, *faults: str) -> list[str]:
    return [finding.verdict for finding in bond_findings("bond bond0", faults, state)]


def test_a_bond_with_all_its_cards_is_well() -> None:
    assert verdicts(STATE) == ["ok"]


def test_a_bond_that_is_not_redundant_is_a_warning_and_without_a_link_a_fault() -> None:
    lost = replace(CARDS[0], monitored_up=False)
    assert verdicts(replace(STATE, cards=(lost, CARDS[1]))) == ["warning"]
    assert verdicts(replace(STATE, cards=CARDS[:1])) == ["warning"]
    assert verdicts(replace(STATE, cards=(lost,))) == ["fault"]


def test_a_bond_that_differs_or_is_missing_is_a_fault() -> None:
    assert verdicts(STATE, "miimon was 900, not 100") == ["fault"]
    assert verdicts(None, "it was missing") == ["fault"]


def test_a_missing_master_is_a_fault_only_where_pods_need_it() -> None:
    assert [f.verdict for f in parent_findings(PARENT, {}, {})] == ["fault"]
    assert [f.verdict for f in parent_findings(replace(PARENT, pods=0), {}, {})] == ["warning"]


def test_a_vlan_that_is_down_is_told_as_it_is_now() -> None:
    vlan = Link(11, "bond0.910", "vlan", "", 1500, False, True, 9, vlan_id=910)
    (found,) = parent_findings(PARENT, {"bond0": STATE.link, "bond0.910": vlan}, {})
    assert (found.verdict, found.found) == (
        "fault",
        "bond0.910: it is down (networks net, 3 pods)",
    )


def test_a_certificate_is_checked_for_its_node_its_authority_and_its_end(tmp_path: Path) -> None:
    pki, other = Pki(tmp_path), Pki(tmp_path, "other")
    month = 30 * 86400
    mine = pki.make(NODE_1, end=month)
    config = NodeConfig(cluster="east", node="node-1")
    now = time.time()
    assert certificate(mine, config, now).verdict == "ok"
    stranger = certificate(mine, NodeConfig(cluster="east", node="node-2"), now)
    assert (stranger.verdict, "node-1" in stranger.found) == ("fault", True)
    assert certificate(Tls(other.ca, mine.cert, mine.key), config, now).verdict == "fault"
    assert certificate(mine, config, now + month - 86400).verdict == "warning"
    ended = certificate(pki.make(NODE_1, begin=-7200, end=-3600), config, now)
    assert (ended.verdict, "expired" in ended.found) == ("fault", True)


def test_an_api_without_the_right_to_read_pods_is_a_fault_and_without_events_a_warning() -> None:
    def found(*lacks: str, reached: bool = True) -> list[str]:
        return [each.verdict for each in kubernetes_findings(Answer("x", lacks, reached))]

    assert found() == ["ok"]
    assert found("get pods: why", "create events: why") == ["fault", "warning"]
    assert found(reached=False) == ["fault"]
