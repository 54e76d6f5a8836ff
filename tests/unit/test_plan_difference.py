"""What apply does: steps that the server's rules take in their order, after which nothing is left
to do. Requests go through the wire's rules and the server's own, over a dict in place of etcd."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import event, given, settings
from hypothesis import strategies as st

from netspace.problems import Problem
from netspacectl.address_plan import difference_text, exported
from netspacectl.address_plan.declared import Declared
from netspacectl.address_plan.difference import Difference, difference
from netspacectl.address_plan.present import Present, slots_of, total_of
from tests.unit.plan_world import PlanWorld, plan

BLOCKS = 15
TEAMS = ("team-a", "team-b", "team-c")
OWNERS = (None, "a", "b", "c", "a/x", "a/y", "b/z")
KINDS = {"a": "netspace", "b": "netspace", "c": "default"}


def steps(found: Difference) -> list[str]:
    return [f"{step.action} {step.thing}" for step in found.steps]


def reasons(found: Difference) -> list[str]:
    return [f"{refusal.thing}: {refusal.reason}" for refusal in found.refused]


def network(pools: str = "", **fields: Any) -> str:
    """A plan of one network, its pools in YAML's flow style."""
    keys = {"vlan": 910, "ipv4": "10.9.0.0/24", "gateway4": "10.9.0.1"} | fields
    inner = json.dumps(keys)[1:-1]
    pools = "{" + pools + "}"
    return f"version: 1\nclusters: {{east: {{networks: {{blue: {{{inner}, pools: {pools}}}}}}}}}"


@pytest.fixture
def world() -> PlanWorld:
    return PlanWorld()


# Any plan after any other


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A plan of a /26, in blocks of four addresses that pools and nested pools have."""
    owners = draw(st.lists(st.sampled_from(OWNERS), min_size=BLOCKS, max_size=BLOCKS))
    blocks: dict[str, list[str]] = {}
    for at, owner in enumerate(owners, 1):
        if owner is not None:
            span = f"10.9.0.{4 * at}-10.9.0.{4 * at + 3}"
            blocks.setdefault(owner, []).append(span)
            if "/" in owner:
                blocks.setdefault(owner.partition("/")[0], []).append(span)
    pools: dict[str, Any] = {}
    for name in KINDS:
        if name in blocks:
            by_size = draw(st.booleans())
            pools[name] = {"kind": KINDS[name], **space(draw, blocks[name], by_size)}
            if name == "c":
                continue
            teams = draw(st.sets(st.sampled_from(TEAMS), min_size=1))
            pools[name]["namespaces"] = sorted(teams)
            pools[name]["pools"] = {
                inner.partition("/")[2]: {
                    **space(draw, blocks[inner], by_size or draw(st.booleans())),
                    "namespaces": sorted(draw(st.sets(st.sampled_from(sorted(teams))))),
                }
                for inner in blocks
                if inner.startswith(f"{name}/")
            }
    blue: dict[str, Any] = {"vlan": 910, "ipv4": "10.9.0.0/26", "pools": pools}
    blue |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "gateway4": st.sampled_from(["10.9.0.1", "10.9.0.2"]),
                "mtu": st.sampled_from([0, 9000]),
                "exclude": st.sampled_from([["10.9.0.3"], ["10.9.0.63", "10.9.0.8/31"]]),
            },
        )
    )
    networks: dict[str, Any] = {"blue": blue}
    if draw(st.booleans()):
        other = draw(st.sampled_from(["red", "green"]))  # on the same subnet: one gives way
        networks[other] = {"vlan": 920, "ipv4": "10.9.1.0/24", "pools": {other: {
            "kind": "application", "size": draw(st.integers(1, 250))}}}  # fmt: skip
    fabrics: dict[str, Any] = {"hall": {}} if draw(st.booleans()) else {}
    return {"version": 1, "fabrics": fabrics, "clusters": {"east": {"networks": networks}}}


def space(draw: st.DrawFn, spans: list[str], by_size: bool) -> dict[str, Any]:
    if by_size:
        return {"size": 4 * len(spans)}
    return {"ranges": spans, "cooldown": draw(st.sampled_from(["30s", 0, "1h"]))}


def check(present: Present, wanted: Declared) -> None:
    """What is there is what is declared, and nothing else."""
    for name, cluster in wanted.clusters.items():
        known = present.clusters[name]
        assert known.networks.keys() == cluster.networks.keys()
        assert set(known.pools) == {pool.new.name for pool in cluster.pools()}
        for network_name, declared in cluster.networks.items():
            there = known.networks[network_name]
            for field in ("vlan", "ipv4", "ipv6", "gateway4", "mtu", "exclude", "fabric"):
                assert getattr(there, field) == getattr(declared.new, field)
            for pool_name, pool in declared.pools.items():
                have = known.pools[pool_name]
                slots = slots_of(there).parse_ranges(have.ranges) & total_of(there)
                if pool.ranges is None:
                    assert slots.size == pool.size
                else:
                    assert slots == pool.ranges
                for field in ("kind", "network", "parent", "namespaces", "cooldown"):
                    assert getattr(have, field) == getattr(pool.new, field)


@settings(max_examples=70)
@given(st.lists(documents(), min_size=1, max_size=3))
def test_applied_one_after_the_other_each_plan_is_reached_and_then_nothing_is_left_to_do(
    contents: list[dict[str, Any]],
) -> None:
    world = PlanWorld()
    for content in contents:
        wanted = plan(json.dumps(content))
        found = world.apply(wanted, prune=True)
        if found.refused:
            event("refused")
            continue
        event("carried out")
        check(world.present(), wanted)
        again = difference(world.present(), wanted, prune=True)
        assert (steps(again), again.refused, again.kept) == ([], [], [])


@settings(max_examples=30)
@given(documents(), st.booleans())
def test_what_is_exported_can_be_applied_without_changing_anything_and_to_an_empty_server(
    content: dict[str, Any], prune: bool
) -> None:
    world, other = PlanWorld(), PlanWorld()
    world.apply(plan(json.dumps(content)))
    text = yaml.safe_dump(exported.document(world.present()), sort_keys=False)
    found = difference(world.present(), plan(text), prune=prune)
    assert (steps(found), found.refused, found.kept) == ([], [], [])
    assert other.apply(plan(text)).refused == []
    assert exported.document(other.present()) == exported.document(world.present())


@settings(max_examples=40)
@given(documents(), documents(), st.booleans(), st.data())
def test_what_kubernetes_looks_after_is_neither_changed_nor_exported(
    before: dict[str, Any], after: dict[str, Any], prune: bool, data: st.DataObject
) -> None:
    world = PlanWorld()
    world.apply(plan(json.dumps(before)))
    if "east" not in world.worlds or "blue" not in world.worlds["east"].state.networks:
        return
    east = world.worlds["east"].state
    inside = sorted(name for name, p in east.pools.items() if p.record.network == "blue")
    theirs = sorted(data.draw(st.sets(st.sampled_from(inside)))) if inside else []
    for name in theirs:
        world.hand_over("east", "pool", name)
    if data.draw(st.booleans()):
        world.hand_over("east", "network", "blue")

    def owned() -> list[Any]:
        found: list[Any] = [each.record for each in east.networks.values()]
        found += [each.record for each in east.pools.values()]
        return [record for record in found if record.owner is not None]

    # What is exported changes nothing, whoever looks after what.
    text = yaml.safe_dump(exported.document(world.present()), sort_keys=False)
    found = difference(world.present(), plan(text), prune=prune)
    assert (steps(found), found.refused, found.kept) == ([], [], [])
    alone = {f"pool east/{n}" for n in theirs} & set(exported.left_out(world.present()))
    assert {str(thing) for thing in found.others if thing.kind == "pool"} == alone
    # And no plan changes what is not people's.
    kept = owned()
    try:
        world.apply(plan(json.dumps(after)), prune=prune)
    except Problem as problem:
        assert problem.code != "owned", problem
    assert owned() == kept


def test_a_plan_that_would_change_what_kubernetes_looks_after_is_refused(world: PlanWorld) -> None:
    pools = "t: {kind: netspace, size: %s, namespaces: [%s]}"
    world.apply(plan(network(pools % (16, "a"))))
    world.hand_over("east", "pool", "t")
    assert world.apply(plan(network(pools % (16, "a")))).refused == []
    (reason,) = reasons(world.apply(plan(network(pools % (16, "a, b")))))
    assert reason == (
        "pool east/t: namespaces would change, but Kubernetes looks after it: change the object"
        " pools.ipam.netspace.io/t, or leave it out"
    )
    assert "its addresses would change" in reasons(world.apply(plan(network(pools % (8, "a")))))[0]
    left = world.apply(plan(network()), prune=True)
    assert (steps(left), left.refused) == ([], [])
    assert [text for _, text in difference_text.lines(left)] == [
        "= Kubernetes looks after it, left alone: pool east/t"
    ]
    gone = world.apply(plan("version: 1\nclusters: {east: {networks: {}}}"), prune=True)
    assert reasons(gone) == [
        "network east/blue: cannot delete: Kubernetes looks after pools in it: t"
    ]


# The steps one by one


def test_parents_come_before_children_and_certain_addresses_before_any(world: PlanWorld) -> None:
    found = world.apply(
        plan(
            network(
                "any: {kind: application, size: 8},"
                "t: {kind: netspace, size: 16, namespaces: [a], pools: {db: {size: 4}}},"
                "low: {kind: default, ranges: [10.9.0.2-10.9.0.9]}"
            )
        )
    )
    assert steps(found) == [
        "create cluster east",
        "create network east/blue",
        "create pool east/low",
        "create pool east/any",
        "create pool east/t",
        "create pool east/db",
    ]
    assert world.present().clusters["east"].pools["db"].namespaces == ["a"]


def test_space_is_given_back_before_it_is_taken(world: PlanWorld) -> None:
    pools = "p: {kind: application, ranges: [%s]}, q: {kind: application, ranges: [%s]}"
    world.apply(plan(network(pools % ("10.9.0.16/28", "10.9.0.32/28"))))
    found = world.apply(plan(network(pools % ("10.9.0.16/28, 10.9.0.32/29", "10.9.0.40/29"))))
    assert steps(found) == ["shrink pool east/q", "grow pool east/p"]


def test_a_pool_that_moves_wholly_has_its_new_place_before_it_leaves_the_old_one(
    world: PlanWorld,
) -> None:
    pools = "p: {kind: application, ranges: [%s]}, q: {kind: application, ranges: [%s]}"
    world.apply(plan(network(pools % ("10.9.0.16/28", "10.9.0.32/28"))))
    found = world.apply(plan(network(pools % ("10.9.0.32/28", "10.9.0.48/28"))))
    assert steps(found) == [
        "grow pool east/q",
        "shrink pool east/q",
        "grow pool east/p",
        "shrink pool east/p",
    ]


def test_a_pool_that_grows_by_itself_keeps_the_size_it_has(world: PlanWorld) -> None:
    pools = "p: {kind: application, size: %d, elastic: {minimum: 4, maximum: 64}}"
    world.apply(plan(network(pools % 8)))
    assert steps(world.apply(plan(network(pools % 16)))) == []
    fixed = "p: {kind: application, size: 16}"
    assert "grow pool east/p" in steps(world.apply(plan(network(fixed))))


def test_pools_that_would_change_places_are_refused(world: PlanWorld) -> None:
    pools = "p: {kind: application, ranges: [%s]}, q: {kind: application, ranges: [%s]}"
    world.apply(plan(network(pools % ("10.9.0.16/28", "10.9.0.32/28"))))
    found = world.apply(plan(network(pools % ("10.9.0.32/28", "10.9.0.16/28"))))
    assert sorted(reasons(found))[0].startswith("pool east/p: cannot shrink: it would have nothing")


def test_a_size_is_reached_wherever_the_pool_lies_and_counts_nested_pools(
    world: PlanWorld,
) -> None:
    pools = "t: {kind: netspace, size: %d, pools: {db: {size: 4}}}"
    world.apply(plan(network(pools % 16)))
    assert steps(world.apply(plan(network(pools % 16)))) == []
    assert steps(world.apply(plan(network(pools % 20)))) == ["grow pool east/t"]
    assert steps(world.apply(plan(network(pools % 6)))) == ["shrink pool east/t"]
    assert world.present().clusters["east"].pools["t"].size == "2"


def test_namespaces_are_widened_before_and_narrowed_after_those_of_nested_pools(
    world: PlanWorld,
) -> None:
    pools = "t: {kind: netspace, size: 16, namespaces: [%s], pools: {db: {size: 4}}}"
    world.apply(plan(network(pools % "a, b")))
    found = world.apply(plan(network(pools % "b, c")))
    assert [(str(step.thing), step.changed[0].after) for step in found.steps] == [
        ("pool east/t", ["a", "b", "c"]),
        ("pool east/db", ["b", "c"]),
        ("pool east/t", ["b", "c"]),
    ]


def test_a_default_pool_gives_way_to_another_in_the_same_plan(world: PlanWorld) -> None:
    world.apply(plan(network("old: {kind: default, size: 200}")))
    wanted = plan(network("new: {kind: default, size: 200}"))
    assert world.apply(wanted, prune=True).refused == []
    assert set(world.present().clusters["east"].pools) == {"new"}


def test_without_prune_what_is_not_declared_is_kept_and_told(world: PlanWorld) -> None:
    world.apply(plan(network("old: {kind: default, size: 200}")))
    found = world.apply(plan("version: 1\nclusters: {east: {}}"))
    assert (steps(found), [str(thing) for thing in found.kept]) == (
        [],
        ["network east/blue", "pool east/old"],
    )


def test_pruning_a_network_deletes_its_pools_from_the_inside_out(world: PlanWorld) -> None:
    world.apply(plan(network("t: {kind: netspace, size: 16, pools: {db: {size: 4}}}")))
    found = world.apply(plan("version: 1\nclusters: {east: {}}"), prune=True)
    assert steps(found) == ["delete pool east/db", "delete pool east/t", "delete network east/blue"]


def test_a_cluster_that_is_not_declared_is_left_alone_by_prune(world: PlanWorld) -> None:
    world.apply(plan(network("old: {kind: default, size: 200}")))
    found = world.apply(plan("version: 1\nclusters: {west: {}}"), prune=True)
    assert (steps(found), found.kept) == (["create cluster west"], [])


def test_addresses_excluded_after_they_were_carved_are_no_difference(world: PlanWorld) -> None:
    pools = "p: {kind: application, ranges: [10.9.0.16/28]}"
    world.apply(plan(network(pools)))
    excluding = plan(network(pools, exclude=["10.9.0.20-10.9.0.23"]))
    assert steps(world.apply(excluding)) == ["change network east/blue"]
    assert steps(world.apply(excluding)) == []


# What cannot be


@pytest.mark.parametrize(
    ("pools", "fields", "reason"),
    [
        ("", {"ipv4": "10.8.0.0/24", "gateway4": None}, "blue: ipv4 never changes: 10.9.0.0/24 ->"),
        ("", {"range": ["10.9.0.0/25"]}, "network east/blue: range never changes: none ->"),
        ("", {"fabric": "moon"}, "network east/blue: there is no fabric moon: declare it"),
        ("p: {kind: netspace, size: 8}", {}, "p: kind never changes: application -> netspace"),
        (
            "t: {kind: netspace, size: 9, pools: {p: {size: 8}}}",
            {},
            "p: parent never changes: none -> t",
        ),
        ("p: {kind: application, size: 300}", {}, "p: cannot grow: network blue has 245 free"),
        (
            "q: {kind: application, ranges: [10.9.0.2-10.9.0.3]}",
            {},
            "q: cannot create: 10.9.0.2-10.9.0.3 is in pool p",
        ),
        ("d: {kind: default, size: 2}", {}, None),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(
    world: PlanWorld, pools: str, fields: dict[str, Any], reason: str | None
) -> None:
    world.apply(plan(network("p: {kind: application, size: 8}")))
    found = difference(world.present(), plan(network(pools, **fields)))
    if reason is None:
        assert found.refused == []
    else:
        assert any(reason in refused for refused in reasons(found)), reasons(found)


def test_a_second_default_pool_is_refused_while_the_first_stays(world: PlanWorld) -> None:
    world.apply(plan(network("p: {kind: default, size: 8}")))
    found = difference(world.present(), plan(network("q: {kind: default, size: 8}")))
    assert reasons(found) == [
        "pool east/q: cannot create: pool p is the cluster's default pool, and stays"
    ]


def test_a_shrinking_pool_cannot_give_up_what_is_nested_in_it(world: PlanWorld) -> None:
    pools = "t: {kind: netspace, ranges: [10.9.0.16/28], pools: {db: {ranges: [10.9.0.24/29]}}}"
    world.apply(plan(network(pools)))
    found = difference(
        world.present(), plan(network("t: {kind: netspace, ranges: [10.9.0.16/29]}"))
    )
    assert reasons(found) == ["pool east/t: cannot shrink: 10.9.0.24-10.9.0.31 is in a nested pool"]


# How it reads


def test_a_difference_reads_like_one(world: PlanWorld) -> None:
    world.apply(plan(network("p: {kind: application, size: 8}, old: {kind: application, size: 8}")))
    wanted = network(
        "p: {kind: application, size: 12, cooldown: 5m}, new: {kind: netspace, size: 4,"
        " namespaces: [a, b]}",
        mtu=9000,
        exclude=["10.9.0.200-10.9.0.210"],
        gateway4=None,
    )
    found = difference(world.present(), plan(wanted), prune=True)
    assert [line for _, line in difference_text.lines(found)] == [
        "~ network east/blue",
        "    gateway4: 10.9.0.1 -> none",
        "    mtu: 0 -> 9000",
        "    exclude: + 10.9.0.200-10.9.0.210",
        "~ pool east/p",
        "    cooldown: 30s -> 5m",
        "- pool east/old: delete",
        "~ pool east/p: grow by 4 addresses",
        "+ pool east/new",
        "    4 addresses of network blue; kind netspace; namespaces a, b",
    ]
    assert difference_text.counted(found) == "1 to create, 3 to change, 1 to delete"
