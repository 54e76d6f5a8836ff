"""The soak's checker: what is fine passes, and every rule that is broken is caught and named."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soak.__main__ import explained
from soak.checker import check
from soak.history import Answer, History, load
from soak.verdicts import SORTS, Verdict, summary
from tests.unit.soak_histories import Model, Place, Scene, answer, lying

TEN = Place("red", 10, 100)
LATER = Place("red", 10, 101)
ELEVEN = Place("red", 11, 102)
FLEX = Place("grey", 5, 100, "flex")
KEPT = Place("grey", 30, 100, "kept")
OTHER = Place("grey", 31, 110, "kept")


def verdicts(history: History) -> list[Verdict]:
    return check(history.operations, history.looks)


def rules(history: History) -> set[str]:
    return {verdict.rule for verdict in verdicts(history)}


# What is fine


@settings(max_examples=300)
@given(st.integers(0, 2**32), st.integers(5, 100))
def test_what_a_correct_server_does_passes(seed: int, steps: int) -> None:
    assert verdicts(Model(Random(seed)).run(steps)) == []


def test_a_slot_given_again_after_its_release_was_asked_for_passes() -> None:
    scene = Scene()
    scene.gives("a", TEN)
    scene.does("release", "a", outcome="unknown")
    scene.gives("b", LATER)
    scene.sees(("b", LATER))
    assert rules(scene) == set()


def test_a_request_whose_answer_was_lost_may_be_carried_out_at_any_time_later() -> None:
    scene = Scene()
    scene.does("allocate", "a", outcome="unknown")
    scene.sees()
    scene.sees(("a", TEN))
    scene.frees("a")
    scene.sees(last=True)
    assert rules(scene) == set()


def test_an_answer_on_its_way_while_the_claim_is_released_passes() -> None:
    scene = Scene()
    asked = scene.asks("allocate", "a")
    scene.frees("a")
    scene.end(asked, "ok", answer(TEN))
    scene.sees(last=True)
    assert rules(scene) == set()


def test_a_slot_may_move_to_a_new_sandbox_whose_node_saw_the_old_one_gone() -> None:
    scene = Scene()
    scene.gives("a", TEN, pod="web")
    scene.gives("b", LATER, pod="web", removed=("a",))
    scene.sees(("b", LATER))
    scene.frees("a", released=False)
    assert rules(scene) == set()


def test_the_cool_down_binds_nobody_whose_name_the_address_has() -> None:
    place = Place("blue", 5120, 100)
    scene = Scene()
    scene.gives("a", place, pool="rest", namespace="blue", pod="web")
    scene.frees("a")
    scene.gives("b", Place("blue", 5120, 103), pool="rest", namespace="blue", pod="web")
    assert rules(scene) == set()


def test_after_the_cool_down_another_may_have_the_address() -> None:
    scene = Scene()
    scene.gives("a", Place("blue", 5120, 100), pool="rest", namespace="blue")
    scene.frees("a")
    scene.wait(2)
    scene.gives("b", Place("blue", 5120, 103), pool="rest", namespace="blue")
    assert rules(scene) == set()


def test_the_cool_down_begins_with_the_release_under_a_younger_claim_whose_answer_was_lost() -> (
    None
):
    scene = Scene()
    scene.gives("a", Place("blue", 5120, 100), pool="rest", namespace="blue")
    scene.does("allocate", "a", "2", outcome="unknown", pool="rest", namespace="blue")
    scene.frees("a", "2")
    scene.wait(2)
    scene.frees("a", released=False)
    scene.gives("b", Place("blue", 5120, 103), pool="rest", namespace="blue")
    assert rules(scene) == set()


def test_a_repeat_says_what_was_given_before_the_names_own_address_was_free() -> None:
    scene = Scene()
    scene.gives("a", KEPT, pool="kept", pod="web")
    scene.gives("b", OTHER, pool="kept", pod="web")
    scene.frees("a")
    told = answer(OTHER, "repeated")
    scene.does("allocate", "b", told=told, pool="kept", pod="web")
    assert rules(scene) == set()


def test_a_pool_may_give_back_what_has_rested() -> None:
    scene = Scene()
    scene.gives("a", FLEX, pool="flex")
    scene.lays(lying("flex", (1, 8)), held=(("a", FLEX),))
    scene.frees("a")
    scene.wait(1)
    scene.lays(lying("flex", (1, 4)))
    assert rules(scene) == set()


def test_a_nested_pool_may_take_what_nobody_uses_of_its_parent() -> None:
    scene = Scene()
    scene.lays(lying("flex", (1, 12)), lying("inner", (1, 2), (9, 12)))
    assert rules(scene) == set()


def test_a_name_comes_back_to_its_own_address() -> None:
    scene = Scene()
    scene.gives("a", KEPT, pool="kept", pod="web")
    scene.frees("a")
    scene.gives("b", Place("grey", 30, 104, "kept"), pool="kept", pod="web")
    assert rules(scene) == set()


def test_a_name_gets_any_address_while_it_may_hold_its_own_still() -> None:
    scene = Scene()
    scene.gives("a", KEPT, pool="kept", pod="web")
    scene.does("release", "a", outcome="unknown")
    scene.gives("b", OTHER, pool="kept", pod="web")
    assert rules(scene) == set()


def lost_and_reported(*between: str, apart: float = 1.0) -> Scene:
    """A pod is lost; its node reports twice, and `between` names what another report has."""
    scene = Scene()
    scene.gives("a", TEN)
    scene.reports("n1")
    scene.wait(apart / 2)
    if between:
        scene.reports("n1", *between)
    scene.wait(apart / 2)
    scene.reports("n1")
    return scene


def test_what_a_node_missed_twice_may_be_reclaimed_and_given_again() -> None:
    scene = lost_and_reported()
    scene.reclaims(("a", TEN))
    scene.frees("a", released=False)
    scene.gives("b", LATER)
    scene.sees(("b", LATER))
    assert rules(scene) == set()


def test_a_report_whose_answer_was_lost_may_prove_something_at_any_time_later() -> None:
    scene = Scene()
    scene.gives("a", TEN)
    scene.reports("n1")
    scene.reports("n1", outcome="unknown")
    scene.wait(5)
    scene.reclaims(("a", TEN))
    assert rules(scene) == set()


def test_a_reservation_holds_its_address_until_it_is_ended() -> None:
    scene = Scene()
    place = Answer(network="red", slot="10", generation=100)
    scene.does("reserve", "", claim="", told=place, ifname="red/10")
    scene.sees(("", TEN), claim="", attachments=())
    scene.does("unreserve", "", claim="", ifname="red/10")
    scene.gives("a", LATER)
    assert rules(scene) == set()


# What is not


def one_generation_for_two() -> Scene:
    scene = Scene()
    scene.gives("a", TEN)
    scene.gives("b", TEN)
    return scene


def given_while_it_is_held() -> Scene:
    scene = Scene()
    scene.gives("a", TEN)
    scene.gives("b", LATER)
    return scene


def given_before_the_release_was_asked_for() -> Scene:
    scene = given_while_it_is_held()
    scene.frees("a")
    return scene


def given_while_held_by_one_whose_answer_was_lost() -> Scene:
    scene = Scene()
    scene.does("allocate", "a", outcome="unknown")
    scene.sees(("a", TEN))
    scene.gives("b", LATER)
    return scene


def freed_by_a_release_of_an_older_generation() -> Scene:
    scene = Scene()
    scene.gives("a", TEN)
    scene.frees("a")
    scene.gives("a", LATER, claim="2")
    scene.does("release", "a", "1", told=Answer(released=True), generation=100)
    scene.gives("b", Place("red", 10, 110))
    return scene


def generations_run_backwards() -> Scene:
    scene = Scene()
    scene.gives("b", LATER)
    scene.frees("b")
    scene.gives("a", TEN)
    scene.frees("a")
    return scene


def acknowledged_and_not_in_etcd() -> Scene:
    scene = Scene()
    scene.gives("a", TEN)
    scene.sees()
    return scene


def acknowledged_and_gone_in_a_later_look() -> Scene:
    scene = Scene()
    scene.gives("a", TEN)
    scene.sees(("a", TEN))
    scene.sees()
    scene.frees("a")
    return scene


def held_under_another_generation_than_was_answered() -> Scene:
    scene = Scene()
    scene.gives("a", TEN)
    scene.sees(("a", LATER))
    return scene


def repeated_with_another_slot() -> Scene:
    scene = Scene()
    scene.gives("a", TEN)
    scene.gives("a", ELEVEN)
    return scene


def repeated_with_another_generation() -> Scene:
    scene = Scene()
    scene.gives("a", TEN)
    scene.gives("a", LATER)
    return scene


def a_released_claim_gets_an_address() -> Scene:
    scene = Scene()
    scene.gives("a", TEN)
    scene.frees("a")
    scene.gives("a", LATER)
    return scene


def a_late_copy_holds_an_address_after_the_release() -> Scene:
    scene = Scene()
    scene.does("allocate", "a", outcome="unknown")
    scene.frees("a", released=False)
    scene.sees(("a", TEN))
    return scene


def an_admins_release_that_frees_nothing() -> Scene:
    scene = Scene()
    scene.gives("a", TEN)
    scene.does("operator", "a", told=Answer(released=True), generation=100)
    scene.sees(("a", TEN))
    return scene


def something_left_at_the_end() -> Scene:
    scene = Scene()
    scene.does("allocate", "a", outcome="unknown")
    scene.sees(("a", TEN), last=True)
    return scene


def an_attachment_left_at_the_end() -> Scene:
    scene = Scene()
    scene.sees(attachments=(("a", TEN),), last=True)
    return scene


def failed_and_done() -> Scene:
    scene = Scene()
    scene.does("allocate", "a", outcome="failed")
    scene.sees(("a", TEN))
    return scene


def never_asked_for() -> Scene:
    scene = Scene()
    scene.sees(("a", TEN))
    return scene


def a_slot_without_its_attachment() -> Scene:
    scene = Scene()
    scene.gives("a", TEN)
    scene.sees(("a", TEN), attachments=())
    return scene


def one_attachment_with_two_slots() -> Scene:
    scene = Scene()
    scene.does("allocate", "a", outcome="unknown")
    scene.sees(("a", TEN), ("a", ELEVEN), attachments=(("a", TEN),))
    return scene


def held_and_released_at_once() -> Scene:
    scene = Scene()
    scene.gives("a", TEN)
    scene.sees(("a", TEN), released=(("red", "10"),))
    return scene


def not_to_be_had_though_nobody_has_it() -> Scene:
    scene = Scene()
    scene.does("allocate", "a", outcome="refused", must=True)
    return scene


def from_outside_every_pool() -> Scene:
    scene = Scene()
    scene.does(
        "allocate", "a", told=answer(TEN, slot="200", ipv4="10.61.0.200", ipv6="fd00:61::c8")
    )
    return scene


def from_a_pool_nested_in_the_wanted_one() -> Scene:
    scene = Scene()
    scene.does("allocate", "a", told=answer(Place("red", 25, 100), pool="team"), pool="team")
    return scene


def stored_as_of_another_pool() -> Scene:
    scene = Scene()
    scene.does("allocate", "a", outcome="unknown")
    scene.sees(("a", Place("red", 13, 100)))
    return scene


def from_a_pool_closed_to_the_namespace() -> Scene:
    scene = Scene()
    scene.gives("a", TEN, namespace="green")
    return scene


def from_another_pool_than_was_named() -> Scene:
    scene = Scene()
    scene.gives("a", TEN, pool="team")
    return scene


def another_than_the_default_pool() -> Scene:
    scene = Scene()
    scene.gives("a", TEN, pool="")
    return scene


def another_address_than_the_fixed_one() -> Scene:
    scene = Scene()
    scene.gives("a", TEN, ip=("10.61.0.11",))
    return scene


def addresses_of_two_slots() -> Scene:
    scene = Scene()
    scene.does("allocate", "a", told=answer(TEN, ipv6="fd00:61::b"))
    return scene


def one_family_of_two() -> Scene:
    scene = Scene()
    scene.does("allocate", "a", told=answer(TEN, ipv6=None))
    return scene


def given_to_another_before_it_cooled_down() -> Scene:
    scene = Scene()
    scene.gives("a", Place("blue", 5120, 100), pool="rest", namespace="blue")
    scene.frees("a")
    scene.wait(1.8)
    scene.gives("b", Place("blue", 5120, 103), pool="rest", namespace="blue")
    return scene


def given_to_another_while_it_is_kept_for_a_name() -> Scene:
    scene = Scene()
    scene.gives("a", KEPT, pool="kept", pod="web")
    scene.frees("a")
    scene.wait(4)
    scene.gives("b", Place("grey", 30, 104, "kept"), pool="kept", pod="db")
    return scene


def a_name_that_gets_another_than_its_own() -> Scene:
    scene = Scene()
    scene.gives("a", KEPT, pool="kept", pod="web")
    scene.frees("a")
    scene.gives("b", OTHER, pool="kept", pod="web")
    return scene


def a_name_whose_own_is_said_not_to_be_there() -> Scene:
    scene = Scene()
    scene.gives("a", KEPT, pool="kept", pod="web")
    scene.frees("a")
    asked = scene.asks("allocate", "b", pool="kept", pod="web")
    scene.end(asked, "refused", code="pool-exhausted")
    return scene


def two_pools_with_one_address() -> Scene:
    scene = Scene()
    scene.lays(lying("flex", (1, 8)), lying("kept", (8, 12)))
    return scene


def nested_pools_beside_their_parent() -> Scene:
    scene = Scene()
    scene.lays(lying("flex", (1, 8)), lying("inner", (8, 9)))
    return scene


def above_its_maximum() -> Scene:
    scene = Scene()
    scene.lays(lying("flex", (1, 25)))
    return scene


def below_its_minimum() -> Scene:
    scene = Scene()
    scene.lays(lying("flex", (1, 3)))
    return scene


def fewer_than_the_replicas() -> Scene:
    scene = Scene()
    scene.lays(lying("crew", (1, 5), needs=6))
    return scene


def taken_from_a_pool_while_it_is_held() -> Scene:
    scene = Scene()
    scene.gives("a", FLEX, pool="flex")
    scene.lays(lying("flex", (1, 4)), held=(("a", FLEX),))
    return scene


def taken_from_a_pool_while_it_cools_down() -> Scene:
    scene = Scene()
    scene.gives("a", FLEX, pool="flex")
    scene.frees("a")
    scene.lays(lying("flex", (1, 4)))
    return scene


def taken_for_a_nested_pool_while_it_is_kept_for_a_name() -> Scene:
    scene = Scene()
    scene.gives("a", Place("grey", 5, 100, "yard"), pool="yard", pod="web")
    scene.frees("a")
    scene.wait(2)
    scene.lays(lying("yard", (1, 20)), lying("shed", (4, 8)))
    return scene


def reclaimed_while_a_report_has_it() -> Scene:
    scene = lost_and_reported("a")
    scene.reclaims(("a", TEN))
    return scene


def reclaimed_before_the_grace_period_was_over() -> Scene:
    scene = lost_and_reported(apart=0.5)
    scene.reclaims(("a", TEN))
    return scene


def reclaimed_by_reports_that_are_older_than_it() -> Scene:
    scene = Scene()
    scene.gives("a", TEN)
    scene.reports("n1", seen=99)
    scene.wait(2)
    scene.reports("n1", seen=99)
    scene.reclaims(("a", TEN))
    return scene


def gone_without_a_report() -> Scene:
    scene = lost_and_reported("a")
    scene.sees()
    return scene


def a_reclaimed_claim_that_comes_back() -> Scene:
    scene = lost_and_reported()
    scene.reclaims(("a", TEN))
    scene.gives("a", LATER)
    return scene


def a_late_release_that_frees_what_was_given_again() -> Scene:
    scene = lost_and_reported()
    scene.reclaims(("a", TEN))
    scene.gives("b", LATER)
    scene.frees("a")
    return scene


def a_reserved_address_given_to_a_pod() -> Scene:
    scene = Scene()
    place = Answer(network="red", slot="10", generation=100)
    scene.does("reserve", "", claim="", told=place, ifname="red/10")
    scene.gives("a", LATER)
    return scene


def the_servers_own_audit_finds_something() -> Scene:
    scene = Scene()
    scene.sees().findings = ("attachment-dangling: an attachment names no slot",)
    return scene


BROKEN = {
    one_generation_for_two: "two-holders",
    given_while_it_is_held: "held-while-given",
    given_before_the_release_was_asked_for: "held-while-given",
    given_while_held_by_one_whose_answer_was_lost: "held-while-given",
    freed_by_a_release_of_an_older_generation: "held-while-given",
    generations_run_backwards: "order",
    acknowledged_and_not_in_etcd: "missing",
    acknowledged_and_gone_in_a_later_look: "missing",
    held_under_another_generation_than_was_answered: "missing",
    repeated_with_another_slot: "other-answer",
    repeated_with_another_generation: "other-answer",
    a_released_claim_gets_an_address: "came-back",
    a_late_copy_holds_an_address_after_the_release: "came-back",
    an_admins_release_that_frees_nothing: "came-back",
    something_left_at_the_end: "left",
    an_attachment_left_at_the_end: "left",
    failed_and_done: "refused-but-done",
    never_asked_for: "refused-but-done",
    a_slot_without_its_attachment: "torn",
    one_attachment_with_two_slots: "torn",
    held_and_released_at_once: "torn",
    not_to_be_had_though_nobody_has_it: "not-given",
    from_outside_every_pool: "outside",
    from_a_pool_nested_in_the_wanted_one: "outside",
    stored_as_of_another_pool: "outside",
    from_a_pool_closed_to_the_namespace: "forbidden",
    from_another_pool_than_was_named: "other-pool",
    another_than_the_default_pool: "other-pool",
    another_address_than_the_fixed_one: "other-address",
    addresses_of_two_slots: "families",
    one_family_of_two: "families",
    given_to_another_before_it_cooled_down: "cooling",
    given_to_another_while_it_is_kept_for_a_name: "retained",
    a_name_that_gets_another_than_its_own: "not-returned",
    a_name_whose_own_is_said_not_to_be_there: "not-returned",
    two_pools_with_one_address: "overlap",
    nested_pools_beside_their_parent: "overlap",
    above_its_maximum: "bounds",
    below_its_minimum: "bounds",
    fewer_than_the_replicas: "bounds",
    taken_from_a_pool_while_it_is_held: "taken-away",
    taken_from_a_pool_while_it_cools_down: "taken-away",
    taken_for_a_nested_pool_while_it_is_kept_for_a_name: "taken-away",
    reclaimed_while_a_report_has_it: "reclaimed-alive",
    reclaimed_before_the_grace_period_was_over: "reclaimed-alive",
    reclaimed_by_reports_that_are_older_than_it: "reclaimed-alive",
    gone_without_a_report: "missing",
    a_reclaimed_claim_that_comes_back: "came-back",
    a_late_release_that_frees_what_was_given_again: "late-release",
    a_reserved_address_given_to_a_pod: "held-while-given",
    the_servers_own_audit_finds_something: "flawed",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_rule_is_caught_and_named(broken: object) -> None:
    assert callable(broken)
    assert BROKEN[broken] in rules(broken())


def test_every_rule_has_a_history_that_breaks_it() -> None:
    assert set(BROKEN.values()) == set(SORTS)


@settings(max_examples=100)
@given(st.integers(0, 2**32), st.data())
def test_an_acknowledged_address_that_vanishes_from_the_looks_is_missed(
    seed: int, data: st.DataObject
) -> None:
    scene = Model(Random(seed)).run(60)
    held = [
        (at, stored)
        for at, look in enumerate(scene.looks)
        for stored in look.slots
        if at > 0 and stored in scene.looks[at - 1].slots
    ]
    if not held:
        return
    at, stored = data.draw(st.sampled_from(held))
    look = scene.looks[at]
    asked = [
        each
        for each in scene.operations
        if stored.container in (each.container, *each.removed)
        and each.invoked < look.completed
        and (each.kind == "release" or each.claim != stored.claim or each.removed)
    ]
    look.slots = tuple(each for each in look.slots if each != stored)
    look.attachments = tuple(
        each for each in look.attachments if each.container != stored.container
    )
    if not asked:
        assert "missing" in rules(scene)


# What is printed and kept


def test_the_last_line_counts_operations_and_what_was_found() -> None:
    fine = Scene()
    fine.gives("a", TEN)
    assert summary(fine.operations, verdicts(fine)) == (
        "soak: 1 operations, 0 double, 0 lost, 0 leaked"
    )
    bad = given_while_it_is_held()
    bad.does("allocate", "c", told=answer(ELEVEN, ipv6=None))
    assert summary(bad.operations, verdicts(bad)) == (
        "soak: 3 operations, 1 double, 0 lost, 0 leaked, 1 wrong"
    )


def test_a_verdict_shows_the_operations_it_was_made_from() -> None:
    scene = given_while_it_is_held()
    [verdict] = verdicts(scene)
    first, *told = explained(verdict, scene.operations)
    assert first.startswith("double: held-while-given: red/10 at generation 101 by b/eth0")
    assert [line.split()[0] for line in told] == ["#0", "#1"]
    assert "allocate a/eth0 claim 1 red/- pool tiny -> ok red/10 generation 100 never" in told[0]


def test_a_history_kept_in_a_file_is_judged_the_same(tmp_path: Path) -> None:
    scene = given_while_it_is_held()
    scene.sees(("b", LATER))
    scene.fault("kill_server")
    scene.save(tmp_path / "kept" / "history.jsonl")
    assert verdicts(load(tmp_path / "kept" / "history.jsonl")) == verdicts(scene)
