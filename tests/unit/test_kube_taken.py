"""What a pod is told of an address that it asks for in vain, and how often."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam_server.client import Client
from kube_controller import events, holders, taken
from kube_controller.holders import Holders
from kube_controller.kinds import Involved, Metadata, Pod, PodEvent, PodStatus
from kube_controller.taken import PAUSE, Look
from netspace.kube_api import ApiError, KubeApi
from netspace.messages import AddressEntry, AddressHistory, Pool, Selection, Tenancy
from netspace.problems import Problem

ADDRESS = "10.91.0.30"
SINCE = "2026-01-02T03:04:05+00:00"


def pod(uid: str = "u-asks", phase: str = "Pending", going: bool = False, **ours: str) -> Pod:
    annotations = {f"ipam.com/{key}": value for key, value in (ours or {"ip": ADDRESS}).items()}
    return Pod(
        metadata=Metadata(
            name="asks",
            namespace="shop",
            uid=uid,
            annotations=annotations,
            deletion_timestamp="now" if going else None,
        ),
        status=PodStatus(phase),
    )


def event(version: str = "1", uid: str = "u-asks", name: str = "asks") -> PodEvent:
    metadata = Metadata(name=f"{name}.1", namespace="shop", resource_version=version)
    return PodEvent(metadata=metadata, involved_object=Involved(name, uid))


def entry(state: str = "used", **changed: Any) -> AddressEntry:
    fields: dict[str, Any] = {
        "network": "red", "slot": "30", "ipv4": ADDRESS, "ipv6": None, "state": state,
        "pool": "a", "node": "node1", "namespace": "shop", "pod": "fixed", "uid": "u-has",
        "container": "c", "ifname": "eth0",
    }  # fmt: skip
    return msgspec.convert({**fields, **changed}, AddressEntry)


def pool(name: str = "a", kind: str = "netspace", *namespaces: str) -> Pool:
    fields: dict[str, Any] = {
        "name": name, "revision": 1, "kind": kind, "network": "red", "parent": None,
        "ranges": [f"{ADDRESS}"], "namespaces": list(namespaces or ("shop",)), "cooldown": 1,
        "retention": 0, "elastic": None, "replicas": None, "surplus": 0, "size": "1", "used": 1,
        "cooling": 0, "retained": 0, "free": "0", "never": "0",
    }  # fmt: skip
    return msgspec.convert(fields, Pool)


def told(seen: AddressEntry, asks: Pod | None = None, within: Pool | None = None) -> str | None:
    """What the pod is told of what the server says."""
    asks = asks or pod()
    selection = taken.wish(event(), asks)
    assert selection is not None
    sight = taken.sight(asks, selection, seen, within or pool())
    return taken.message(sight, asks, selection, seen, SINCE) if sight else None


def test_a_holder_of_the_same_namespace_is_named_in_full() -> None:
    assert told(entry()) == (
        f"{ADDRESS} is held by shop/fixed (UID u-has) on node node1 since {SINCE}"
    )


@given(
    namespace=st.none() | st.sampled_from(["bank", "shopping"]),
    state=st.sampled_from(["used", "reserved"]),
)
def test_of_others_a_namespace_learns_only_that_they_have_it(
    namespace: str | None, state: str
) -> None:
    seen = entry(state, namespace=namespace, pod="vault", uid="u-9", node="node9", note="secret")
    said = told(seen)
    assert said is not None and said.startswith(f"{ADDRESS} is ")
    for hidden in ("bank", "shopping", "vault", "u-9", "node9", "secret", SINCE):
        assert hidden not in said


def test_a_reservation_is_called_one() -> None:
    assert f"{ADDRESS} is reserved" in str(told(entry("reserved", namespace=None)))


@pytest.mark.parametrize("state", ["cooling", "retained", "free", "never"])
def test_nothing_is_told_of_an_address_that_nobody_holds(state: str) -> None:
    assert told(entry(state)) is None


def test_nothing_is_told_to_who_has_got_it_meanwhile() -> None:
    assert told(entry(uid="u-asks")) is None


def test_nothing_is_told_of_what_the_pod_could_not_have_anyway() -> None:
    """Whoever may write events could ask for all there is."""
    assert told(entry(), within=pool("a", "netspace", "bank")) is None
    assert told(entry(), pod(ip=ADDRESS, netspace="b")) is None
    assert told(entry(), pod(ip=ADDRESS, netspace="a")) is not None
    assert told(entry(), within=pool("a", "default", "bank")) is not None
    assert taken.sight(pod(), Selection(ip=(ADDRESS,)), entry(pool=None), None) is None


def test_a_pod_that_is_another_one_gone_or_asks_for_none_wishes_nothing() -> None:
    assert taken.wish(event(uid="u-before"), pod()) is None
    assert taken.wish(event(), pod(going=True)) is None
    assert taken.wish(event(), pod(phase="Failed")) is None
    assert taken.wish(event(), pod(netspace="a")) is None
    assert taken.wish(event(), pod(ip="nonsense")) is None
    assert taken.wish(event(uid=""), pod()) == Selection(ip=(ADDRESS,))


def test_the_beginning_is_the_present_holders() -> None:
    def tenancy(since: str, until: str | None, container: str) -> Tenancy:
        return Tenancy(since=since, until=until, container=container, ifname="eth0", uid="u-has")

    def history(*items: Tenancy) -> AddressHistory:
        return AddressHistory(network="red", slot="30", ipv4=None, ipv6=None, items=[*items])

    now, before = tenancy(SINCE, None, "c"), tenancy("earlier", "then", "c")
    assert taken.since(entry(), history(now, before)) == SINCE
    assert taken.since(entry(), history(before)) is None
    assert taken.since(entry(), history(tenancy(SINCE, None, "another"))) is None


def test_an_event_is_looked_at_when_it_is_new_and_when_it_changed_after_a_pause() -> None:
    found = {"shop/asks.1": event("2")}
    assert taken.due(found, {}, 0) == ["shop/asks.1"]
    assert taken.due(found, {"shop/asks.1": Look("2", 0)}, PAUSE) == []
    assert taken.due(found, {"shop/asks.1": Look("1", 0)}, PAUSE - 1) == []
    assert taken.due(found, {"shop/asks.1": Look("1", 0)}, PAUSE) == ["shop/asks.1"]


class Server:
    """A server that has one address, and notes whose network it was asked for."""

    def __init__(self) -> None:
        self.has = entry()
        self.networks: list[str | None] = []
        self.fails: Problem | None = None

    async def pool(self, cluster: str, name: str) -> Pool:
        return pool(name)

    async def address(self, cluster: str, address: str, network: str | None) -> AddressEntry:
        self.networks.append(network)
        if self.fails is not None:
            raise self.fails
        return self.has

    async def address_history(self, cluster: str, address: str, network: str) -> AddressHistory:
        held = Tenancy(since=SINCE, until=None, container="c", ifname="eth0", uid=self.has.uid)
        return AddressHistory(network=network, slot="30", ipv4=None, ipv6=None, items=[held])


class Api:
    """An API with pods by their path; notes what is said."""

    def __init__(self) -> None:
        self.pods = {"/api/v1/namespaces/shop/pods/asks": pod()}
        self.said: list[str] = []

    async def get(self, path: str, kind: type[Pod]) -> Pod:
        if path not in self.pods:
            raise ApiError(404, "no such pod")
        return self.pods[path]

    async def create(self, path: str, body: dict[str, Any], kind: type[object]) -> None:
        assert path == "/api/v1/namespaces/shop/events"
        assert body["involvedObject"]["uid"] == "u-asks"
        self.said.append(body["message"])


class World:
    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.server, self.api, self.now = Server(), Api(), 0.0
        self.found = {"shop/asks.1": event()}
        patch.setattr(holders, "monotonic", lambda: self.now)
        self._holders = Holders(
            cast(Client, self.server), "east", cast(KubeApi, self.api), lambda: self.found
        )

    def look(self, version: str, passed: float = PAUSE) -> int:
        """How much has been said after the event has come again."""
        self.now += passed
        self.found["shop/asks.1"] = event(version)
        asyncio.run(self._holders.look())
        return len(self.api.said)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_a_pod_is_told_of_a_holder_once_and_of_another_one_again(world: World) -> None:
    assert [world.look("1"), world.look("2"), world.look("3")] == [1, 1, 1]
    world.server.has = entry(pod="other", uid="u-other")
    assert world.look("4") == 2
    assert "shop/other (UID u-other)" in world.api.said[-1]


def test_before_the_api_forgets_the_event_it_is_told_again(world: World) -> None:
    assert world.look("1") == 1
    assert world.look("2", events.AGAIN) == 2
    assert world.api.said[0] == world.api.said[1]


def test_what_comes_again_at_once_asks_nobody(world: World) -> None:
    world.look("1")
    world.look("2", 1)
    assert len(world.server.networks) == 1


def test_a_pod_that_names_its_pool_means_the_pools_network(world: World) -> None:
    world.api.pods["/api/v1/namespaces/shop/pods/asks"] = pod(ip=ADDRESS, netspace="a")
    assert world.look("1") == 1
    assert world.server.networks == ["red"]


def test_a_server_that_is_away_is_asked_again_for_the_same_event(world: World) -> None:
    world.server.fails = Problem("unavailable", "no server answered")
    with pytest.raises(Problem):
        world.look("1")
    world.server.fails = None
    assert world.look("1", 0) == 1


def test_one_event_that_leads_nowhere_does_not_stop_the_others(world: World) -> None:
    world.found = {"shop/lost.1": event(name="lost"), **world.found}
    assert world.look("1") == 1
    world.server.fails = Problem("invalid", "10.91.0.30 is in several networks")
    assert world.look("2") == 1
