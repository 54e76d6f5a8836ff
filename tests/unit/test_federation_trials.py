"""Trials: what the leader keeps of them, what a node makes of what it is asked."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

import pytest

from federation.desired import Path
from federation.node import trying
from federation.node.benching import benched
from federation.node.knowing import Known
from federation.node.reporting import PathHealth
from federation.node.trying import AT_ONCE, Trying, chosen
from federation.server.state import FederationRecord
from federation.server.trials import KEPT, Trials, sorted_pods
from federation.server.words import Words
from netspace.messages.federating import Local
from netspace.messages.federation import FederatedNode, NodeWord
from netspace.messages.federation_trials import (
    MOST_NODES,
    MemberTrial,
    NewTrial,
    NodeTrial,
    Order,
    PodTarget,
    longest,
)
from netspace.problems import Problem
from tests.unit import federation_world as made

ONE = "0" * 32


def trials(nodes: int = 2) -> Trials:
    """Those of cluster c0 with peer c1, whose nodes n0, n1 … speak."""
    view = made.joined([made.peer(made.info(1))])
    state = SimpleNamespace(
        federations={"f": FederationRecord(Local(), view.federation)},
        peers={("f", "c1"): made.info(1)},
        own={"f": made.info(0)},
    )
    words = Words((), 0.0)
    for number in range(nodes):
        words.say(NodeWord(node=FederatedNode(name=f"n{number}", addresses=[])), 0.0)
    place: Any = SimpleNamespace(cluster="c0", state=state)
    identity: Any = None
    return Trials(place, identity, words)


def one_way(**other: Any) -> NewTrial:
    return NewTrial(**{"cluster": "c1", "both": False, **other})


def test_nodes_are_told_until_they_have_answered() -> None:
    kept = trials()
    begun = kept.begin("f", one_way(), 0.0)
    for _ in range(2):
        [order] = kept.orders("n0", 1.0)
    assert (order.id, order.within) == (begun.id, longest("verify", 2.0) - 1)
    assert kept.orders("another", 1.0) == []
    kept.tell("n0", begun.id, NodeTrial(node="n0"), 2.0)
    assert kept.orders("n0", 2.0) == []
    assert kept.report("f", begun.id, "", 2.0).there.awaited == 1
    kept.tell("n1", begun.id, NodeTrial(node="n1"), 3.0)
    assert kept.report("f", begun.id, "", 3.0).done


def test_a_node_that_does_not_answer_is_named_at_the_end() -> None:
    kept = trials()
    begun = kept.begin("f", one_way(), 0.0)
    kept.tell("n1", begun.id, NodeTrial(node="n1"), 1.0)
    over = longest("verify", 2.0)
    report = kept.report("f", begun.id, "", over)
    assert report.done and report.there.awaited == 0
    assert ["has not answered" in node.why for node in report.there.nodes] == [False, True]
    with pytest.raises(Problem, match="takes part in"):
        kept.tell("n0", begun.id, NodeTrial(node="n0"), over)


def test_without_nodes_it_is_over_at_once() -> None:
    report = trials(nodes=0).begin("f", one_way(), 0.0)
    assert report.done and "no node of cluster c0 speaks" in report.there.why


def test_of_many_nodes_some_take_part_and_share_the_rate() -> None:
    kept = trials(nodes=20)
    report = kept.begin("f", one_way(what="bench", rate=80_000_000), 0.0)
    assert report.there.awaited == MOST_NODES["bench"] == 8
    assert report.there.left_out == 12
    [order] = kept.orders("n0", 0.0)
    assert order.rate == 10_000_000


def test_a_member_rests_for_as_long_as_its_last_trial_took() -> None:
    kept = trials(nodes=1)
    asked = one_way(asker="c1")
    begun = kept.begin("f", asked, 0.0)
    kept.tell("n0", begun.id, NodeTrial(node="n0"), 4.0)
    assert kept.report("f", begun.id, "c1", 4.0).done
    with pytest.raises(Problem) as caught:
        kept.begin("f", asked, 7.9)
    assert caught.value.code == "busy"
    kept.begin("f", one_way(), 7.9)  # the own people are not in its way
    assert kept.begin("f", asked, 8.0).id != begun.id


def test_a_trial_is_for_whom_it_was_asked_by() -> None:
    kept = trials()
    begun = kept.begin("f", one_way(asker="c1"), 0.0)
    for federation, trial, asker in (("f", begun.id, ""), ("g", begun.id, "c1"), ("f", ONE, "c1")):
        with pytest.raises(Problem, match="there is no trial"):
            kept.report(federation, trial, asker, 1.0)


def test_what_is_over_is_forgotten_after_a_while() -> None:
    kept = trials(nodes=0)
    begun = kept.begin("f", one_way(), 0.0)
    kept.begin("f", one_way(asker="c1"), KEPT + 1)
    with pytest.raises(Problem):
        kept.report("f", begun.id, "", KEPT + 1)


def test_pods_are_sorted_by_whose_they_are() -> None:
    theirs, ours = [ip_network("10.2.0.0/16")], [ip_network("fd00:1::/64")]
    pods = [PodTarget(address="10.2.0.1"), PodTarget(address="fd00:1::1", port=80)]
    assert sorted_pods(pods, theirs, ours) == (pods[:1], pods[1:])
    with pytest.raises(Problem, match="no federated range"):
        sorted_pods([PodTarget(address="192.0.2.1")], theirs, ours)


def order(number: int = 0, **other: Any) -> Order:
    given = {"id": f"{number:032x}", "federation": "f", "cluster": "c1", "what": "verify"}
    return Order(**{**given, "within": 5.0, **other})


def test_paths_that_are_not_up_are_tried_first_and_nodes_begin_with_different_ones() -> None:
    paths = {Path("f", "c1", f"n{number}"): PathHealth("up") for number in range(50)}
    paths[Path("f", "c1", "bad")] = PathHealth("down")
    paths[Path("f", "c2", "other")] = PathHealth("down")
    firsts = set()
    for number in range(20):
        first, second, *_ = found = chosen(paths, f"node-{number}", order())
        assert first.node == "bad" and len(found) == 51
        firsts.add(second.node)
    assert len(firsts) > 10


class Told:
    """What a node has told its server."""

    def __init__(self) -> None:
        self.found: list[tuple[str, NodeTrial]] = []

    async def tell(self, trial: str, found: NodeTrial) -> None:
        self.found.append((trial, found))


def test_a_node_without_a_path_says_so_and_does_each_trial_once() -> None:
    async def main() -> list[tuple[str, NodeTrial]]:
        told = Told()
        works = Trying("n0", Known, dict, told.tell)
        for _ in range(3):
            works.take([order()])
        while not told.found:
            await asyncio.sleep(0)
        works.take([order()])
        await asyncio.sleep(0.01)
        return told.found

    [(trial, found)] = asyncio.run(main())
    assert trial == ONE and "it has no path to cluster c1" in found.why


def test_trials_of_a_node_are_bounded_in_number_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    running = []

    async def hangs(self: Trying, order: Order) -> NodeTrial:
        running.append(order.id)
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr(trying.Trying, "_tried", hangs)

    async def main() -> list[tuple[str, NodeTrial]]:
        told = Told()
        works = Trying("n0", Known, dict, told.tell)
        many = [order(number, within=0.05) for number in range(AT_ONCE + 3)]
        works.take(many)
        await asyncio.sleep(0)
        assert len(running) == AT_ONCE
        while len(told.found) < AT_ONCE:
            await asyncio.sleep(0.01)
        async with asyncio.timeout(10):
            # Those that had to wait have their turn, once the others have told and ended.
            while len(running) < len(many):
                works.take(many)
                await asyncio.sleep(0.01)
        works.close()
        return told.found

    assert {found.why for _, found in asyncio.run(main())} == {"there was not enough time"}


def test_a_benchs_figures_are_bits_of_whole_packets() -> None:
    found = benched("far", 0.002, 1250, 2000, 1900, 2.0)
    assert (found.asked, found.got, found.loss) == (10e6, 9.5e6, 0.05)
    assert benched("far", 0.002, 1250, 0, 0, 0.0).loss == 0.0


def test_what_a_member_may_ask_names_no_cluster() -> None:
    assert "cluster" not in MemberTrial.__struct_fields__
