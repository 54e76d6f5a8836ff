"""Federations declared with kubectl: a real API of Kubernetes', real federation servers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from federation.client import Client
from lab.federation_server import HASTY, FederationServer
from lab.server import until
from netspace.messages.federating import JoinFederation, Local, NewFederation
from tests.kubernetes import controllers
from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.controllers import ControllerProcess, asked, custom

OWN, OTHER = controllers.CLUSTER, "west"
SECRET = "netspace-federation-token"

T = TypeVar("T")


@dataclass
class World:
    """An API with a controller for cluster OWN, and the federation servers of both clusters."""

    apiserver: ApiServer
    own: FederationServer
    other: FederationServer

    def ask(self, server: FederationServer, question: Callable[[Client], Awaitable[T]]) -> T:
        async def scenario() -> T:
            async with Client([server.url]) as client:
                return await question(client)

        return asyncio.run(scenario())

    def declare(self, name: str, **spec: Any) -> None:
        self.apiserver.apply(custom("Federation", name, **spec))

    def found(self, name: str) -> dict[str, Any]:
        path = f"/apis/ipam.netspace.io/v1alpha1/federations/{name}"
        return self.apiserver.find(path) or {}

    def status(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = self.found(name).get("status", {})
        return status

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        """One condition of the object as it is now; empty if it has none yet."""
        found = self.found(name)
        status = found.get("status", {})
        if not found or status.get("observedGeneration") != found["metadata"]["generation"]:
            return {}
        return next((each for each in status["conditions"] if each["type"] == kind), {})

    def wait(self, name: str, kind: str, status: str, reason: str) -> str:
        """The message once the condition is so."""

        def is_so() -> bool:
            found = self.condition(name, kind)
            return (found.get("status"), found.get("reason")) == (status, reason)

        try:
            until(is_so, f"{kind} of {name} is {status}, {reason}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.status(name)}") from None
        return str(self.condition(name, kind)["message"])

    def keep_token(self, token: str) -> None:
        made = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": "default"},
            "stringData": {"token": token},
        }
        self.apiserver.apply(made)


@pytest.fixture(scope="module")
def world(
    controlled: controllers.World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    etcd = controlled.apiserver.etcd.url
    other = FederationServer(tmp_path_factory.mktemp("other"), etcd, OTHER, cni="other", **HASTY)
    assert controlled.federation is not None
    try:
        other.start().wait_until(lambda: other.listens, "listening")
        yield World(controlled.apiserver, controlled.federation, other)
    finally:
        if other.running:
            other.end()


def test_a_federation_is_founded_shown_changed_and_ended(world: World) -> None:
    world.declare("alpha", found=True, ranges=["10.81.0.0/16"])
    world.wait("alpha", "Ready", "True", "AsDeclared")
    world.wait("alpha", "Joined", "True", "Member")
    world.wait("alpha", "Reachable", "True", "Alone")

    token = world.ask(world.own, lambda client: client.token(OWN, "alpha", 60)).token
    join = JoinFederation(token=token, local=Local(ranges=["10.82.0.0/16"]))
    world.ask(world.other, lambda client: client.join(OTHER, join))
    world.wait("alpha", "Reachable", "True", "Answering")
    [member] = world.status("alpha")["members"]
    assert (member["cluster"], member["kind"]) == (OTHER, "heterogeneous")
    assert member["reached"]
    # Asked for all there is, kubectl forgets what it knew before the definitions came.
    assert "nsfed" in world.apiserver.kubectl("api-resources", "--api-group=ipam.netspace.io")
    shown = world.apiserver.kubectl("get", "nsfed", "alpha").split("\n")
    assert shown[0].split() == [
        "NAME", "FOUNDER", "MEMBERS", "JOINED", "REACHABLE", "OVERLAP", "READY", "AGE",
    ]  # fmt: skip
    assert shown[1].split()[1:7] == [OWN, "1/1", "True", "True", "False", "True"]

    world.declare("alpha", found=True, ranges=["10.82.7.0/24"])
    assert "10.82.7.0/24" in world.wait("alpha", "Ready", "False", "Overlap")
    world.wait("alpha", "Overlap", "True", "Overlap")
    world.declare("alpha", found=True, ranges=["10.83.0.0/16"], layout="centralised")
    world.wait("alpha", "Ready", "True", "AsDeclared")
    world.wait("alpha", "Overlap", "False", "Disjoint")
    details = world.ask(world.own, lambda client: client.federation(OWN, "alpha"))
    assert (details.local.ranges, details.local.layout) == (["10.83.0.0/16"], "centralised")

    world.apiserver.kubectl("delete", "federation/alpha", "--wait=false")
    assert OTHER in world.wait("alpha", "Ready", "False", "InUse")
    world.ask(world.other, lambda client: client.leave(OTHER, "alpha"))
    until(lambda: not world.found("alpha"), "it is gone")
    assert world.ask(world.own, lambda client: client.federations(OWN)) == []


def test_a_federation_is_joined_by_a_secrets_token_and_left(world: World) -> None:
    new = NewFederation(name="beta", local=Local(ranges=["10.84.0.0/16"]))
    world.ask(world.other, lambda client: client.found(OTHER, new))
    world.declare("beta", token={}, ranges=["10.84.0.0/17"])
    assert f"no Secret default/{SECRET}" in world.wait("beta", "Joined", "False", "NotFound")
    world.keep_token("nsf1.nonsense")
    assert "it is none" in world.wait("beta", "Joined", "False", "Invalid")
    world.keep_token(world.ask(world.other, lambda client: client.token(OTHER, "beta", 60)).token)
    world.wait("beta", "Overlap", "True", "Overlap")
    world.declare("beta", token={}, ranges=["10.85.0.0/16"])
    world.wait("beta", "Joined", "True", "Member")
    world.wait("beta", "Reachable", "True", "Answering")

    world.other.end()
    assert OTHER in world.wait("beta", "Reachable", "False", "Silent")
    world.other.start()
    world.wait("beta", "Reachable", "True", "Answering")
    world.apiserver.kubectl("delete", "federation/beta", "--timeout=20s")
    details = world.ask(world.other, lambda client: client.federation(OTHER, "beta"))
    assert [each.cluster for each in details.federation.members] == [OTHER]


def test_what_the_definition_forbids_is_refused_at_once(world: World) -> None:
    said = world.apiserver.kubectl(
        "apply", "-f", "-", check=False, body=custom("Federation", "gamma", found=True, token={})
    )
    assert "is invalid" in said


def test_a_controller_needs_no_address_server_for_them(world: World, tmp_path: Path) -> None:
    federation = {"endpoints": [world.own.url]}
    controller = ControllerProcess(
        tmp_path, world.apiserver, "unix:///nowhere", server=None, federation=federation,
        election={"lease": "without", "namespace": "default", "duration": 3, "pause": 0.3},
    )  # fmt: skip
    try:
        controller.start()
        controller.wait_until(lambda: controller.said("leading"), "leading")
        until(lambda: "true" in asked(controller.port, "/readyz"), "it is ready")
    finally:
        controller.end()
    assert not controller.said("a fault")
