"""The agents of two clusters with different CNIs, over real IPsec: agents that restart, a gateway
that fails while flows run, one that lost its states, and what people ask them.

That pods reach one another and what fits a path is in `test_federation_complaints.py`.
"""

from __future__ import annotations

import io
import itertools
import json
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from typing import TypeVar

import pytest

from federation.client import Client
from hostnet import Net, run_in, xfrm
from lab import charon
from lab.etcd import Etcd
from lab.federation_server import FederationServer
from netspace.messages.federating import JoinFederation, Local, NewFederation
from netspace.messages.federation_node import PathStatus
from netspacectl import main as ctl
from netspacectl.app import App
from tests.federation_nodes import PREFIX, AgentNode, cut, mend, nodes, reaches, until

pytestmark = pytest.mark.skipif(bool(xfrm.esp_missing()), reason="needs ESP: the lab kernel has it")

T = TypeVar("T")
NETS = {"north": 1, "south": 2}
COUNTS = {"north": 1, "south": 2}
RANGES = {name: [f"10.{net}.0.0/16", f"fd10:{net}::/32"] for name, net in NETS.items()}
PATIENCE = 30.0
"""Seconds that a server may take for an answer."""
FLOWS, TICK, QUIET = 8, 0.04, 2.0
GAP = 10.0
"""Seconds that flows of a gateway which fails may be without an answer: the lab kernel may have to
share its only processor with other tests. The bench measures what it takes."""


class World:
    def __init__(self, made: list[AgentNode], servers: dict[str, FederationServer]) -> None:
        self.north, *self.south = made
        self.nodes, self.servers = made, servers

    def ask(self, cluster: str, question: Callable[[Client], Awaitable[T]]) -> T:
        return self.servers[cluster].ask(question, PATIENCE)

    def ready(self) -> bool:
        return all(server.ready(PATIENCE) for server in self.servers.values())

    def join(self) -> None:
        new = NewFederation(name="f", local=Local(ranges=RANGES["north"]))
        self.ask("north", lambda client: client.found("north", new))
        token = self.ask("north", lambda client: client.token("north", "f", 600)).token
        join = JoinFederation(token=token, local=Local(ranges=RANGES["south"]))
        self.ask("south", lambda client: client.join("south", join))

    def paths(self, node: AgentNode) -> list[PathStatus]:
        if not node.answers():
            return []
        return [
            path
            for federation in node.status().federations
            for peer in federation.peers
            for path in peer.paths
        ]

    def shares(self) -> list[int]:
        """Buckets of the gateways in the south, the fewest first."""
        return sorted(path.buckets for path in self.paths(self.north))

    def all_reach(self) -> bool:
        pairs = [(self.north, other) for other in self.south]
        pairs += [(other, one) for one, other in pairs]
        return all(reaches(one, address) for one, other in pairs for address in other.pods)

    def all_usable(self) -> bool:
        wanted = {node.name: 1 if node.cluster == "south" else 2 for node in self.nodes}
        found = {node.name: [p for p in self.paths(node) if p.usable] for node in self.nodes}
        return all(len(found[name]) == count for name, count in wanted.items()) and all(
            part.rounds and not part.error for node in self.nodes for part in node.status().parts
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("federation")
    with ExitStack() as stack:
        etcd = stack.enter_context(Etcd(folder / "etcd"))
        servers = {}
        for name in NETS:
            (folder / name).mkdir()
            servers[name] = FederationServer(
                folder / name, etcd.url, name, cni=f"cni-{name}", leader_ttl=10
            ).start()
            stack.callback(servers[name].end)
        clusters = {name: (net, servers[name].url) for name, net in NETS.items()}
        made = stack.enter_context(nodes(folder, clusters, COUNTS))
        for node in made:
            node.settings = {"cni": {"name": f"cni-{node.cluster}"}}
            node.configure()
            stack.callback(kill, start_charon(node))
            node.start()
        world = World(made, servers)
        until(world.ready, "ready")
        world.join()
        until(world.all_usable, "all tunnels are up", made)
        until(world.all_reach, "all pods reach one another", made)
        yield world


def said(world: World, *words: str) -> tuple[int, str]:
    """Exit status and output of `netspacectl federation WORDS`, asked in the north."""
    url, output = world.servers["north"].url, io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        status = ctl.run(["federation", *words, "--federation-server", url], App())
    return status, output.getvalue()


def start_charon(node: AgentNode) -> subprocess.Popen[bytes]:
    folder = node.folder
    return charon.start(PREFIX + node.name, folder / "run" / "charon.vici", folder / "charon.log")


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


class Echoes:
    """Flows from one pod to another that echoes them, a datagram each at every tick."""

    def __init__(self, here: AgentNode, there: AgentNode) -> None:
        self._stack = ExitStack()
        self._echo = self._socket(there, there.pods[0], 9000)
        self._flows = [self._socket(here, here.pods[0], 9100 + at) for at in range(FLOWS)]
        self._target = (there.pods[0], 9000)
        self._stop = threading.Event()
        self.answered: list[list[float]] = [[] for _ in range(FLOWS)]
        self.waiting: list[set[int]] = [set() for _ in range(FLOWS)]
        self.sent = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Echoes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._stack.close()

    def lost(self) -> list[list[int]]:
        """Of each flow the ticks without an answer, once it has ended."""
        return [sorted(waiting) for waiting in self.waiting]

    def gaps(self) -> list[float]:
        """Of each flow the longest time between two answers."""
        return [
            max((b - a for a, b in itertools.pairwise(got)), default=0.0) for got in self.answered
        ]

    def all_answered(self) -> bool:
        """Whether each flow had an answer within the last half a second."""
        now = time.monotonic()
        return all(got and now - got[-1] < 0.5 for got in self.answered)

    def _socket(self, node: AgentNode, address: str, port: int) -> socket.socket:
        def make(_: object) -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            made.bind((address, port))
            return made

        return self._stack.enter_context(run_in(node.pod, make))

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            if time.monotonic() >= due:
                due += TICK
                self._send()
            self._take(max(0.0, min(due - time.monotonic(), TICK)))
        while any(self.waiting) and self._take(QUIET):
            pass

    def _send(self) -> None:
        for waiting, flow in zip(self.waiting, self._flows, strict=True):
            waiting.add(self.sent)
            with suppress(OSError):
                flow.sendto(struct.pack("!I", self.sent), self._target)
        self.sent += 1

    def _take(self, wait: float) -> bool:
        """Takes what comes within `wait` seconds; whether anything came."""
        ready, _, _ = select.select([self._echo, *self._flows], [], [], wait)
        for each in ready:
            with suppress(OSError):
                while True:
                    data, sender = each.recvfrom(64)
                    if each is self._echo:
                        each.sendto(data, sender)
                    else:
                        at = self._flows.index(each)
                        self.waiting[at].discard(*struct.unpack("!I", data))
                        self.answered[at].append(time.monotonic())
        return bool(ready)


def test_agents_that_restart_disturb_no_flow(world: World) -> None:
    target = world.south[1]
    with Echoes(world.north, target) as echoes:
        time.sleep(1)
        for node in (world.north, target):
            node.end()
            node.start()
        until(world.all_usable, "usable", world.nodes)
        time.sleep(1)
    assert echoes.lost() == [[]] * FLOWS


def test_people_have_every_tunnel_tried_both_ways_by_their_server(world: World) -> None:
    until(world.all_usable, "all tunnels are up", world.nodes)
    pod = world.south[0].pods[0]
    status, text = said(world, "verify", "f", "south", "--to", pod, "-o", "json")
    assert status == 0, text
    found = json.loads(text)
    [north] = found["there"]["nodes"]
    assert {path["node"]: path["fails"] for path in north["verified"]} == {
        node.name: "" for node in world.south
    }
    assert [each["pod"] for each in north["pods"] if each["ok"]] == [pod]
    assert [node["node"] for node in found["back"]["nodes"]] == [n.name for n in world.south]


def test_people_have_every_tunnel_carry_a_load(world: World) -> None:
    words = ("--seconds", "1", "--rate", "1", "--one-way", "-o", "json")
    status, text = said(world, "bench", "f", "south", *words)
    assert status == 0, text
    [north] = json.loads(text)["there"]["nodes"]
    assert len(north["benched"]) == 2
    assert all(path["got"] > 0 and path["rtt"] > 0 for path in north["benched"])


def test_a_gateway_that_lost_its_states_unnoticed_gets_new_ones(world: World) -> None:
    """Its charon does not know, nor does the one that brought the tunnel up."""
    south, gateway = world.south[0], world.north
    until(lambda: states(world, south) == ["up"], "it answers", [south])
    forget(gateway, south)
    until(lambda: states(world, south) == ["down"], "silent", [south])
    until(lambda: states(world, south) == ["up"], "it answers again", [south])
    assert "it gets new keys" in south.log.read_text()


def states(world: World, node: AgentNode) -> list[str]:
    return [path.state for path in world.paths(node)]


def forget(node: AgentNode, other: AgentNode) -> None:
    """Deletes the states by which a node takes what comes from the other."""

    def job(net: Net) -> None:
        wanted = [s for s in xfrm.list_states(net) if str(s.source) in other.underlay]
        xfrm.delete_states(net, wanted)

    run_in(node.netns, job)


def test_flows_of_a_gateway_that_fails_move_and_the_others_lose_nothing(world: World) -> None:
    failing, target = world.south
    until(lambda: world.shares() == [32, 32], "both gateways have flows", world.nodes)
    with Echoes(world.north, target) as echoes:
        until(echoes.all_answered, "all flows are answered", [world.north])
        cut(failing)
        try:
            until(lambda: world.shares() == [0, 64], "moved", [world.north])
            until(echoes.all_answered, "all flows are answered again", [world.north])
        finally:
            mend(failing)
    gaps, lost = echoes.gaps(), echoes.lost()
    print(f"gaps {[round(gap, 2) for gap in gaps]}")
    moved = [at for at in range(FLOWS) if lost[at]]
    assert 0 < len(moved) < FLOWS, f"some took either gateway; lost: {lost}"
    assert max(gaps) <= GAP, gaps


def test_leaving_takes_policies_tunnels_and_rules_off_the_node(world: World) -> None:
    node = world.north
    assert run_in(node.netns, xfrm.list_policies)
    node.end()
    code, said = node.ask("leave")
    assert code == 0, said
    assert run_in(node.netns, xfrm.list_policies) == []
    assert run_in(node.netns, xfrm.list_states) == []
