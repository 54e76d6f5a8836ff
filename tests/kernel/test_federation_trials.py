"""`netspacectl federation status`, `verify`, `bench` and `diagnose` with the servers and the agents
of two clusters: real traffic over VXLAN, asked for at one cluster's server alone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest

from federation.client import Client
from netspace.messages.federation_trials import NewTrial, NodeTrial
from netspace.problems import Problem
from netspacectl.app import App
from netspacectl.main import run
from tests.federation_nodes import AgentNode, cut, mend, until
from tests.kernel.test_federation_agent import World, world

__all__ = ["world"]

FINE, WRONG, NOT_FOUND = 0, 5, 3


def said(world: World, *words: str, cluster: str = "east") -> tuple[int, str]:
    """Exit status and output of `netspacectl federation WORDS`."""
    url = world.servers[cluster].url
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        status = run(["federation", *words, "--federation-server", url], App())
    return status, output.getvalue()


def asked(world: World, *words: str, cluster: str = "east") -> tuple[int, Any]:
    status, text = said(world, *words, "-o", "json", cluster=cluster)
    return status, json.loads(text)


@pytest.fixture
def apart(world: World) -> Iterator[AgentNode]:
    """A node of west that the underlay does not reach."""
    node = world.of("west")[1]
    cut(node)
    try:
        one = world.of("east")[0]
        until(lambda: world.states(one).get(node.name) == "down", "told", [one])
        yield node
    finally:
        mend(node)
        until(world.all_up, "all paths are up", world.nodes)


def test_the_status_tells_members_tunnels_nodes_and_paths(world: World) -> None:
    until(lambda: "4/4" in said(world, "status")[1], "all tunnels are told")
    status, text = said(world, "status")
    assert status == FINE, text
    assert "f           west    homogeneous  yes" in text
    assert text.count("west/west-1") == 2
    status, found = asked(world, "status", "f", cluster="west")
    [peer] = found["federations"][0]["peers"]
    assert (status, peer["cluster"], peer["tunnels"]["up"]) == (FINE, "east", 4)
    assert abs(peer["clock"]) < 5
    assert said(world, "status", "other")[0] == NOT_FOUND


def test_verify_tries_all_paths_both_ways_and_pods_of_both(world: World) -> None:
    far, near = world.of("west")[0].pods[0], world.of("east")[0].pods[1]
    status, found = asked(world, "verify", "f", "west", "--to", far, "--to", near)
    assert status == FINE, found
    for way, source, pod in (("there", "east", far), ("back", "west", near)):
        direction = found[way]
        assert direction["source"] == source
        assert [node["node"] for node in direction["nodes"]] == [f"{source}-1", f"{source}-2"]
        for node in direction["nodes"]:
            assert [path["fails"] for path in node["verified"]] == ["", ""]
            assert [(each["pod"], each["ok"]) for each in node["pods"]] == [(pod, True)]


def test_verify_names_the_hop_that_fails(world: World, apart: AgentNode) -> None:
    status, text = said(world, "verify", "f", "west", "--node", "east-1")
    assert status == WRONG
    rows = [line.split() for line in text.splitlines()[1:]]
    results = {(row[0], row[1]): " ".join(row[2:5]) for row in rows}
    assert results["east/east-1", f"west/{apart.name}"] == "FAILS at gateway"
    assert results["east/east-1", "west/west-1"].startswith("ok")
    assert {row[0] for row in rows} == {"east/east-1", "west/west-1", "west/west-2"}
    status, text = said(world, "diagnose")
    assert status == WRONG
    assert f"cluster west, node {apart.name}" in text
    assert "path" in text.splitlines()[1].split()


def test_verify_names_a_pod_that_does_not_answer(world: World) -> None:
    nobody = world.of("west")[0].pods[0].rsplit(".", 1)[0] + ".77"
    pod = world.of("west")[0].pods[0]
    words = ("verify", "f", "west", "--one-way", "--to", nobody, "--to", f"{pod}:81")
    status, found = asked(world, *words)
    assert status == WRONG and found["back"] is None
    for node in found["there"]["nodes"]:
        silent, refused = node["pods"]
        assert silent["pod"] == nobody and "does not answer to ping" in silent["found"]
        assert refused["pod"] == f"{pod}:81" and "refused" in refused["found"]


def test_a_bench_says_what_arrived_of_the_load(world: World) -> None:
    words = ("bench", "f", "west", "--seconds", "0.5s", "--rate", "8", "--node", "east-1")
    found: dict[str, Any] = {}

    def most_arrived() -> bool:
        """A machine that stands still for the half second loses what was under way."""
        status, answer = asked(world, *words)
        assert status == FINE, answer
        found.update(answer)
        [node] = found["there"]["nodes"]
        return all(0.5 * path["asked"] < path["got"] for path in node["benched"])

    until(most_arrived, "most of the load arrived", world.nodes)
    [node] = found["there"]["nodes"]
    assert len(node["benched"]) == 2
    for path in node["benched"]:
        assert path["size"] == 1450
        assert path["got"] <= path["asked"]
        assert path["asked"] < 9e6
        assert 0 < path["rtt"] < 1
    assert [each["node"] for each in found["back"]["nodes"]] == ["west-1", "west-2"]


def test_nothing_is_wrong_where_all_is_well(world: World) -> None:
    until(
        lambda: said(world, "diagnose") == (FINE, "nothing is wrong\n"),
        "nothing is wrong",
        world.nodes,
    )


def test_a_trial_is_one_at_a_time_and_of_paths_that_there_are(world: World) -> None:
    def begin(new: NewTrial) -> str:
        found = world.ask("east", lambda client: client.begin_trial("east", "f", new))
        return found.id

    for new, why in (
        (NewTrial(cluster="east"), "no other member"),
        (NewTrial(cluster="north"), "no other member"),
        (NewTrial(cluster="west", nodes=["nobody"]), "does not speak"),
    ):
        with pytest.raises(Problem, match=why):
            begin(new)
    first = begin(NewTrial(cluster="west"))
    with pytest.raises(Problem) as caught:
        begin(NewTrial(cluster="west"))
    assert caught.value.code == "busy"

    def late(client: Client) -> Any:
        return client.tell_trial("east", "west-1", first, NodeTrial(node="west-1"))

    with pytest.raises(Problem, match="takes part in"):
        world.ask("east", late)

    def over() -> bool:
        return world.ask("east", lambda client: client.trial("east", "f", first)).done

    until(over, "over")
