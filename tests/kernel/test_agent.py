"""The agent as a process: systemd's socket, restarts, bursts, what it does by itself, status."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from click.testing import CliRunner

import hostnet
from cni_plugins.agent_main import main
from hostnet import Net, Netns, run_in
from lab import programs
from netspace.messages import NewCluster
from netspace.problems import Problem
from tests.agents import SOCKET, RunningAgent, install_launchers, running_agent, wait_for
from tests.nodes import (
    Answer,
    IpamServer,
    Node,
    answer_of,
    declare,
    default_pool,
    dual_stack,
    links,
    pod_args,
    used,
)
from tests.wires import namespaces, wire

PODS = 16
BURST = 200
MOST_MIB = 90
_clusters = count(2)


@dataclass
class Place:
    """A node without an agent yet, and the server with its cluster."""

    server: IpamServer
    node: Node

    @property
    def used(self) -> int:
        return used(self.server, self.node.cluster)

    def reported(self) -> bool:
        """Whether the node has told the server of itself, which may just read its state anew."""
        try:
            nodes = self.server.ask(lambda client: client.nodes(self.node.cluster))
        except Problem:
            return False
        return any(node.name == self.node.name and node.reported for node in nodes)

    def begin(
        self, number: int, pod: Netns | None, command: str = "ADD"
    ) -> subprocess.Popen[bytes]:
        args = pod_args(f"web-{number}")
        return self.node.begin(command, f"c{number}", pod, self.node.conflist(), args=args)

    def delete(self, number: int, pod: Netns | None) -> Answer:
        return ended(self.begin(number, pod, "DEL"))


@pytest.fixture
def place(server: IpamServer, tmp_path: Path) -> Iterator[Place]:
    number = next(_clusters)
    cluster = f"cluster-{number}"
    declare(server, cluster, dual_stack(number), default_pool(PODS + 4))
    with namespaces(2) as (host, other):
        wire(host, "up0", other, "far0")
        yield Place(server, Node(host, tmp_path, cluster, server.url))


@pytest.fixture
def listener(place: Place) -> Iterator[socket.socket]:
    """The agent's socket, held as systemd holds it."""
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(place.node.folder / SOCKET))
        held.listen(1024)
        yield held


def ended(process: subprocess.Popen[bytes]) -> Answer:
    output, log = process.communicate(timeout=90)
    return answer_of(process.returncode, output, log)


def test_a_restart_in_the_midst_of_a_burst_loses_no_request(
    place: Place, listener: socket.socket
) -> None:
    install_launchers(place.node, at_once=2)
    agent = RunningAgent(place.node)
    agent.start(listener=listener)
    try:
        with namespaces(PODS) as pods:
            calls = [place.begin(number, pods[number]) for number in range(PODS // 2)]
            wait_for("some are given", lambda: place.used >= 2)
            assert agent.end() == 0
            # Nobody is there to take these.
            calls += [place.begin(number, pods[number]) for number in range(PODS // 2, PODS)]
            agent.start(listener=listener)
            agent.status()
            assert agent.end() == 0
            agent.start(listener=listener)
            answers = [ended(call) for call in calls]
            assert [answer.status for answer in answers] == [0] * PODS, answers
            assert [links(pod) for pod in pods] == [["eth0"]] * PODS
            assert place.used == PODS
            for number, pod in enumerate(pods):
                assert place.delete(number, pod).status == 0
    finally:
        agent.kill()


def test_an_agent_killed_in_the_midst_of_a_burst_is_cleaned_up_after(
    place: Place, listener: socket.socket
) -> None:
    install_launchers(place.node)
    agent = RunningAgent(place.node)
    agent.start(listener=listener)
    try:
        with namespaces(PODS) as pods:
            calls = [place.begin(number, pod) for number, pod in enumerate(pods)]
            wait_for("some are given", lambda: place.used >= 2)
            agent.kill()
            agent.start(listener=listener)
            for answer in map(ended, calls):
                assert answer.status == 0 or answer.json["code"] == 11, answer
            for number, pod in enumerate(pods):
                assert place.delete(number, pod).status == 0
            assert not any(links(pod) for pod in pods)
            wait_for("no file is left", lambda: place.node.files() == [])
            assert place.used == 0
    finally:
        agent.kill()


@pytest.mark.skipif(
    programs.lookup("systemd-socket-activate") is None,
    reason="needs systemd-socket-activate: ./run setup brings it",
)
def test_systemd_hands_its_socket_over_and_hears_how_the_agent_is(place: Place) -> None:
    install_launchers(place.node)
    news_path = place.node.folder / "notify.sock"
    path = place.node.folder / SOCKET
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as news, namespaces(1) as (pod,):
        news.bind(str(news_path))
        news.settimeout(20)
        settings = {"NOTIFY_SOCKET": str(news_path), "WATCHDOG_USEC": "200000"}
        agent = RunningAgent(place.node)
        given = [f"--setenv={name}={value}" for name, value in settings.items()]
        given += [f"--setenv=PATH={os.environ['PATH']}"]
        agent.command = ["systemd-socket-activate", f"--listen={path}", *given, *agent.command]
        agent.start()
        try:
            wait_for("the socket is there", path.exists)
            # The first connection starts the agent.
            assert ended(place.begin(0, pod)).status == 0
            assert news.recv(100) == b"READY=1"
            assert {news.recv(100) for _ in range(2)} == {b"WATCHDOG=1"}
            assert agent.end() == 0
            while (said := news.recv(100)) == b"WATCHDOG=1":
                pass
            assert said == b"STOPPING=1"
            assert path.exists()
            serving = [line for line in agent.messages() if line["message"] == "serving"]
            assert serving[0]["by_systemd"] is True
        finally:
            agent.kill()


def test_its_own_socket_is_roots_alone_and_goes_when_it_ends(place: Place) -> None:
    with running_agent(place.node) as agent:
        assert agent.path.stat().st_mode & 0o777 == 0o600
        second = RunningAgent(place.node)
        second.start()
        assert second.process is not None
        assert second.process.wait(20) == 1
        assert "another agent listens there" in agent.log.read_text()
        assert agent.end() == 0
        assert not agent.path.exists()
        agent.started()
        agent.kill()
        agent.started()


def test_a_burst_of_200_is_answered_within_bounded_memory(place: Place) -> None:
    with running_agent(place.node, at_once=8) as agent:
        gone = {"CNI_NETNS": "/var/run/netns/there-is-none"}
        conf = place.node.conflist(ballast="x" * 50_000)
        calls = [
            place.node.begin("ADD", f"c{number}", None, conf, environ=gone)
            for number in range(BURST)
        ]
        codes = {ended(call).json["code"] for call in calls}
        assert codes == {4}
        status = agent.status()
        assert status.calls["ADD"] == {"4": BURST}
        assert status.memory_mib < MOST_MIB
        assert (status.at_work, status.waiting) == (0, 0)


def test_a_call_whose_executable_is_killed_is_undone_without_a_del(place: Place) -> None:
    with running_agent(place.node) as agent, namespaces(1) as (pod,):
        place.server.etcd.pause()
        try:
            call = place.begin(0, pod)
            wait_for("the record is there", lambda: bool(place.node.records()))
            call.kill()
            call.communicate()
            wait_for("the agent saw it", lambda: agent.status().hung_up == 1)
        finally:
            place.server.etcd.resume()
        wait_for("nothing is left", lambda: (place.node.files(), place.used) == ([], 0), 60)
        assert links(pod) == []


def test_two_calls_of_one_container_at_once_do_not_meet(place: Place) -> None:
    with running_agent(place.node), namespaces(1) as (pod,):
        adds = [ended(call) for call in [place.begin(0, pod) for _ in range(4)]]
        assert all(answer.json == adds[0].json for answer in adds), adds
        assert (links(pod), place.used) == (["eth0"], 1)
        calls = [place.begin(0, pod, command) for command in ("DEL", "ADD", "DEL", "ADD")]
        assert [ended(call).status for call in calls] == [0] * 4
        assert place.delete(0, pod).status == 0
        assert (links(pod), place.node.records(), place.used) == ([], [], 0)


def test_it_reports_and_releases_by_itself_once_the_server_is_there(place: Place) -> None:
    place.server.stop()
    try:
        install_launchers(place.node)
        agent = RunningAgent(place.node).started()
        wait_for("it tried", lambda: "server" in agent.status().said)
        assert agent.status().server
    finally:
        place.server.start()
    try:
        wait_for("the node is reported", place.reported)
        with namespaces(1) as (pod,):
            assert ended(place.begin(0, pod)).status == 0
        place.server.stop()
        try:
            assert place.delete(0, None).status == 0
            assert (agent.status().pending, agent.status().calls["DEL"]) == (1, {"done": 1})
        finally:
            place.server.start()
        wait_for("the address is given back", lambda: not place.node.records(), 60)
        assert place.used == 0
    finally:
        agent.kill()


def test_the_first_pod_on_a_new_network_has_its_way_to_services_soon(place: Place) -> None:
    """Long before the next report, which is due half a minute after it."""
    new = f"{place.node.cluster}-new"
    place.server.ask(lambda client: client.create_cluster(NewCluster(name=new)))
    config = json.loads(place.node.config.read_text())
    changes = {"cluster": new, "services": {"cidrs": ["10.96.0.0/16"]}}
    place.node.config.write_text(json.dumps({**config, **changes}))
    with running_agent(place.node) as agent, namespaces(1) as (pod,):
        assert "0 networks" in agent.status().said["server"].said
        before = agent.status().said["attachments"]
        number = next(_clusters)
        place.server.ask(lambda client: client.create_network(new, dual_stack(number)))
        place.server.ask(lambda client: client.create_pool(new, default_pool()))
        assert ended(place.begin(0, pod)).status == 0
        wait_for("the pod has its route", lambda: "10.96.0.0/16" in routes(pod), 10)
        assert "1 networks" in agent.status().said["server"].said
        assert agent.status().said["attachments"] == before, "it was no report"
        assert place.delete(0, pod).status == 0


def routes(pod: Netns) -> set[str]:
    """Where its interface leads."""

    def job(net: Net) -> set[str]:
        there = hostnet.list_routes(net, hostnet.get_link(net, "eth0"))
        return {str(each.route.destination) for each in there}

    return run_in(pod, job)


def test_what_a_killed_program_left_half_done_is_swept_when_it_starts(place: Place) -> None:
    attachments = place.node.state / "attachments"
    attachments.mkdir(parents=True)
    (attachments / "c1@eth0.json.new").write_text('{"state": "add')
    with running_agent(place.node):
        wait_for("it is swept", lambda: place.node.files() == [])


def test_a_configuration_is_read_anew_when_the_agent_is_told_to(place: Place) -> None:
    with running_agent(place.node) as agent:
        config = json.loads(place.node.config.read_text())
        config["node"] = "node-2"
        place.node.config.write_text(json.dumps(config))
        assert agent.process is not None
        agent.process.send_signal(signal.SIGHUP)
        place.node.name = "node-2"
        wait_for("the node has its new name", place.reported)
        assert agent.status().node == "node-2"


def test_no_call_imports_anything(place: Place) -> None:
    with namespaces(1) as (pod,):
        install_launchers(place.node)
        agent = RunningAgent(place.node)
        agent.command[1:1] = ["-X", "importtime"]
        try:
            agent.started()
            wait_for("the first report", lambda: "attachments" in agent.status().said)
            before = imported(agent)
            assert "cni_plugins.add" in before
            conf = place.node.conflist(cniVersion="1.1.0")
            for command in ("VERSION", "STATUS", "ADD", "CHECK", "GC", "DEL"):
                place.node.call(command, "c1", pod, conf, args=pod_args("web-0"))
            assert imported(agent) - before == set()
        finally:
            agent.kill()


def imported(agent: RunningAgent) -> set[str]:
    lines = agent.log.read_text().splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def test_its_status_says_how_it_is_to_people_and_to_programs(place: Place) -> None:
    shell = CliRunner()
    arguments = ["status", "--config", str(place.node.config)]
    with running_agent(place.node), namespaces(1) as (pod,):
        assert ended(place.begin(0, pod)).status == 0
        told = shell.invoke(main, arguments)
        assert told.exit_code == 0, told.output
        for line in (
            f"node node-1 of cluster {place.node.cluster}",
            "server: ready",
            "attachments: 1, of which 0 wait to be released",
            "ADD: 1 done",
            "link up0: veth, up",
        ):
            assert line in told.output
        status = json.loads(shell.invoke(main, [*arguments, "--json"]).output)
        assert status["calls"]["ADD"] == {"done": 1}
        assert place.delete(0, pod).status == 0
    told = shell.invoke(main, arguments)
    assert told.exit_code == 1
    assert "no agent answered" in told.output


def test_a_question_it_does_not_know_is_refused(place: Place) -> None:
    from cni_plugins.agent_status import ask

    with running_agent(place.node) as agent, pytest.raises(Problem, match="cannot be asked"):
        ask(agent.path, "weather")
