"""The federation agents of two clusters with one CNI: real servers over etcd, real VXLAN and
probes, pings between pods that must not be lost.
"""

from __future__ import annotations

import json
import signal
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

import hostnet
from federation.client import Client
from hostnet import run_in
from lab.etcd import Etcd
from lab.federation_server import HASTY, FederationServer
from netspace.messages.federating import JoinFederation, Local, NewFederation, NodeStatus
from netspace.messages.federation import Settings
from netspace.problems import Problem
from tests.federation_nodes import AgentNode, Pinging, cut, mend, nodes, reaches, until

T = TypeVar("T")
NETS = {"east": 1, "west": 2}
SETTINGS = Settings(probe=0.1, losses=3)


class World:
    """Four nodes, two of each cluster, and a server for each cluster."""

    def __init__(self, made: list[AgentNode], servers: dict[str, FederationServer]) -> None:
        self.nodes, self.servers = made, servers

    def of(self, cluster: str) -> list[AgentNode]:
        return [node for node in self.nodes if node.cluster == cluster]

    def ask(self, cluster: str, question: Callable[[Client], Awaitable[T]]) -> T:
        return self.servers[cluster].ask(question)

    def ready(self) -> bool:
        return all(server.ready() for server in self.servers.values())

    def join(self) -> None:
        """East founds the federation f, west joins."""
        local = {name: Local(ranges=list(RANGES[name])) for name in NETS}
        new = NewFederation(name="f", local=local["east"], settings=SETTINGS)
        self.ask("east", lambda client: client.found("east", new))
        self.join_west()

    def join_west(self) -> None:
        token = self.ask("east", lambda client: client.token("east", "f", 60)).token
        join = JoinFederation(token=token, local=Local(ranges=list(RANGES["west"])))
        self.ask("west", lambda client: client.join("west", join))

    def node(self, node: AgentNode) -> NodeStatus | None:
        """What a node's server was told by it; None also while that server cannot say."""
        try:
            told = self.ask(node.cluster, lambda client: client.status(node.cluster))
        except Problem:
            return None
        return next((each for each in told.nodes if each.node == node.name), None)

    def states(self, node: AgentNode) -> dict[str, str]:
        """By the other end's name how its paths are."""
        told = self.node(node)
        return {} if told is None else {path.node: path.state for path in told.paths}

    def all_reach(self) -> bool:
        return all(
            reaches(one, address)
            for one in self.of("east")
            for other in self.of("west")
            for address in other.pods
        )

    def all_up(self) -> bool:
        return all(list(self.states(node).values()) == ["up", "up"] for node in self.nodes)


RANGES = {name: (f"10.{net}.0.0/16", f"fd10:{net}::/32") for name, net in NETS.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("federation")
    with ExitStack() as stack:
        etcd = stack.enter_context(Etcd(folder / "etcd"))
        servers = {}
        for name in NETS:
            (folder / name).mkdir()
            servers[name] = FederationServer(
                folder / name, etcd.url, name, cni="bridge", **HASTY | {"leader_ttl": 10}
            ).start()
            stack.callback(end, servers[name])
        clusters = {name: (net, servers[name].url) for name, net in NETS.items()}
        made = stack.enter_context(nodes(folder, clusters, dict.fromkeys(NETS, 2)))
        for node in made:
            node.start()
        world = World(made, servers)
        until(world.ready, "ready")
        world.join()
        until(world.all_up, "all paths are up", made)
        until(world.all_reach, "all pods reach one another", made)
        yield world


def end(server: FederationServer, number: signal.Signals = signal.SIGTERM) -> None:
    if server.running:
        server.end(number)


def test_a_node_says_what_it_is_and_what_it_can(world: World) -> None:
    node = world.nodes[0]
    told = world.node(node)
    assert told is not None
    assert told.addresses == list(node.underlay)
    assert {"vxlan", "ipv6"} <= set(told.capabilities)
    assert (told.cni, told.down) == ("bridge", None)
    # In distributed layout every node that can.
    assert told.gateway is ("ipsec" in told.capabilities) is node.status().gateway


def test_every_path_is_probed_and_its_round_trip_and_mtu_are_told(world: World) -> None:
    node = world.nodes[0]

    def measured() -> bool:
        told = world.node(node)
        return told is not None and all(path.mtu and path.rtt for path in told.paths)

    until(measured, "measured", [node])
    told = world.node(node)
    assert told is not None and {path.mtu for path in told.paths} == {1450}


def test_a_node_makes_its_key_and_has_it_signed(world: World) -> None:
    node = world.nodes[0]
    folder = node.folder / "state" / "certificates" / "f"
    assert stat.S_IMODE((folder / "node.key").stat().st_mode) == 0o600
    [federation] = node.status().federations
    assert federation.certificate_until is not None
    key = (folder / "node.key").read_bytes()
    assert key not in (world.servers["east"].folder / "log").read_bytes()


def test_an_agent_that_restarts_loses_no_packet(world: World) -> None:
    one, other = world.of("east")[0], world.of("west")[0]
    pinging = [Pinging(one, other.pods[0]), Pinging(one, other.pods[1])]
    for node in (one, other):
        assert node.end() == 0
        node.start()
    until(lambda: one.answers() and len(one.status().federations) == 1, "it is back", [one])
    until(lambda: world.states(one).get(other.name) == "up", "its paths are up", [one])
    assert [each.lost() for each in pinging] == [0, 0]


def test_a_node_that_starts_without_its_server_goes_on_with_what_it_knew(world: World) -> None:
    one, other = world.of("east")[0], world.of("west")[0]
    pinging = Pinging(one, other.pods[0])
    server = world.servers["east"]
    end(server, signal.SIGKILL)
    assert one.end() == 0
    one.start()
    until(lambda: one.answers() and len(one.status().federations) == 1, "known", [one])
    status = one.status()
    assert status.server != "" and status.view_age is None
    assert any(each.cause == "server" for each in one.diagnosis())
    assert pinging.lost() == 0
    server.start()
    until(lambda: one.status().server == "", "the server is there again", [one])
    until(world.all_up, "all paths are up", [one])


def test_a_deleted_device_is_made_again(world: World) -> None:
    one, other = world.of("east")[0], world.of("west")[0]
    [device] = devices(one)
    run_in(one.netns, lambda net: hostnet.delete_link(net, device))
    until(lambda: reaches(one, other.pods[0]), "repaired", [one])


def test_a_node_that_is_cut_off_is_told_and_comes_back(world: World) -> None:
    one, (near, other) = world.of("east")[0], world.of("west")
    cut(other)
    try:
        until(lambda: world.states(one).get(other.name) == "down", "told", [one])
        found = {path.node: path.fails for path in one.verified("f", "west")}
        assert found == {near.name: "", other.name: "gateway"}
        assert reaches(one, near.pods[0]), "the others are as they were"
    finally:
        mend(other)
    until(lambda: world.states(one).get(other.name) == "up", "its path is up", [one, other])
    until(lambda: reaches(one, other.pods[0]), "back", [one, other])


def test_a_cluster_that_nobody_reaches_keeps_its_routes_and_comes_back(world: World) -> None:
    one, away = world.of("east")[0], world.of("west")
    end(world.servers["west"], signal.SIGKILL)
    for node in away:
        cut(node)
    until(lambda: set(world.states(one).values()) == {"down"}, "told", [one])
    assert devices(one), "what was known of it stands"
    for node in away:
        mend(node)
    world.servers["west"].start()
    until(world.all_up, "all paths are up", world.nodes)
    assert world.all_reach()


def test_a_member_that_leaves_takes_its_routes_with_it_and_can_join_again(world: World) -> None:
    one = world.of("east")[0]
    world.ask("west", lambda client: client.leave("west", "f"))
    until(lambda: not any(map(devices, world.nodes)), "gone", world.nodes)
    assert [each.protocol for each in run_in(one.netns, hostnet.list_routes)].count(78) == 0
    until(lambda: not any(map(world.states, world.nodes)), "told", world.nodes)
    world.join_west()
    until(world.all_up, "all paths are up", world.nodes)
    assert world.all_reach()


def test_the_metrics_tell_of_the_mesh(world: World) -> None:
    one = world.of("east")[0]
    said = one.metrics()
    labels = 'cluster="west",federation="f",state="up"'
    assert f"netspace_federation_mesh_paths{{{labels}}} 2.0" in said, said
    assert 'netspace_federation_mesh_mtu_bytes{cluster="west",federation="f"} 1450.0' in said


def test_the_socket_is_roots_alone(world: World) -> None:
    one = world.of("east")[0]
    assert stat.S_IMODE((one.folder / "run" / "federation-agent.sock").stat().st_mode) == 0o600


def test_people_can_ask_by_the_command(world: World) -> None:
    one = world.of("east")[0]
    code, said = one.ask("status")
    assert code == 0 and "cluster west, homogeneous: 2 up" in said, said
    code, said = one.ask("verify", "f", "west", "nobody")
    assert code == 1 and "no path to nobody" in said


def test_leaving_takes_all_of_it_off_the_node(world: World, tmp_path: Path) -> None:
    node = world.of("west")[1]
    code, said = node.ask("leave")
    assert code == 1 and "stop it first" in said
    assert node.end() == 0
    assert devices(node), "stopping leaves everything"
    code, said = node.ask("leave")
    assert code == 0, said
    links = {link.name for link in run_in(node.netns, hostnet.list_links)}
    assert links == {"lo", "port", "pod0"}
    routes = run_in(node.netns, hostnet.list_routes)
    assert not [each for each in routes if each.protocol == 78]
    left = {file.name for file in (node.folder / "state").rglob("*") if file.is_file()}
    assert left == set()
    assert world.node(node) is None, "the server forgot it"


def test_a_configuration_that_contradicts_itself_is_refused(world: World, tmp_path: Path) -> None:
    one = world.of("east")[0]
    config = json.loads(one.config.read_text())
    one.config.write_text(json.dumps({**config, "pods": {"ranges": "kubernetes"}, "typo": 1}))
    try:
        code, said = one.ask("--check")
    finally:
        one.config.write_text(json.dumps(config))
    assert code == 2 and "typo: there is no such key" in said


def devices(node: AgentNode) -> list[str]:
    links = run_in(node.netns, hostnet.list_links)
    return [link.name for link in links if link.name.startswith("nsf")]
