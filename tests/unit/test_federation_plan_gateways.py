"""Which gateways a node holds tunnels to, and which buckets each of them has."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from federation.desired import BUCKETS
from federation.plan.availability import gateways
from federation.plan.gateways import ORDINALS, buckets, choose, is_gateway, ordinals
from netspace.messages.federation import Layout
from tests.unit.federation_world import info, node

NAMES = st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1, max_size=14, unique=True)
CHOSEN = st.frozensets(st.integers(1, ORDINALS), min_size=1)


def never(_: str) -> bool:
    return False


@given(NAMES, st.integers(1, ORDINALS), st.data())
def test_a_gateway_that_goes_changes_nothing_but_its_own_place(
    names: list[str], count: int, data: st.DataObject
) -> None:
    before = choose("c0/n0", "c1", names, names, count, never)
    assert len(before) == min(count, len(names))
    gone = data.draw(st.sampled_from(names))
    left = [name for name in names if name != gone]
    after = choose("c0/n0", "c1", left, left, count, never)
    assert set(before) - {gone} <= set(after)
    assert len(set(after) - set(before)) <= (gone in before)


def test_nodes_spread_over_the_gateways() -> None:
    names = [f"gateway-{each}" for each in range(10)]
    held = Counter(
        name
        for each in range(1000)
        for name in choose(f"c0/node-{each}", "c1", names, names, 4, never)
    )
    assert all(330 <= held[name] <= 470 for name in names)


def test_only_available_gateways_are_chosen() -> None:
    assert set(choose("c0/n0", "c1", ["a", "b", "c"], ["b", "unknown", "c"], 4, never)) == {
        "b",
        "c",
    }


def test_where_none_is_said_to_be_available_the_probes_decide() -> None:
    assert set(choose("c0/n0", "c1", ["a", "b"], [], 4, never)) == {"a", "b"}


def test_the_tunnel_that_works_stays_until_one_of_the_new_ones_does() -> None:
    names = [f"g{each}" for each in range(6)]
    ranked = choose("c0/n0", "c1", names, names, 6, never)
    old = ranked[4]
    assert choose("c0/n0", "c1", names, names, 2, lambda name: name == old) == [*ranked[:2], old]
    both = {old, ranked[1]}
    assert choose("c0/n0", "c1", names, names, 2, lambda name: name in both) == ranked[:2]


@pytest.mark.parametrize(
    ("layout", "labelled", "other", "expected"),
    [
        ("distributed", False, {}, True),
        ("distributed", True, {"capabilities": ["vxlan"]}, False),
        ("distributed", True, {"addresses": []}, False),
        ("centralised", False, {}, False),
        ("centralised", True, {}, True),
        ("centralised", True, {"addresses": []}, False),
    ],
)
def test_gateways_are_all_nodes_or_the_labelled_ones_that_can_do_ipsec_and_have_an_address(
    layout: Layout, labelled: bool, other: dict[str, object], expected: bool
) -> None:
    one = node(1, 0, gateway=labelled, **other)
    assert is_gateway(layout, one) is expected
    assert gateways(info(1, [one], layout=layout)) == ([one.name] if expected else [])


@given(NAMES, st.data())
def test_ordinals_are_different_and_who_has_one_keeps_it(
    names: list[str], data: st.DataObject
) -> None:
    first = ordinals(names, {})
    assert sorted(set(first.values())) == sorted(first.values())
    assert all(1 <= ordinal <= ORDINALS for ordinal in first.values())
    kept = data.draw(st.lists(st.sampled_from(names), unique=True))
    come = [name for name in data.draw(NAMES) if name not in names]
    now = (kept + come)[:ORDINALS]
    second = ordinals(now, first)
    assert all(second[name] == first[name] for name in kept)
    assert len(set(second.values())) == len(now)


@given(NAMES)
def test_ordinals_do_not_depend_on_the_order_of_the_names(names: list[str]) -> None:
    assert ordinals(names, {}) == ordinals(names[::-1], {})


@given(NAMES, st.data())
def test_no_ordinal_is_given_that_the_name_has_elsewhere(
    names: list[str], data: st.DataObject
) -> None:
    most = ORDINALS - len(names)
    sets = st.sets(st.integers(1, ORDINALS), max_size=max(0, most))
    taken = {name: data.draw(sets) for name in names}
    before = data.draw(st.dictionaries(st.sampled_from(names), st.integers(1, ORDINALS)))
    found = ordinals(names, before, taken)
    assert len(set(found.values())) == len(names)
    assert all(found[name] not in taken[name] for name in names)
    assert ordinals(names, found, taken) == found
    assert ordinals(names, {}, {name: range(15) for name in names}) == ordinals(names, {})


def test_ordinals_that_cannot_be_are_given_anew() -> None:
    assert set(ordinals(["a", "b", "c"], {"a": 15, "b": 3, "c": 3}).values()) >= {3}
    assert len(set(ordinals(["a", "b", "c"], {"a": 15, "b": 3, "c": 3}).values())) == 3


@given(CHOSEN)
def test_every_gateway_has_an_even_share(chosen: frozenset[int]) -> None:
    shares = Counter(buckets(chosen, chosen))
    assert set(shares) == chosen
    assert sum(shares.values()) == BUCKETS
    assert max(shares.values()) - min(shares.values()) <= 1


@given(CHOSEN, st.data())
def test_only_the_buckets_of_what_fails_move(chosen: frozenset[int], data: st.DataObject) -> None:
    usable = data.draw(st.frozensets(st.sampled_from(sorted(chosen)), min_size=1))
    failed = data.draw(st.sampled_from(sorted(usable)))
    before, after = buckets(chosen, usable), buckets(chosen, usable - {failed})
    for one, other in zip(before, after, strict=True):
        assert one in (other, failed)


@given(CHOSEN, st.data())
def test_the_buckets_of_a_failed_gateway_are_spread_evenly_and_come_back(
    chosen: frozenset[int], data: st.DataObject
) -> None:
    assume(len(chosen) > 1)
    failed = data.draw(st.sampled_from(sorted(chosen)))
    whole, left = buckets(chosen, chosen), buckets(chosen, chosen - {failed})
    moved = Counter(other for one, other in zip(whole, left, strict=True) if one == failed)
    shares = [moved[ordinal] for ordinal in chosen - {failed}]
    assert max(shares) - min(shares) <= 1
    assert buckets(chosen, chosen) == whole


@given(st.frozensets(st.integers(1, ORDINALS), min_size=2, max_size=4), st.data())
def test_several_failed_gateways_leave_no_other_with_much_more_than_its_part(
    chosen: frozenset[int], data: st.DataObject
) -> None:
    usable = data.draw(st.frozensets(st.sampled_from(sorted(chosen)), min_size=1))
    shares = Counter(buckets(chosen, usable))
    assert set(shares) == usable
    assert max(shares.values()) - min(shares.values()) <= 6


@given(CHOSEN)
def test_without_a_usable_gateway_no_bucket_has_one(chosen: frozenset[int]) -> None:
    assert buckets(chosen, frozenset()) == (0,) * BUCKETS


@given(st.frozensets(st.integers(1, ORDINALS), min_size=2), st.data())
def test_a_gateway_less_leaves_most_buckets_of_the_others_where_they_are(
    chosen: frozenset[int], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(sorted(chosen)))
    left = chosen - {gone}
    stayed = [
        one == other
        for one, other in zip(buckets(chosen, chosen), buckets(left, left), strict=True)
        if one != gone
    ]
    assert sum(stayed) >= len(stayed) / 2
