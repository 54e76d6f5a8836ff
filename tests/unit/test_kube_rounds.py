"""A round: in what order it asks, what it does not ask again, and whose failure a failure is."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest

from ipam_server.client import Client
from kube_controller import objects
from kube_controller.kinds import FINALIZER, Custom, Metadata
from kube_controller.metrics import Metrics
from kube_controller.rounds import Declared, Rounds
from netspace.kube_api import KubeApi
from netspace.kubernetes import NamespaceDefault
from netspace.messages import AddressPage, ChangePool, Network, NewNetwork, NewPool, Pool
from netspace.problems import Problem


def fields_of(new: msgspec.Struct) -> dict[str, Any]:
    return {field: getattr(new, field) for field in new.__struct_fields__}


class Server:
    """A server in memory that notes what it is asked, and fails as `failing` says by name."""

    def __init__(self) -> None:
        self.kept: dict[str, Network] = {}
        self.carved: dict[str, Pool] = {}
        self.asked: list[str] = []
        self.failing: dict[str, Exception] = {}

    def _note(self, what: str, name: str) -> None:
        self.asked.append(f"{what} {name}")
        if name in self.failing:
            raise self.failing[name]

    async def networks(self, cluster: str) -> list[Network]:
        return [*self.kept.values()]

    async def pools(self, cluster: str) -> list[Pool]:
        return [*self.carved.values()]

    async def namespaces(self, cluster: str) -> list[NamespaceDefault]:
        return []

    async def addresses(self, cluster: str, **filters: Any) -> AddressPage:
        return AddressPage(items=[], next=None)

    async def create_network(self, cluster: str, new: NewNetwork) -> Network:
        self._note("network", new.name)
        fields = fields_of(new)
        fields |= {"revision": 1, "uid": "u", "total": "9", "carved": "0", "used": 0, "reserved": 0}
        self.kept[new.name] = Network(**fields)
        return self.kept[new.name]

    async def create_pool(self, cluster: str, new: NewPool) -> Pool:
        self._note("pool", new.name)
        fields = fields_of(new)
        figures = {"used": 0, "cooling": 0, "retained": 0, "free": "9", "never": "9"}
        more = {"revision": 1, "replicas": None, "surplus": 0, **figures, "size": new.size or "1"}
        fields["ranges"] = fields["ranges"] or ["10.0.0.1"]
        self.carved[new.name] = Pool(**{**fields, **more})
        return self.carved[new.name]

    async def change_pool(self, cluster: str, name: str, change: ChangePool) -> Pool:
        self._note("change", name)
        return self.carved[name]

    async def delete_pool(self, cluster: str, name: str, owner: str | None) -> None:
        self._note("delete", name)
        del self.carved[name]

    async def delete_network(self, cluster: str, name: str, owner: str | None) -> None:
        self._note("delete", name)
        del self.kept[name]


class Api:
    """Notes what is written."""

    def __init__(self) -> None:
        self.written: list[tuple[str, Any]] = []

    async def patch(self, path: str, change: Any) -> None:
        self.written.append((path.partition("v1alpha1/")[2], change))


class World:
    def __init__(self) -> None:
        self.server, self.api, self.declared = Server(), Api(), Declared()
        self.rounds = Rounds(
            cast(Client, self.server), "east", cast(KubeApi, self.api), self.declared, Metrics()
        )

    def declare(self, *objects: Custom) -> None:
        networks = [each for each in objects if "kind" not in each.spec]
        pools = [each for each in objects if "kind" in each.spec]
        self.declared.networks = {each.name: each for each in networks}
        self.declared.pools = {each.name: each for each in pools}

    def round(self) -> list[str]:
        """What was asked of the server."""
        self.server.asked.clear()
        asyncio.run(self.rounds.round())
        return list(self.server.asked)

    def reason(self, path: str) -> str:
        """That of the last status written for an object."""
        said = [
            change["status"]["conditions"][0]["reason"]
            for where, change in self.api.written
            if where == f"{path}/status" and "conditions" in change["status"]
        ]
        return said[-1] if said else ""


@pytest.fixture
def world() -> World:
    return World()


def custom(name: str, going: bool = False, generation: int = 1, **spec: Any) -> Custom:
    metadata = Metadata(
        name=name,
        uid=name,
        generation=generation,
        finalizers=(FINALIZER,),
        deletion_timestamp="now" if going else None,
    )
    return Custom(metadata=metadata, spec=spec)


def network(name: str = "red", **more: Any) -> Custom:
    return custom(name, ipv4="10.0.0.0/24", **more)


def pool(name: str, kind: str = "netspace", **more: Any) -> Custom:
    return custom(name, kind=kind, network="red", **{"size": 1, **more})


def test_networks_come_before_pools_and_outer_pools_before_nested_ones(world: World) -> None:
    world.declare(pool("a", "application", parent="z"), pool("z"), network())
    assert world.round() == ["network red", "pool z", "pool a"]
    assert world.round() == []


def test_nested_pools_go_before_outer_ones_and_networks_last(world: World) -> None:
    world.declare(pool("z", "application", parent="a"), pool("a"), network())
    world.round()
    world.declare(
        pool("z", "application", parent="a", going=True),
        pool("a", going=True),
        network(going=True),
    )
    assert world.round() == ["delete z", "delete a", "delete red"]
    gone = [path for path, change in world.api.written if "metadata" in change]
    assert gone == ["pools/z", "pools/a", "networks/red"]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [(Problem("no-space", "full"), "NoSpace"), (RuntimeError("a fault"), "Internal")],
)
def test_one_objects_failure_is_its_own(world: World, failure: Exception, reason: str) -> None:
    world.server.failing["a"] = failure
    world.declare(network(), pool("a"), pool("b"))
    assert world.round() == ["network red", "pool a", "pool b"]
    assert (world.reason("pools/a"), world.reason("pools/b")) == (reason, "AsDeclared")


def test_what_was_refused_waits_until_something_changes(world: World) -> None:
    world.server.failing["a"] = Problem("no-space", "full")
    world.declare(network(), pool("a"))
    world.round()
    assert world.round() == []
    world.declare(network(), pool("a", generation=2))
    assert world.round() == ["pool a"]
    assert world.round() == []
    world.declare(network(), pool("a", generation=2), pool("b"))
    assert world.round() == ["pool b"]
    assert world.round() == ["pool a"]


def test_what_was_refused_is_tried_again_by_and_by(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "RETRY", (0.0, 0.0))
    world.server.failing["a"] = Problem("no-space", "full")
    world.declare(network(), pool("a"))
    for _ in range(3):
        assert "pool a" in world.round()
    del world.server.failing["a"]
    world.round()
    assert world.reason("pools/a") == "AsDeclared"


def test_a_pool_in_use_keeps_its_object(world: World) -> None:
    world.declare(network(), pool("a"))
    world.round()
    world.server.failing["a"] = Problem("in-use", "1 address is in use")
    world.declare(network(), pool("a", going=True))
    world.round()
    assert world.reason("pools/a") == "InUse"
    assert not any("metadata" in change for _, change in world.api.written)


def test_what_is_peoples_is_not_deleted_with_the_object(world: World) -> None:
    world.declare(network(), pool("a"))
    world.round()
    world.server.carved["a"].owner = None
    world.declare(network(), pool("a", going=True))
    assert world.round() == []
    assert ("pools/a", {"metadata": {"resourceVersion": "", "finalizers": []}}) in (
        world.api.written
    )


def test_what_is_not_understood_is_not_asked_for(world: World) -> None:
    world.declare(network(), custom("a", kind="netspace", network="red"))
    assert world.round() == ["network red"]
    assert world.reason("pools/a") == "Invalid"
