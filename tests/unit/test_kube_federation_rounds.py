"""Rounds with the federation server: what is asked of it, and what objects are told."""

from __future__ import annotations

import asyncio
import base64
from typing import Any, cast

import pytest

from federation.client import Client
from kube_controller.federations import Federations
from kube_controller.kinds import FINALIZER, Custom, Secret
from kube_controller.metrics import Metrics
from netspace.kube_api import ApiError, KubeApi
from netspace.messages.federating import (
    ChangeFederation,
    FederationDetails,
    FederationsStatus,
    JoinFederation,
    NewFederation,
)
from netspace.problems import Problem, invalid
from tests.unit.kube_federation_world import FOUND, JOIN, conditions, custom, details


class Server:
    """A federation server in memory that notes what it is asked, and fails as it is told."""

    def __init__(self) -> None:
        self.kept: dict[str, FederationDetails] = {}
        self.asked: list[str] = []
        self.failing: Exception | None = None
        self.token_of = "east-west"

    def _note(self, what: str) -> None:
        self.asked.append(what)
        if self.failing is not None:
            raise self.failing

    async def federations(self, cluster: str) -> list[FederationDetails]:
        return [*self.kept.values()]

    async def status(self, cluster: str) -> FederationsStatus:
        return FederationsStatus(
            version="", cluster=cluster, server="s", leader="s", ready=True, why="", servers=[],
            federations=[], nodes=[],
        )  # fmt: skip

    async def found(self, cluster: str, new: NewFederation) -> FederationDetails:
        self._note(f"found {new.name}")
        self.kept[new.name] = details(ranges=tuple(new.local.ranges))
        return self.kept[new.name]

    async def join(self, cluster: str, join: JoinFederation) -> FederationDetails:
        self._note(f"join {join.token}")
        joined = details(founder="west")
        joined.name = self.token_of
        if join.name != joined.name:
            raise invalid("token", f"it is of federation {joined.name}")
        self.kept[joined.name] = joined
        return joined

    async def change(self, cluster: str, name: str, change: ChangeFederation) -> FederationDetails:
        self._note(f"change {name}")
        return self.kept[name]

    async def leave(self, cluster: str, name: str) -> None:
        self._note(f"leave {name}")
        del self.kept[name]

    async def delete(self, cluster: str, name: str) -> None:
        self._note(f"delete {name}")
        del self.kept[name]


class Api:
    """Has secrets, and notes what is written."""

    def __init__(self) -> None:
        self.secrets: dict[str, dict[str, str]] = {}
        self.written: list[tuple[str, Any]] = []

    async def get(self, path: str, kind: type[Secret]) -> Secret:
        name = path.rpartition("/")[2]
        if name not in self.secrets:
            raise ApiError(404, "no such secret")
        data = {
            key: base64.b64encode(text.encode()).decode()
            for key, text in self.secrets[name].items()
        }
        return Secret(data=data)

    async def patch(self, path: str, change: Any) -> None:
        self.written.append((path.partition("v1alpha1/")[2], change))


class World:
    def __init__(self, *, configured: bool = True) -> None:
        self.server, self.api = Server(), Api()
        self.customs: dict[str, Custom] = {}
        self.rounds = Federations(
            cast(Client, self.server) if configured else None,
            "east",
            cast(KubeApi, self.api),
            lambda: self.customs,
            "netspace-system",
            Metrics(),
        )

    def round(self, *objects: Custom) -> list[str]:
        """What was asked of the server."""
        self.server.asked.clear()
        self.customs = {each.name: each for each in objects}
        asyncio.run(self.rounds.round())
        return list(self.server.asked)

    @property
    def conditions(self) -> dict[str, tuple[str, str]]:
        """Those of the last status that was written."""
        told = [change["status"] for path, change in self.api.written if "status" in path]
        return conditions(told[-1])

    @property
    def finalizers(self) -> list[list[str]]:
        """What was written of them."""
        metadata = [change.get("metadata") for _, change in self.api.written]
        return [each["finalizers"] for each in metadata if each is not None]


def test_a_federation_is_founded_once() -> None:
    world = World()
    assert world.round(custom(**FOUND)) == ["found east-west"]
    assert world.conditions["Ready"] == ("True", "AsDeclared")
    assert world.round(custom(**FOUND)) == []


def test_the_finalizer_is_there_before_anything_is_asked() -> None:
    world = World()
    world.server.failing = Problem("unavailable", "away")
    assert world.round(custom(**FOUND, held=False)) == ["found east-west"]
    assert world.finalizers == [[FINALIZER]]


def test_a_token_comes_from_its_secret() -> None:
    world = World()
    assert world.round(custom(**JOIN)) == []
    assert world.conditions["Joined"] == ("False", "NotFound")
    world.api.secrets["other"] = {"t": "nsf1.abc\n"}
    assert world.round(custom(at=2, token={"secret": "other", "key": "t"})) == ["join nsf1.abc"]


def test_the_token_of_another_federation_makes_no_member() -> None:
    world = World()
    world.api.secrets["netspace-federation-token"] = {"token": "nsf1.abc"}
    world.server.token_of = "north"
    assert world.round(custom(**JOIN)) == ["join nsf1.abc"]
    assert world.conditions["Ready"] == ("False", "Invalid")
    assert not world.server.kept


@pytest.mark.parametrize(("spec", "word"), [(FOUND, "delete"), (JOIN, "leave")])
def test_deleting_the_object_ends_the_membership(spec: dict[str, Any], word: str) -> None:
    world = World()
    world.server.kept["east-west"] = details(founder="east" if word == "delete" else "west")
    assert world.round(custom(**spec, going=True)) == [f"{word} east-west"]
    assert world.finalizers == [[]]


def test_an_object_waits_while_others_are_members() -> None:
    world = World()
    world.server.kept["east-west"] = details("west")
    world.server.failing = Problem("in-use", "it has other members")
    world.round(custom(**FOUND, going=True))
    assert world.conditions["Ready"] == ("False", "InUse")
    assert world.finalizers == []


def test_an_object_that_was_refused_ends_nothing_of_peoples() -> None:
    world = World()
    world.server.kept["east-west"] = details("west", founder="west")
    world.round(custom(**FOUND, held=False))
    assert world.conditions["Ready"] == ("False", "Owned")
    assert world.finalizers == []
    assert world.round(custom(**FOUND, held=False, going=True)) == []


def test_without_a_federation_server_a_condition_says_so() -> None:
    world = World(configured=False)
    assert world.round(custom(**FOUND)) == []
    assert world.conditions == {"Ready": ("False", "NotConfigured")}


def test_a_server_that_is_away_fails_the_round_and_is_told() -> None:
    world = World()

    async def away(cluster: str) -> list[FederationDetails]:
        raise Problem("unavailable", "away")

    world.server.federations = away  # type: ignore[method-assign]
    with pytest.raises(Problem):
        world.round(custom(**FOUND))
    assert world.conditions["Ready"] == ("Unknown", "Unavailable")
