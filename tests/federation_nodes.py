"""Nodes of two clusters on one underlay, in namespaces of the test's own: each with an agent of its
own and a pod behind it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import msgspec

import hostnet
from hostnet import (
    Net,
    Netns,
    Route,
    add_address,
    anonymous_netns,
    create_netns,
    delete_netns,
    get_link,
    run_in,
    set_up,
)
from lab import federation_agent, programs
from netspace.messages.federation import FoundFault
from netspace.messages.federation_node import (
    Diagnosis,
    FederationAgentStatus,
    Verification,
    VerifiedPath,
    VerifyPath,
)
from netspace.problems import Problem

PREFIX = f"nsfed-{os.getpid()}-"
"""Of the names of nodes' namespaces; others may run the same tests."""
SOON = 60.0
"""Seconds that anything may take."""


@dataclass
class AgentNode:
    """A node, and its agent. `number` makes its addresses: the underlay's 192.168.77.NUMBER and
    fd77::NUMBER, the pod's 10.CLUSTER.NUMBER.2 and fd10:CLUSTER:NUMBER::2."""

    cluster: str
    name: str
    number: int
    net: int
    netns: Netns
    switch: Netns
    pod: Netns
    folder: Path
    server: str
    process: subprocess.Popen[bytes] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def underlay(self) -> tuple[str, str]:
        return f"192.168.77.{self.number}", f"fd77::{self.number:x}"

    @property
    def ranges(self) -> tuple[str, str]:
        return f"10.{self.net}.{self.number}.0/24", f"fd10:{self.net}:{self.number:x}::/64"

    @property
    def pods(self) -> tuple[str, str]:
        return f"10.{self.net}.{self.number}.2", f"fd10:{self.net}:{self.number:x}::2"

    @property
    def config(self) -> Path:
        return self.folder / "agent.yaml"

    @property
    def log(self) -> Path:
        return self.folder / "agent.log"

    def configure(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(
            json.dumps(
                {
                    "cluster": self.cluster,
                    "node": self.name,
                    "server": {"endpoints": [self.server], "timeout": 5},
                    "state_dir": str(self.folder / "state"),
                    "run_dir": str(self.folder / "run"),
                    "underlay": {"addresses": list(self.underlay)},
                    "pods": {"ranges": list(self.ranges)},
                    "cni": {"name": "bridge"},
                    "vici": str(self.folder / "run" / "charon.vici"),
                    "handover": str(self.folder / "run" / "federation.json"),
                    "report": 1,
                    **self.settings,
                }
            )
        )

    def start(self) -> None:
        """Starts the agent; it is not ready yet."""
        command = self._command()
        with self.log.open("ab") as log:
            self.process = run_in(
                self.netns,
                lambda _: subprocess.Popen(
                    command,
                    cwd=programs.CLONE,
                    env=programs.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                ),
            )

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(SOON)
        self.process = None
        return status

    def ask(self, *words: str) -> tuple[int, str]:
        """Exit status and output of `netspace-federation agent WORDS`."""
        done = run_in(
            self.netns,
            lambda _: subprocess.run(
                self._command(*words),
                cwd=programs.CLONE,
                env=programs.environment(),
                capture_output=True,
                text=True,
                timeout=60,
            ),
        )
        return done.returncode, done.stdout + done.stderr

    def status(self) -> FederationAgentStatus:
        return federation_agent.status(self.folder / "run", SOON)

    def diagnosis(self) -> list[FoundFault]:
        return msgspec.json.decode(self._asked("GET", "/v1/diagnosis"), type=Diagnosis).findings

    def metrics(self) -> str:
        return self._asked("GET", "/metrics").decode()

    def verified(self, federation: str, cluster: str) -> list[VerifiedPath]:
        body = msgspec.json.encode(VerifyPath(federation=federation, cluster=cluster))
        answer = self._asked("POST", "/v1/verification", body)
        return msgspec.json.decode(answer, type=Verification).paths

    def answers(self) -> bool:
        try:
            self._asked("GET", "/healthz")
        except Problem:
            return False
        return True

    def _asked(self, method: str, target: str, body: bytes = b"") -> bytes:
        return federation_agent.asked(self.folder / "run", SOON, method, target, body)

    def _command(self, *words: str) -> list[str]:
        program = [sys.executable, "-m", "federation.main", "agent"]
        return [*program, "--config", str(self.config), *words]


@contextmanager
def nodes(
    folder: Path, clusters: Mapping[str, tuple[int, str]], counts: Mapping[str, int]
) -> Iterator[list[AgentNode]]:
    """So many nodes of each cluster; `clusters`: by name the number in pods' addresses and the
    server's URL. The agents do not run yet, and end with this. Nodes of one cluster have routes to
    each other's pods, as a CNI makes them."""
    with ExitStack() as stack:
        switch = stack.enter_context(anonymous_netns())
        run_in(switch, _make_switch)
        made: list[AgentNode] = []
        for cluster, (net, url) in clusters.items():
            for at in range(counts[cluster]):
                number, name = len(made) + 1, f"{cluster}-{at + 1}"
                # By its name programs find it that are not started by this process.
                place = f"/run/netns/{PREFIX}{name}"
                netns = stack.enter_context(create_netns(place))
                stack.callback(delete_netns, place)
                node = AgentNode(
                    cluster,
                    name,
                    number,
                    net,
                    netns,
                    switch,
                    stack.enter_context(anonymous_netns()),
                    folder / name,
                    url,
                )
                _wire(switch, node)
                node.configure()
                made.append(node)
        for node in made:
            for other in made:
                if other.cluster == node.cluster and other is not node:
                    _route(node, other)
        try:
            yield made
        finally:
            for node in made:
                if node.process is not None:
                    node.process.kill()
                    node.process.wait()


def until(condition: Callable[[], Any], what: str, nodes: Sequence[AgentNode] = ()) -> None:
    """Waits for it; the nodes' logs tell why it did not come."""
    deadline = time.monotonic() + SOON
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(f"{n.name}: {n.log.read_text()[-3000:]}" for n in nodes)
            raise AssertionError(f"not {what}\n{logs}")
        time.sleep(0.05)


class Pinging:
    """A ping from a node's pod that goes on until it is asked what was lost."""

    def __init__(self, source: AgentNode, address: str, interval: float = 0.05) -> None:
        command = ["ping", "-n", "-i", str(interval), address]
        self._process = run_in(
            source.pod,
            lambda _: subprocess.Popen(
                command, stdout=subprocess.PIPE, env=programs.environment(), text=True
            ),
        )

    def lost(self) -> int:
        """Ends it; how many were not answered, but for the last one, which may be under way."""
        self._process.send_signal(signal.SIGINT)
        said, _ = self._process.communicate(timeout=SOON)
        line = next(line for line in said.splitlines() if "transmitted" in line)
        sent, received = (int(part.split()[0]) for part in line.split(",")[:2])
        assert sent > 3, said
        return max(0, sent - received - 1)


def reaches(source: AgentNode, address: str) -> bool:
    """Whether one ping from the node's pod is answered within a second."""
    done = run_in(
        source.pod,
        lambda _: subprocess.run(
            ["ping", "-n", "-c", "1", "-W", "1", address],
            capture_output=True,
            env=programs.environment(),
        ),
    )
    return done.returncode == 0


def cut(node: AgentNode) -> None:
    """Takes the node from the underlay; its own link stays up."""
    _plug(node, None)


def mend(node: AgentNode) -> None:
    _plug(node, "br0")


def _plug(node: AgentNode, bridge: str | None) -> None:
    def job(net: Net) -> None:
        index = get_link(net, f"n{node.number}").index
        master = 0 if bridge is None else get_link(net, bridge).index
        net.change("plug", node.name, "link", "set", index=index, master=master)

    run_in(node.switch, job)


def _make_switch(net: Net) -> None:
    net.change("make", "br0", "link", "add", ifname="br0", kind="bridge")
    set_up(net, get_link(net, "br0"))


def _wire(switch: Netns, node: AgentNode) -> None:
    port = f"n{node.number}"

    def to_switch(net: Net) -> None:
        peer = {"ifname": "port", "net_ns_fd": node.netns.fd}
        net.change("make", port, "link", "add", ifname=port, kind="veth", peer=peer)
        index, bridge = get_link(net, port).index, get_link(net, "br0").index
        net.change("enslave", port, "link", "set", index=index, master=bridge)
        set_up(net, get_link(net, port))

    def on_node(net: Net) -> None:
        set_up(net, get_link(net, "lo"))
        _address(net, "port", node.underlay, (24, 64))
        peer = {"ifname": "eth0", "net_ns_fd": node.pod.fd}
        net.change("make", "pod0", "link", "add", ifname="pod0", kind="veth", peer=peer)
        _address(net, "pod0", [str(ip_network(one)[1]) for one in node.ranges], (24, 64))
        for family in ("ipv4", "ipv6"):
            words = ("ip_forward",) if family == "ipv4" else ("conf", "all", "forwarding")
            hostnet.write_sysctl(net, "1", family, *words)

    def in_pod(net: Net) -> None:
        _address(net, "eth0", node.pods, (24, 64))
        for one, any_ in zip(node.ranges, ("0.0.0.0/0", "::/0"), strict=True):
            gateway = ip_address(str(ip_network(one)[1]))
            hostnet.add_route(net, get_link(net, "eth0"), Route(ip_network(any_), gateway))

    run_in(switch, to_switch)
    run_in(node.netns, on_node)
    run_in(node.pod, in_pod)


def _route(node: AgentNode, other: AgentNode) -> None:
    def job(net: Net) -> None:
        for one, by in zip(other.ranges, other.underlay, strict=True):
            route = Route(ip_network(one), ip_address(by))
            hostnet.add_route(net, get_link(net, "port"), route)

    run_in(node.netns, job)


def _address(net: Net, name: str, texts: Sequence[str], lengths: tuple[int, int]) -> None:
    link = get_link(net, name)
    set_up(net, link)
    for text, length in zip(texts, lengths, strict=True):
        add_address(net, link, ip_interface(f"{text}/{length}"))
