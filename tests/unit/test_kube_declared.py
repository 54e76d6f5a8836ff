"""From a custom resource to requests: what is declared, what differs, what cannot be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_controller import declared
from kube_controller.declared import WantedPool
from kube_controller.differences import (
    Grow,
    Shrink,
    Step,
    network_step,
    pool_steps,
    upsert_order,
)
from kube_controller.kinds import Custom, Metadata, Workload
from kube_controller.replicas import MOST, replicas_of
from netspace.messages import (
    ChangeNetwork,
    ChangePool,
    Elastic,
    Network,
    NewNetwork,
    NewPool,
    Pool,
    ResizePool,
)
from netspace.problems import Problem


def custom(name: str = "a", /, **spec: Any) -> Custom:
    return Custom(metadata=Metadata(name=name), spec=spec)


def wanted_network(**spec: Any) -> NewNetwork:
    return declared.network(custom("red", **{"ipv4": "10.1.0.0/24", **spec}))


def wanted_pool(kind: str = "netspace", **spec: Any) -> WantedPool:
    return declared.pool(custom("pool", kind=kind, network="red", **spec))


def network(**changed: Any) -> Network:
    new = msgspec.to_builtins(wanted_network())
    figures = {"revision": 5, "uid": "u", "total": "254", "carved": "0", "used": 0, "reserved": 0}
    defaults = {field: getattr(wanted_network(), field) for field in new} | {
        info.name: getattr(wanted_network(), info.name)
        for info in msgspec.structs.fields(NewNetwork)
    }
    return msgspec.convert({**defaults, **figures, **changed}, Network)


def pool(**changed: Any) -> Pool:
    fields: dict[str, Any] = {
        "name": "pool", "revision": 7, "kind": "netspace", "network": "red", "parent": None,
        "ranges": ["10.1.0.1-10.1.0.8"], "namespaces": [], "cooldown": 30, "retention": 0,
        "elastic": None, "replicas": None, "surplus": 0, "size": "8", "used": 0, "cooling": 0,
        "retained": 0, "free": "8", "never": "8", "owner": "kubernetes",
    }  # fmt: skip
    return msgspec.convert({**fields, **changed}, Pool)


def steps(wanted: WantedPool, found: Pool | None, replicas: int = 0, *outer: str) -> list[Step]:
    return pool_steps(wanted, found, network(), replicas, outer)


def refusal(work: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        work()
    return caught.value


# What is declared.


def test_a_spec_is_read_with_the_apis_words_and_defaults() -> None:
    new = wanted_network(vlan=910)
    assert (new.name, new.vlan, new.parent, new.owner) == ("red", 910, "bond0", "kubernetes")


def test_notations_are_those_of_the_server() -> None:
    new = wanted_network(
        ipv6="FD00:1::/64", gateway6="fd00:1:0::1", exclude=["10.1.0.9", "10.1.0.8", "10.1.0.10"]
    )
    assert (new.ipv6, new.gateway6) == ("fd00:1::/64", "fd00:1::1")
    assert new.exclude == ["10.1.0.8-10.1.0.10"]


def test_a_size_may_be_a_number_or_text() -> None:
    assert wanted_pool(size=64).new.size == wanted_pool(size="64").new.size == "64"


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"vlan": 5000}, "spec.vlan"),
        ({"ipv4": "10.1.0.5/24"}, "host bits"),
        ({"exclude": ["10.2.0.1"]}, "10.2.0.1"),
        ({"gateway4": "nobody"}, "nobody"),
        ({"colour": "red"}, "colour"),
        ({"owner": None, "name": "x"}, "spec.name"),
    ],
)
def test_what_cannot_be_read_is_named(spec: dict[str, Any], place: str) -> None:
    problem = refusal(lambda: wanted_network(**spec))
    assert problem.code == "invalid"
    assert place in str(problem)


def test_a_name_that_the_server_would_refuse_is_named() -> None:
    long = custom("x" * 64, ipv4="10.1.0.0/24")
    assert "metadata.name" in str(refusal(lambda: declared.network(long)))


def test_an_application_pool_without_any_size_follows_its_workloads() -> None:
    wanted = wanted_pool("application", surplus=2)
    assert wanted.follows
    assert wanted.surplus == 2
    assert not wanted_pool("application", size=4).follows


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"size": 4, "ranges": ["10.1.0.5"]},
        {"size": 4, "surplus": 1},
        {"size": True},
        {"kind": "application", "surplus": "many"},
    ],
)
def test_a_pool_says_its_size_once(spec: dict[str, Any]) -> None:
    assert refusal(lambda: wanted_pool(**spec)).code == "invalid"


# What differs.


def test_a_network_that_is_not_there_is_made() -> None:
    assert network_step(wanted_network(), None) == wanted_network()


def test_a_network_that_is_as_declared_needs_nothing() -> None:
    assert network_step(wanted_network(), network()) is None


def test_what_may_change_of_a_network_is_changed_in_one_request() -> None:
    step = network_step(wanted_network(mtu=1400, vlan=7), network())
    assert step == ChangeNetwork(revision=5, owner="kubernetes", mtu=1400, vlan=7)


def test_a_field_that_is_taken_away_becomes_nothing_again() -> None:
    step = network_step(wanted_network(), network(vlan=7, gateway4="10.1.0.1"))
    assert step == ChangeNetwork(revision=5, owner="kubernetes", vlan=None, gateway4=None)


@pytest.mark.parametrize("field", ["fabric", "ipv6", "range"])
def test_what_never_changes_is_refused(field: str) -> None:
    value: Any = {"fabric": "other", "ipv6": "fd00::/64", "range": ["10.1.0.0/25"]}[field]
    problem = refusal(lambda: network_step(wanted_network(**{field: value}), network()))
    assert f"spec.{field}: it never changes" in str(problem)


def test_what_is_not_kubernetes_is_not_touched() -> None:
    assert refusal(lambda: network_step(wanted_network(), network(owner=None))).code == "owned"
    assert refusal(lambda: steps(wanted_pool(size=8), pool(owner=None))).code == "owned"


def test_a_pool_that_is_as_declared_needs_nothing() -> None:
    assert steps(wanted_pool(size=8), pool()) == []


def test_a_pool_grows_and_shrinks_to_its_size() -> None:
    assert steps(wanted_pool(size=10), pool()) == [Grow(ResizePool(size="2", owner="kubernetes"))]
    assert steps(wanted_pool(size=5), pool()) == [Shrink(ResizePool(size="3", owner="kubernetes"))]


def test_an_address_that_became_the_gateways_is_made_up_for() -> None:
    found = pool_steps(wanted_pool(size=8), pool(), network(gateway4="10.1.0.1"), 0)
    assert found == [Grow(ResizePool(size="1", owner="kubernetes"))]


def test_ranges_come_before_others_go() -> None:
    found = steps(wanted_pool(ranges=["10.1.0.5-10.1.0.12"]), pool())
    assert found == [
        Grow(ResizePool(ranges=["10.1.0.9-10.1.0.12"], owner="kubernetes")),
        Shrink(ResizePool(ranges=["10.1.0.1-10.1.0.4"], owner="kubernetes")),
    ]


def test_a_subnet_among_the_ranges_is_what_of_it_a_pod_can_have() -> None:
    found = pool(ranges=["10.1.0.1-10.1.0.15"])
    assert steps(wanted_pool(ranges=["10.1.0.0/28"]), found) == []


def test_the_size_of_an_elastic_pool_is_its_own_affair() -> None:
    bounds = {"minimum": 2, "maximum": 50}
    found = pool(elastic=bounds, size="20", ranges=["10.1.0.1-10.1.0.20"])
    assert steps(wanted_pool(elastic=bounds), found) == []
    assert steps(wanted_pool(size=8, elastic=bounds), found) == []


def test_bounds_come_and_go() -> None:
    bounds = {"minimum": 2, "maximum": 50}
    (step,) = steps(wanted_pool(elastic=bounds, cooldown=5), pool())
    assert step == ChangePool(
        elastic=Elastic(minimum=2, maximum=50), cooldown=5, owner="kubernetes"
    )
    (step, _) = steps(wanted_pool(size=9), pool(elastic=bounds))
    assert step == ChangePool(elastic=None, owner="kubernetes")


def test_a_pool_that_follows_begins_with_what_it_needs() -> None:
    new, change = steps(wanted_pool("application", surplus=1), None, 3)
    assert isinstance(new, NewPool)
    assert new.size == "4"
    assert change == ChangePool(replicas=3, surplus=1, owner="kubernetes")


def test_a_pool_that_follows_nobody_yet_has_one_address() -> None:
    new, _ = steps(wanted_pool("application"), None, 0)
    assert isinstance(new, NewPool)
    assert new.size == "1"


def test_a_pool_follows_until_it_has_a_size() -> None:
    found = pool(kind="application", replicas=3)
    assert steps(wanted_pool("application"), found, 5) == [
        ChangePool(replicas=5, surplus=0, owner="kubernetes")
    ]
    assert steps(wanted_pool("application"), found, 3) == []
    (step,) = steps(wanted_pool("application", size=8), found, 5)
    assert step == ChangePool(replicas=None, owner="kubernetes")


def test_a_nested_pool_without_namespaces_has_those_of_the_outer_one() -> None:
    wanted = wanted_pool("application", parent="outer", size=8)
    found = pool(kind="application", parent="outer", namespaces=["a", "b"])
    assert steps(wanted, found, 0, "b", "a") == []
    assert steps(wanted, found, 0, "b") == [ChangePool(namespaces=["b"], owner="kubernetes")]


def test_outer_pools_come_first() -> None:
    wanted = {
        "a": wanted_pool("application", parent="z", size=1),
        "m": wanted_pool(size=1),
        "z": wanted_pool(size=1),
    }
    assert upsert_order(wanted) == ["m", "z", "a"]


@given(
    st.integers(1, 200),
    st.lists(st.integers(1, 200), min_size=1, max_size=20, unique=True),
)
def test_the_requests_for_a_size_make_just_that_size(size: int, held: list[int]) -> None:
    found = pool(ranges=[f"10.1.0.{index}" for index in held])
    after = len(held)
    for step in steps(wanted_pool(size=size), found):
        assert isinstance(step, (Grow, Shrink))
        assert step.request.size is not None
        after += int(step.request.size) * (1 if isinstance(step, Grow) else -1)
    assert after == size


# What an application's pool follows.


def workload(namespace: str, replicas: int | None, application: str | None) -> Workload:
    annotations = {} if application is None else {"ipam.com/application": application}
    return msgspec.convert(
        {
            "metadata": {"name": "w", "namespace": namespace},
            "spec": {"replicas": replicas, "template": {"metadata": {"annotations": annotations}}},
        },
        Workload,
    )


def test_replicas_are_those_of_all_workloads_that_name_the_pool() -> None:
    known = [workload("a", 3, "db"), workload("b", 2, "db"), workload("a", 9, "web")]
    assert replicas_of("db", ["a", "b"], known) == 5
    assert replicas_of("db", ["*"], [*known, workload("c", None, "db")]) == 6


def test_whoever_may_not_use_the_pool_does_not_make_it_grow() -> None:
    assert replicas_of("db", ["a"], [workload("a", 1, "db"), workload("thief", 99, "db")]) == 1


@given(st.lists(st.integers(-5, 2**31), max_size=5))
def test_replicas_stay_within_what_the_server_takes(counts: list[int]) -> None:
    found = replicas_of("db", ["*"], [workload("a", count, "db") for count in counts])
    assert 0 <= found <= MOST
