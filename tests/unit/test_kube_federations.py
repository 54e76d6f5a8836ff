"""Federations as Kubernetes declares them: what is asked of the server, and what they are told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import jsonschema
import msgspec
import pytest

from kube_controller import declared_federation, schemas, statuses_federation
from kube_controller.declared_federation import Join, TokenSource
from kube_controller.kinds import Custom, Metadata
from kube_controller.statuses_federation import Seen
from netspace.messages.federating import (
    ChangeFederation,
    FederationDetails,
    FederationStatus,
    Local,
    NewFederation,
    PeerStatus,
)
from netspace.messages.federation import Pair, PortSpan, Settings
from netspace.problems import Problem
from tests.unit.kube_federation_world import FOUND, JOIN, conditions, custom, details

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def peer(cluster: str = "west", **changed: Any) -> PeerStatus:
    fields: dict[str, Any] = {
        "cluster": cluster, "kind": "heterogeneous", "reached": True, "contact": 1_767_323_000,
        "age": 1.0, "why": "", "fault": "", "version": None, "cni": "bridge",
        "ranges": ["10.9.0.0/16"], "nodes": 3, "down": 1, "gateways": ["g1", "g2"],
        "available": ["g1"], "tunnels": {"up": 5, "connecting": 1, "down": 2},
    }  # fmt: skip
    return PeerStatus(**{**fields, **changed})


def seen(*peers: PeerStatus, faults: tuple[str, ...] = ()) -> Seen:
    found = details(*(each.cluster for each in peers))
    status = FederationStatus(
        name="east-west", founder="east", number=3, version=None, ranges=["10.8.0.0/16"],
        peers=list(peers), faults=list(faults),
    )  # fmt: skip
    return Seen(found, status)


def step(found: FederationDetails | None = None, /, **spec: Any) -> declared_federation.Step | None:
    return declared_federation.step(
        "east-west", declared_federation.federation(custom(**spec)), found
    )


def refusal(found: FederationDetails | None = None, /, **spec: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        step(found, **spec)
    return caught.value


# What is declared.


def test_a_federation_is_founded_as_it_is_declared() -> None:
    asked = step(**FOUND, vni=9, settings={"gateways": 2})
    assert asked == NewFederation(
        name="east-west", local=Local(ranges=["10.8.0.0/16"]), vni=9, settings=Settings(gateways=2)
    )


def test_a_federation_is_joined_by_the_token_of_a_secret() -> None:
    assert step(**JOIN) == Join(TokenSource(), Local(ranges=["10.8.0.0/16"]))
    source = {"secret": "mine", "key": "t"}
    assert step(token=source) == Join(TokenSource(secret="mine", key="t"), Local())


def test_what_is_as_declared_is_left_alone_and_only_what_differs_is_asked_for() -> None:
    assert step(details(), **FOUND) is None
    assert step(details(founder="west"), **JOIN) is None
    changed = step(details(), **FOUND, exposed=[{"first": 80, "last": 90}], layout="centralised")
    assert changed == ChangeFederation(exposed=[PortSpan(first=80, last=90)], layout="centralised")


def test_settings_that_are_not_declared_stay() -> None:
    found = details()
    found.federation = msgspec.structs.replace(found.federation, settings=Settings(rekey=60))
    assert step(found, **FOUND) is None
    assert step(found, **FOUND, settings={}) == ChangeFederation(settings=Settings())


def test_a_pairs_kind_waits_for_both_to_be_members() -> None:
    pairs = [{"one": "east", "other": "west", "kind": "homogeneous"}]
    assert step(details(), **FOUND, pairs=pairs) is None
    assert step(details("west"), **FOUND, pairs=pairs) == ChangeFederation(
        pairs=[Pair(one="east", other="west", kind="homogeneous")]
    )


@pytest.mark.parametrize(
    ("found", "spec", "said"),
    [
        (None, {}, "either `found: true` or `token`"),
        (None, {"found": True, "token": {}}, "either `found: true` or `token`"),
        (None, {**JOIN, "vni": 5}, "spec.vni"),
        (None, {**JOIN, "settings": {}}, "spec.settings"),
        (None, {**FOUND, "rnages": []}, "rnages"),
        (None, {**FOUND, "exposed": [{"first": 0, "last": 1}]}, "spec.exposed"),
        (details(founder="west"), FOUND, "cluster west has founded"),
        (details(), JOIN, "declare `found: true`"),
        (details(), {**FOUND, "vni": 8}, "7 -> 8"),
    ],
)
def test_what_cannot_be_is_said(
    found: FederationDetails | None, spec: dict[str, Any], said: str
) -> None:
    assert said in str(refusal(found, **spec))


def test_the_objects_name_is_a_federations() -> None:
    with pytest.raises(Problem, match="begins with a letter"):
        declared_federation.federation(custom("9-lives", **FOUND))


# The definition.

SCHEMA = schemas.definitions()["federations"]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


@pytest.mark.parametrize(
    ("spec", "right"),
    [
        (FOUND, True),
        (JOIN, True),
        ({**FOUND, "vni": 5, "settings": {"gateways": 3}}, True),
        ({}, False),
        ({"found": False}, False),
        ({"found": True, "token": {}}, False),
        ({**JOIN, "pairs": []}, False),
        ({**FOUND, "layout": "star"}, False),
        ({**FOUND, "exposed": [{"first": 80}]}, False),
        ({**FOUND, "settings": {"gateways": 15}}, False),
    ],
)
def test_kubernetes_refuses_by_itself_what_cannot_be(spec: dict[str, Any], right: bool) -> None:
    found = {"metadata": {"name": "east-west"}, "spec": spec}
    assert jsonschema.Draft202012Validator(SCHEMA).is_valid(found) is right


@pytest.mark.parametrize("name", ["9a", "a.b", "A", "a" * 64])
def test_names_that_are_no_federations_are_refused(name: str) -> None:
    found = {"metadata": {"name": name}, "spec": FOUND}
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(found)


# The status.


def test_a_healthy_federation_says_so_with_its_figures() -> None:
    status = statuses_federation.status(custom(**FOUND), seen(peer()), None, NOW)
    assert conditions(status) == {
        "Ready": ("True", "AsDeclared"),
        "Joined": ("True", "Member"),
        "Reachable": ("True", "Answering"),
        "Overlap": ("False", "Disjoint"),
    }
    [member] = status["members"]
    assert member == {
        "cluster": "west", "kind": "heterogeneous", "cni": "bridge", "reached": True,
        "ranges": ["10.9.0.0/16"], "nodes": 3, "nodesDown": 1, "tunnelsUp": 5, "tunnelsWanted": 8,
        "gateways": 2, "gatewaysAvailable": 1, "lastContact": "2026-01-02T03:03:20Z",
    }  # fmt: skip
    assert (status["founder"], status["membersText"]) == ("east", "1/1")


def test_a_silent_member_is_named_with_the_reason() -> None:
    silent = peer("north", reached=False, why="refused", kind="homogeneous")
    status = statuses_federation.status(custom(**FOUND), seen(peer(), silent), None, NOW)
    assert conditions(status)["Reachable"] == ("False", "Silent")
    assert status["conditions"][2]["message"] == "no answer: north (refused)"
    assert status["membersText"] == "1/2"
    north = status["members"][1]
    assert north["fault"] == "refused"
    assert "gateways" not in north


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (seen(peer(fault="range 10.8.0.0/16 of cluster west overlaps range …")), None),
        (seen(peer(), faults=("range … of cluster east overlaps …",)), None),
        (seen(peer()), Problem("overlap", "range … overlaps …")),
        (None, Problem("overlap", "range … overlaps …")),
    ],
)
def test_an_overlap_is_a_condition(found: Seen | None, problem: Problem | None) -> None:
    status = statuses_federation.status(custom(**FOUND), found, problem, NOW)
    assert conditions(status)["Overlap"] == ("True", "Overlap")


def test_a_member_that_was_removed_is_told() -> None:
    removed = Seen(details("west", founder="west", own="north"), None)
    heard = seen(peer("west"), peer("north")).status
    status = statuses_federation.status(custom(**JOIN), Seen(removed.details, heard), None, NOW)
    assert conditions(status)["Joined"] == ("False", "Removed")


def test_a_refused_join_says_why() -> None:
    status = statuses_federation.status(custom(**JOIN), None, Problem("forbidden", "expired"), NOW)
    assert conditions(status)["Ready"] == ("False", "Forbidden")
    assert conditions(status)["Joined"] == ("False", "Forbidden")
    assert conditions(status)["Reachable"] == ("Unknown", "NotJoined")


def test_a_contact_is_told_once_a_minute() -> None:
    def told(before: str | None, contact: int) -> str:
        members = [{"cluster": "west", "lastContact": before}] if before else []
        present = Custom(metadata=Metadata(name="a"), status={"members": members})
        status = statuses_federation.status(present, seen(peer(contact=contact)), None, NOW)
        return str(status["members"][0]["lastContact"])

    first = told(None, 1_767_323_000)
    assert told(first, 1_767_323_059) == first
    assert told(first, 1_767_323_060) == "2026-01-02T03:04:20Z"
    assert told(first, 1_767_322_999) == "2026-01-02T03:03:19Z"
    assert told("yesterday", 1_767_323_000) == first


def test_a_silent_server_leaves_what_is_known_and_says_that_reach_is_not() -> None:
    known = statuses_federation.status(custom(**FOUND), seen(peer()), None, NOW)
    present = Custom(metadata=Metadata(name="a", generation=1), status=known)
    status = statuses_federation.unknown(present, Problem("unavailable", "away"), NOW)
    assert conditions(status) == {
        "Ready": ("True", "AsDeclared"),
        "Joined": ("True", "Member"),
        "Reachable": ("Unknown", "Unavailable"),
        "Overlap": ("False", "Disjoint"),
    }
    assert set(status) == {"conditions"}
