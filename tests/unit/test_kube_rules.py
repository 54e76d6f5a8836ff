"""The controller's other rules: leases, fenced nodes, namespaces, statuses, events."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_controller import events, fencing, leasing, namespaces, statuses
from kube_controller.kinds import Custom, Metadata, Namespace, Node, Pod
from kube_controller.leasing import Lease, LeaseSpec, Sight
from netspace.kubernetes import NamespaceDefault
from netspace.messages import AddressEntry, Selection
from netspace.problems import Problem

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


# Leases.


def lease(holder: str = "", version: str = "1", **spec: Any) -> Lease:
    return Lease(
        metadata=Metadata(resource_version=version),
        spec=LeaseSpec(holder_identity=holder, **spec),
    )


def test_a_lease_of_nobody_or_of_oneself_is_free() -> None:
    sight = Sight("1", 0)
    assert leasing.free(lease(""), "me", sight, 0, 15)
    assert leasing.free(lease("me"), "me", sight, 0, 15)
    assert not leasing.free(lease("you"), "me", sight, 14.9, 15)


def test_a_holder_that_fell_silent_is_replaced_by_its_own_word() -> None:
    held = lease("you", lease_duration_seconds=5)
    assert not leasing.free(held, "me", Sight("1", 0), 4.9, 15)
    assert leasing.free(held, "me", Sight("1", 0), 5, 15)


@given(st.lists(st.tuples(st.floats(0, 10), st.booleans()), max_size=20))
def test_who_writes_in_time_is_never_replaced(looks: list[tuple[float, bool]]) -> None:
    """Whatever its clock says: only versions count."""
    sight, now, version, written = None, 0.0, 0, 0.0
    for pause, renewed in looks:
        now += pause
        if renewed or now - written >= 10:
            version, written = version + 1, now
        held = lease("you", str(version), lease_duration_seconds=10, renew_time="1970-01-01")
        sight = leasing.seen(sight, held, now)
        assert not leasing.free(held, "me", sight, now, 10)


def test_taking_a_lease_counts_and_renewing_it_does_not() -> None:
    first = leasing.taken(LeaseSpec(), "me", 15, NOW)
    assert (first.holder_identity, first.lease_transitions) == ("me", 1)
    assert first.acquire_time == "2026-01-02T03:04:05.000000Z"
    later = leasing.taken(first, "me", 15, NOW.replace(minute=9))
    assert (later.acquire_time, later.lease_transitions) == (first.acquire_time, 1)
    assert leasing.taken(later, "you", 15, NOW).lease_transitions == 2


def test_a_lease_that_is_given_up_is_free_at_once() -> None:
    left = leasing.given_up(leasing.taken(LeaseSpec(), "me", 15, NOW), NOW)
    assert leasing.free(Lease(Metadata(), left), "you", Sight("1", 0), 0, 15)


# Fenced nodes.


def node(name: str, *taints: str) -> Node:
    taint = [{"key": key} for key in taints]
    return msgspec.convert({"metadata": {"name": name}, "spec": {"taints": taint}}, Node)


def nodes(*found: Node) -> Mapping[str, Node]:
    return {each.metadata.name: each for each in found}


def pod(uid: str, phase: str = "Running", mirrored: str | None = None) -> Pod:
    annotations = {} if mirrored is None else {"kubernetes.io/config.mirror": mirrored}
    metadata = {"name": uid, "uid": uid, "annotations": annotations}
    return msgspec.convert({"metadata": metadata, "status": {"phase": phase}}, Pod)


def entry(uid: str | None, **changed: Any) -> AddressEntry:
    fields: dict[str, Any] = {
        "network": "red", "slot": "5", "ipv4": "10.1.0.5", "ipv6": None, "state": "used",
        "pool": "a", "generation": 7, "uid": uid, "container": "c",
    }  # fmt: skip
    return msgspec.convert({**fields, **changed}, AddressEntry)


def test_a_node_is_fenced_when_it_was_deleted_or_is_out_of_service() -> None:
    present = nodes(node("a"), node("b", "node.kubernetes.io/out-of-service"))
    known = {"a": 3, "b": 2, "c": 1, "idle": 0}
    assert fencing.fenced(present, known) == {"b": "out-of-service", "c": "deleted"}


def test_a_node_that_is_not_ready_or_unreachable_is_not_fenced() -> None:
    present = nodes(node("a", "node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"))
    assert fencing.fenced(present, {"a": 3}) == {}


def test_a_kubernetes_that_knows_none_of_the_nodes_proves_nothing() -> None:
    assert fencing.fenced(nodes(node("other")), {"a": 3, "b": 1}) == {}
    assert fencing.fenced({}, {"a": 3}) == {}


def test_who_is_no_living_pod_is_gone() -> None:
    alive = fencing.living([pod("runs"), pod("waits", "Pending"), pod("done", "Succeeded")])
    found = fencing.gone([entry("runs"), entry("waits"), entry("done"), entry("lost")], alive)
    assert [each.generation for each in found] == [7, 7]


def test_a_static_pod_is_known_by_the_uid_its_node_gave_it() -> None:
    alive = fencing.living([pod("mirror", mirrored="config-hash")])
    assert fencing.gone([entry("config-hash"), entry("mirror")], alive) == []


@pytest.mark.parametrize(
    "other",
    [
        entry(None),
        entry(""),
        entry("x", container=None),
        entry("x", state="reserved"),
        entry("x", state="cooling"),
        entry("x", generation=None),
    ],
)
def test_of_what_kubernetes_did_not_make_it_says_nothing(other: AddressEntry) -> None:
    assert fencing.gone([other], frozenset()) == []


@given(st.sets(st.integers(0, 20)), st.sets(st.integers(0, 20)))
def test_a_living_pod_is_never_gone(held: set[int], living: set[int]) -> None:
    alive = fencing.living(pod(f"u{uid}") for uid in living)
    entries = [entry(f"u{uid}", generation=uid + 1) for uid in held]
    assert {each.generation - 1 for each in fencing.gone(entries, alive)} == held - living


# Namespaces.


def namespace(name: str, **annotations: str) -> Namespace:
    ours = {f"ipam.com/{key}": value for key, value in annotations.items()}
    return Namespace(Metadata(name=name, uid=f"uid-{name}", annotations={**ours, "other": "x"}))


def stored(name: str, **selection: Any) -> NamespaceDefault:
    return NamespaceDefault(namespace=name, revision=1, selection=Selection(**selection))


def test_what_a_namespace_chooses_is_told_once() -> None:
    known = [namespace("a", netspace="x"), namespace("b", application="y"), namespace("c")]
    found = namespaces.steps(known, [stored("b", application="y")])
    assert found.chosen == {"a": Selection(netspace="x")}
    assert (found.unset, found.wrong) == ([], {})


def test_what_a_namespace_chooses_no_more_is_taken_away() -> None:
    found = namespaces.steps([namespace("a")], [stored("a", netspace="x"), stored("gone")])
    assert found.unset == ["a", "gone"]


@pytest.mark.parametrize(
    "wrong", [{"ip": "10.1.0.5"}, {"netspce": "x"}, {"netspace": "x", "application": "y"}]
)
def test_a_wrong_annotation_changes_nothing_and_is_said(wrong: dict[str, str]) -> None:
    found = namespaces.steps([namespace("a", **wrong)], [stored("a", netspace="x")])
    assert (found.chosen, found.unset) == ({}, [])
    assert found.wrong["a"].code == "invalid"


# Statuses.


def custom(generation: int = 2, going: bool = False, **status: Any) -> Custom:
    deleted = "2026-01-01T00:00:00Z" if going else None
    metadata = Metadata(name="a", generation=generation, deletion_timestamp=deleted)
    return Custom(metadata=metadata, status=status)


def condition(status: Mapping[str, Any]) -> Any:
    (found,) = status["conditions"]
    return found


REFUSED = Problem("no-space", "the network has 3 free addresses, not 5", do="take fewer")


def test_a_status_says_that_it_is_as_declared_or_why_not() -> None:
    good = statuses.pool_status(custom(), None, None, NOW)
    assert (condition(good)["status"], condition(good)["reason"]) == ("True", "AsDeclared")
    bad = statuses.pool_status(custom(), None, REFUSED, NOW)
    assert condition(bad) == {
        "type": "Ready",
        "status": "False",
        "reason": "NoSpace",
        "message": "the network has 3 free addresses, not 5: take fewer",
        "observedGeneration": 2,
        "lastTransitionTime": "2026-01-02T03:04:05Z",
    }


def test_a_status_that_is_the_same_is_not_written() -> None:
    before = statuses.pool_status(custom(), None, REFUSED, NOW)
    written = {key: value for key, value in before.items() if value is not None}
    again = custom(**written)
    later = statuses.pool_status(again, None, REFUSED, NOW.replace(hour=9))
    assert statuses.change(again, later) is None


def test_the_transition_is_when_the_condition_changed() -> None:
    before = custom(conditions=[condition(statuses.pool_status(custom(), None, REFUSED, NOW))])
    later = NOW.replace(hour=9)
    other = Problem("overlap", "something else")
    still = condition(statuses.pool_status(before, None, other, later))
    assert still["lastTransitionTime"] == "2026-01-02T03:04:05Z"
    good = condition(statuses.pool_status(before, None, None, later))
    assert good["lastTransitionTime"] == "2026-01-02T09:04:05Z"


def test_figures_that_are_gone_are_taken_out() -> None:
    before = custom(size="8", used=2)
    patch = statuses.change(before, statuses.pool_status(before, None, REFUSED, NOW))
    assert patch is not None
    assert patch["status"]["size"] is None
    assert not statuses.only_figures(patch)


def test_a_server_that_is_away_makes_nothing_of_what_is_known() -> None:
    away = Problem("unavailable", "no server answered")
    assert statuses.unknown(custom(observedGeneration=2), away, NOW) == {}
    assert condition(statuses.unknown(custom(observedGeneration=1), away, NOW))["status"] == (
        "Unknown"
    )


def test_who_holds_a_pool_is_named() -> None:
    pods = [entry("u", namespace="team", pod="web-0"), entry("v", namespace="team", pod="web-1")]
    problem = statuses.held_by(Problem("in-use", "2 addresses are in use"), pods, more=True)
    assert str(problem).startswith("2 addresses are in use: team/web-0, team/web-1, and more")


# Events.


def test_the_same_fault_is_the_same_event() -> None:
    one = events.event(namespace("a"), REFUSED, NOW)
    again = events.event(namespace("a"), REFUSED, NOW.replace(hour=9))
    other = events.event(namespace("a"), Problem("overlap", "something else"), NOW)
    names = [each["metadata"]["name"] for each in (one, again, other)]
    assert names[0] == names[1] != names[2]
    assert one["involvedObject"]["namespace"] == one["metadata"]["namespace"] == "a"


def test_an_event_on_a_pod_lies_in_its_namespace_under_a_name_that_has_room() -> None:
    pod = Pod(Metadata(name="p" * 253, namespace="shop", uid="u"))
    said = events.holder(pod, "somebody has it", NOW)
    assert said["metadata"]["namespace"] == said["involvedObject"]["namespace"] == "shop"
    assert said["involvedObject"]["name"] == pod.metadata.name
    assert len(said["metadata"]["name"]) <= 253
