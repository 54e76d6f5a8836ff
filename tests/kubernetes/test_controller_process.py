"""A controller lives through whatever happens to the API, to the server and to itself."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import pytest

from lab.server import until
from tests.kubernetes.apiserver import Refused
from tests.kubernetes.controllers import CLUSTER, DURATION, LEASE, ControllerProcess, World, asked


@pytest.fixture
def world(controlled: World) -> World:
    """Shared with others: whoever stops a part of it starts it again."""
    return controlled


def lease(world: World) -> dict[str, Any]:
    path = f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{LEASE}"
    found: dict[str, Any] = world.apiserver.ask("GET", path)["spec"]
    return found


def test_it_says_that_it_lives_and_what_it_does(world: World) -> None:
    world.apply(world.network("signs", ipv4="10.101.0.0/24"))
    world.wait_ready("network", "signs")
    port = world.controller.port
    assert json.loads(asked(port, "/healthz")) == {"leading": True}
    until(lambda: "leading" in asked(port, "/readyz"), "ready")
    metrics = asked(port, "/metrics")
    assert "netspace_controller_leading 1.0" in metrics
    assert 'netspace_controller_changes_total{kind="network"}' in metrics
    assert 'netspace_controller_watch_events_total{resource="pools",what="list"}' in metrics


def test_a_server_that_is_away_is_said_and_waited_for(world: World) -> None:
    world.server.end(signal.SIGKILL)
    world.apply(world.network("away", ipv4="10.102.0.0/24"))

    def why() -> str:
        conditions = world.status("network", "away").get("conditions", [])
        return next((each["reason"] for each in conditions if each["status"] == "Unknown"), "")

    until(lambda: why() == "Unavailable", "it is said")
    world.server.start()
    world.wait_ready("network", "away")


def test_an_api_that_was_away_is_followed_again(world: World) -> None:
    world.apiserver.kill()
    world.apiserver.start()
    world.apply(world.network("back", ipv4="10.103.0.0/24"))
    world.wait_ready("network", "back")


def test_one_of_two_works_and_the_other_takes_over(world: World) -> None:
    folder = world.controller.folder.parent / "second"
    folder.mkdir()
    second = ControllerProcess(folder, world.apiserver, world.server.url)
    second.start()
    try:
        second.wait_until(lambda: second.said("not leading"), "waiting")
        world.controller.end(signal.SIGKILL)
        second.wait_until(lambda: second.said("leading"), "leading")
        world.apply(world.network("second", ipv4="10.104.0.0/24"))
        world.wait_ready("network", "second")
        # Whoever is told to stop gives the lease up: nobody waits for its end.
        world.controller.start()
        began = lease(world)["leaseTransitions"]
        world.controller.wait_until(
            lambda: "leading" in asked(world.controller.port, "/healthz"), "serving"
        )
        assert second.end() == 0
        asked_at = time.monotonic()
        until(lambda: lease(world)["leaseTransitions"] == began + 1, "the other one leads")
        assert time.monotonic() - asked_at < DURATION - 0.5
    finally:
        if second.running:
            second.end(signal.SIGKILL)


def test_what_was_changed_while_nobody_worked_is_brought_there(world: World) -> None:
    world.apply(
        world.network("idle", ipv4="10.105.0.0/24"),
        world.pool("idle-a", "idle", size=8, namespaces=["a"]),
        world.pool("idle-b", "idle", size=8, namespaces=["a"]),
    )
    world.wait_ready("pool", "idle-a", "idle-b")
    assert world.controller.end() == 0
    world.apply(world.pool("idle-a", "idle", size=9, namespaces=["a"]))
    world.apiserver.kubectl("delete", "pool", "idle-b", "--wait=false")
    world.controller.start()
    world.wait_ready("pool", "idle-a")
    until(lambda: not world.found("pool", "idle-b"), "the other one is gone")
    assert world.ask(lambda client: client.pool(CLUSTER, "idle-a")).size == "9"


def test_kubernetes_refuses_what_the_server_would_refuse(world: World) -> None:
    for name, spec, why in (
        ("x", {"vlan": 5000, "ipv4": "10.106.0.0/24"}, "spec.vlan"),
        ("x", {"ipv4": "10.106.0.0"}, "spec.ipv4"),
        ("x", {"ipv4": "10.106.0.0/99"}, "spec.ipv4"),
        ("x", {"parent": ".."}, "spec.parent"),
        ("x", {}, "spec"),
        ("x" * 64, {"ipv4": "10.106.0.0/24"}, "metadata.name"),
        ("x", {"ipv4": "10.106.0.0/24", "gateway4": "300.1.1.1"}, "spec.gateway4"),
    ):
        with pytest.raises(Refused) as refused:
            world.apply(world.network("x") | {"metadata": {"name": name}, "spec": spec})
        assert refused.value.status == 422
        assert why in refused.value.said


def test_fields_that_nobody_names_have_the_servers_defaults(world: World) -> None:
    made = world.network("plain", ipv4="10.107.0.0/24")
    del made["spec"]["parent"]
    world.apply(made)
    spec = world.found("network", "plain")["spec"]
    assert (spec["parent"], spec["fabric"], spec["mapping"]) == ("bond0", "default", "offset")
