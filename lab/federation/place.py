"""Where the federation's demo, bench and tests run: three clusters with all their processes.

Each cluster has an etcd and a federation server, each node a charon and a federation agent; cluster
a has Netspace's own server and node agents besides. They are the real programs. The place lies in
the demo's folder (`lab.place.FOLDER`) and ends as the demo's does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from federation.client import Client
from ipam_server.client import Client as IpamClient
from lab import charon, federation_agent, launcher, place, processes, programs, topology
from lab.etcd import Etcd
from lab.federation import account, wiring
from lab.federation.layout import CLUSTERS, LATER, VLAN, A, LabCluster, LabNode
from lab.federation.nursery import Nursery
from lab.federation.wiring import LabPod
from lab.place import BOND, FOLDER, PlaceError, remember
from lab.runtime import Runtime, Sandbox
from netspace import messages as m
from netspace.messages.federating import FederationDetails, FederationsStatus
from netspace.messages.federation_node import FederationAgentStatus
from netspace.problems import Problem

T = TypeVar("T")

POOL: Final = "federated"
"""Of cluster a; what lies outside of it is not for the others."""
NETWORK: Final = f"vlan{VLAN}"
PATIENCE: Final = 180.0
"""Seconds that anything may take: the lab kernel is slow, and all begins at once."""
DOOR: Final = 8475
ANSWER: Final = 60.0
"""Seconds that a server may take for an answer."""
LEASE: Final = 30
"""Seconds: one slow processor for thirty programs that begin at once must not end a lease."""
_CALM: Final = ("--heartbeat-interval=500", "--election-timeout=5000")
"""For etcds that are alone: they wake twice a second instead of ten times."""
_NOTHING: Final[Mapping[str, Any]] = {}
_FOR_NOW: Final = ("unavailable", "state-unavailable", "no-leader")


@dataclass
class LabServer:
    """A server of a cluster: its folder has configuration, log and socket. It outlives its starter
    and ends with the place."""

    folder: Path
    module: str
    words: tuple[str, ...]
    settings: dict[str, Any]
    pid: int = 0

    @property
    def url(self) -> str:
        return f"unix://{self.folder / 'server.sock'}"

    @property
    def config(self) -> Path:
        return self.folder / "server.yaml"

    def write(self) -> None:
        self.folder.mkdir()
        self.config.write_text(json.dumps({"listen": [self.url], **self.settings}))


class Member:
    """A cluster's etcd and servers, in a folder of its own."""

    def __init__(
        self, cluster: LabCluster, nursery: Nursery, settings: Mapping[str, Any] = _NOTHING
    ) -> None:
        self.cluster, self._nursery, self._settings = cluster, nursery, settings
        self.folder = FOLDER / cluster.control
        self.folder.mkdir()
        self.etcd = Etcd(self.folder / "etcd", arguments=_CALM, outlives=True)
        self.ipam: LabServer | None = None
        self.servers: list[LabServer] = []

    def begin(self) -> None:
        """Starts etcd; the servers over it are next."""
        self.inside(lambda: self.etcd.start(wait=False))
        remember(self.etcd.pid)

    def serve(self) -> None:
        """Starts the servers once etcd is ready; they are not, yet."""
        self.inside(self.etcd.wait_ready)
        if self.cluster.macvlan:
            told = {"name": "s1", "etcd": self._etcd, "leader_ttl": LEASE}
            self.ipam = LabServer(self.folder / "ipam", "ipam_server.main", (), told)
            self._start(self.ipam)
        self.add_server()

    def add_server(self) -> LabServer:
        """Starts one more federation server; they have one folder for their keys, as if it were
        copied."""
        number = len(self.servers)
        told: dict[str, Any] = {
            "name": f"{self.cluster.name}-{number}",
            "etcd": self._etcd,
            "cluster": self.cluster.name,
            "cni": self.cluster.cni,
            "federation": {"listen": [f"https://{self.cluster.server[0]}:{DOOR + number}"]},
            "state_dir": str(self.folder / "keys"),
            "leader_ttl": LEASE,
            **self._settings,
        }
        if self.ipam is not None:
            told["ipam"] = {"endpoints": [self.ipam.url]}
        folder = self.folder / f"federation-{number}"
        server = LabServer(folder, "federation.main", ("serve",), told)
        self._start(server)
        self.servers.append(server)
        return server

    def _start(self, server: LabServer) -> None:
        server.write()
        words = (*server.words, "--config", str(server.config))
        log = server.folder / "log"
        server.pid = self._nursery.start(self.cluster.control, log, server.module, *words)

    @property
    def _etcd(self) -> dict[str, Any]:
        return {"endpoints": [self.etcd.url]}

    def inside(self, job: Callable[[], T]) -> T:
        return topology.within(topology.netns(self.cluster.control), lambda _: job())

    def ask(self, job: Callable[[Client], Awaitable[T]]) -> T:
        """Asks the cluster's federation servers; until they can answer where they only begin."""

        async def asking() -> T:
            async with Client([each.url for each in self.servers], ANSWER) as client:
                deadline = time.monotonic() + PATIENCE
                while True:
                    try:
                        return await job(client)
                    except Problem as problem:
                        if time.monotonic() > deadline or not _for_now(problem):
                            raise
                    await asyncio.sleep(0.3)

        return asyncio.run(asking())

    def status(self) -> FederationsStatus:
        return self.ask(lambda client: client.status(self.cluster.name))

    def details(self, federation: str) -> FederationDetails:
        return self.ask(lambda client: client.federation(self.cluster.name, federation))


class FederatedPlace:
    """Used in `with`; leaving it removes all of it unless `keep` is set. `servers`, `agents`:
    what stands besides in the federation's configurations, an agent's by its node."""

    def __init__(
        self,
        clusters: Sequence[LabCluster] = CLUSTERS,
        servers: Mapping[str, Any] = _NOTHING,
        agents: Mapping[str, Mapping[str, Any]] = _NOTHING,
    ) -> None:
        self.clusters = tuple(clusters)
        self._servers, self._agents = servers, agents
        self.keep = False
        self.members: dict[str, Member] = {}
        self._nursery: Nursery | None = None
        self.nodes: list[LabNode] = []
        self.runtimes: dict[str, Runtime] = {}
        self.pods: dict[str, LabPod] = {}
        self.why_slow = ""
        self._sandboxes: dict[str, Sandbox] = {}
        self._pids: dict[tuple[str, str], int] = {}
        self._charons: list[subprocess.Popen[bytes]] = []
        self._places = 10

    def __enter__(self) -> Self:
        place.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.keep:
            place.end()
            self._reap()

    def _reap(self) -> None:
        """Takes leave of the processes of this one's own, which have been ended."""
        if self._nursery is not None:
            self._nursery.end()
        for member in self.members.values():
            if member.etcd.running:
                member.etcd.kill()
        for process in self._charons:
            process.wait()

    # Making

    def make(self, later: Iterable[LabNode] = (LATER,)) -> None:
        """The namespaces and the clusters' servers; returns while these still begin."""
        absent = tuple(later)
        self._nursery = Nursery()
        wiring.make(self.clusters, absent)
        self.nodes = [node for each in self.clusters for node in each.nodes if node not in absent]
        for each in self.clusters:
            self.members[each.name] = Member(each, self._nursery, self._servers)
        for member in self.members.values():
            member.begin()
        for member in self.members.values():
            member.serve()

    def make_netspace(self) -> None:
        """Cluster a's networks and pools, and its nodes' agents; returns once these are ready."""
        binaries, self.why_slow = place.executables()
        member = self.members[A.name]
        assert member.ipam is not None
        asyncio.run(_declare(member.ipam.url))
        bond = {"name": BOND, "slaves": list(topology.CARDS), "mode": "active-backup"}
        agents = {}
        for node in (each for each in self.nodes if each.cluster == A.name):
            changes = {
                "bonds": [bond],
                "links": None,
                "services": {"cidrs": [], "node_addresses": list(node.underlay)},
                "handover": str(FOLDER / node.name / "federation.json"),
            }
            url = member.ipam.url
            self.runtimes[node.name] = place.write_node(A.name, node.name, url, binaries, changes)
            config = str(FOLDER / node.name / "node.yaml")
            words = ("cni_plugins.agent_main", "serve", "--config", config)
            agents[node] = self._fork(node, "agent.log", *words)
        for node, pid in agents.items():
            self.wait(
                _ready(node),
                f"the node agent of {node.name} to make the node ready",
                _runs(pid),
                FOLDER / node.name / "agent.log",
            )

    def start_node(self, node: LabNode) -> None:
        """Starts a node's charon and federation agent; returns while these still begin."""
        folder = FOLDER / node.name
        folder.mkdir(exist_ok=True)
        self.start_charon(node)
        cluster = next(each for each in self.clusters if each.name == node.cluster)
        config = {
            "cluster": node.cluster,
            "node": node.name,
            "server": {"endpoints": [each.url for each in self.members[node.cluster].servers]},
            "state_dir": str(folder / "federation"),
            "run_dir": str(folder / "run"),
            "gateway": node.gateway,
            "cni": {"name": cluster.cni},
            "pods": {"ranges": "none" if cluster.macvlan else list(node.ranges)},
            "vici": str(self.vici(node)),
            "handover": str(folder / "federation.json"),
            **self._agents.get(node.name, {}),
        }
        # JSON is YAML, and writing that costs seconds here.
        self.agent_config(node).write_text(json.dumps(config))
        self.start_agent(node)

    def start_charon(self, node: LabNode) -> None:
        log = FOLDER / node.name / "charon.log"
        process = charon.start(topology.netns(node.name), self.vici(node), log, outlives=True)
        remember(process.pid)
        self._pids["charon", node.name] = process.pid
        self._charons.append(process)

    def start_agent(self, node: LabNode) -> None:
        words = ("federation.main", "agent", "--config", str(self.agent_config(node)))
        self._pids["agent", node.name] = self._fork(node, "federation.log", *words)

    def _fork(self, node: LabNode, log: str, module: str, *words: str) -> int:
        assert self._nursery is not None
        return self._nursery.start(node.name, FOLDER / node.name / log, module, *words)

    def add_node(self, node: LabNode) -> None:
        """A node comes, with its programs."""
        cluster = self.cluster(node)
        wiring.add_node(cluster, node, known=self.nodes)
        self.nodes.append(node)
        self.start_node(node)

    def add_pod(self, node: LabNode, name: str) -> LabPod:
        """A pod, by the cluster's own way to make one."""
        if node.name in self.runtimes:
            sandbox = self.runtimes[node.name].add("demo", name)
            four, six = sandbox.addresses
            self._sandboxes[name] = sandbox
            pod = LabPod(name, node, sandbox.netns, (four, six))
        else:
            self._places += 1
            pod = wiring.add_pod(node, name, self._places)
        self.pods[name] = pod
        return pod

    def move_pod(self, name: str, node: LabNode) -> LabPod:
        """A pod on macvlan ends on its node and begins on another."""
        gone = self.pods.pop(name)
        self.runtimes[gone.node.name].delete(self._sandboxes.pop(name))
        return self.add_pod(node, name)

    # Nodes that fail

    def kill_node(self, node: LabNode) -> None:
        """The node's power goes: off the network first, so that nothing says good-bye."""
        wiring.cut(node, self.cluster(node))
        for what in ("agent", "charon"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pids[what, node.name], signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pids[what, node.name], 0)
            self.wait(_gone(self._pids[what, node.name]), f"the {what} of {node.name} to end")
        topology.ip(["xfrm state flush", "xfrm policy flush"], inside=topology.netns(node.name))

    def revive_node(self, node: LabNode) -> None:
        """Its power comes back."""
        self.start_charon(node)
        wiring.mend(node, self.cluster(node))
        self.start_agent(node)

    def pid(self, what: str, node: LabNode) -> int:
        """Of a node's `agent` or `charon`."""
        return self._pids[what, node.name]

    # Looking

    def wait(
        self,
        condition: Callable[[], bool],
        what: str,
        alive: Callable[[], bool] = lambda: True,
        log: Path | None = None,
        seconds: float = PATIENCE,
        pause: float = 0.1,
    ) -> float:
        """Seconds until the condition held; raises `PlaceError` where it never does."""
        began = time.monotonic()
        while not condition():
            if not alive() or time.monotonic() > began + seconds:
                said = log.read_text(errors="replace")[-2000:] if log else ""
                raise PlaceError(f"waited {seconds:.0f} s in vain for {what}; {said}")
            time.sleep(pause)
        return time.monotonic() - began

    def cluster(self, node: LabNode) -> LabCluster:
        return next(each for each in self.clusters if each.name == node.cluster)

    def vici(self, node: LabNode) -> Path:
        return FOLDER / node.name / "charon" / "charon.vici"

    def agent_config(self, node: LabNode) -> Path:
        return FOLDER / node.name / "federation.yaml"

    def agent_status(self, node: LabNode) -> FederationAgentStatus:
        """What a node's federation agent says of itself. Raises `Problem`."""
        return federation_agent.status(FOLDER / node.name / "run", ANSWER)

    def account(self) -> str:
        """What the federation's programs are doing, and what they said last."""
        servers = [each for member in self.members.values() for each in member.servers]
        agents = {
            self.pid("agent", node): FOLDER / node.name / "federation.log" for node in self.nodes
        }
        return account.of({each.pid: each.folder / "log" for each in servers} | agents)

    def esp_keys(self, nodes: Iterable[LabNode]) -> str:
        """What `ip xfrm state` says on these nodes, keys and all."""
        return "".join(ip_text(node.name, "xfrm", "state") for node in nodes)


def _ready(node: LabNode) -> Callable[[], bool]:
    """Whether its node agent listens and has made bond and VLAN."""
    made = {f"bond {BOND}", f"link {BOND}.{VLAN}"}
    socket = FOLDER / node.name / launcher.SOCKET
    return lambda: (
        socket.exists()
        and made <= {told["subject"] for told in logs(node.name) if told["message"] == "put right"}
    )


def _runs(pid: int) -> Callable[[], bool]:
    return lambda: bool(processes.identity(pid))


def _gone(pid: int) -> Callable[[], bool]:
    return lambda: not processes.identity(pid)


def ip_text(space: str, *words: str) -> str:
    """What `ip` says in a namespace of the lab."""
    done = subprocess.run(
        [str(programs.find("ip")), "-n", topology.netns(space), *words],
        capture_output=True,
        text=True,
        env=programs.environment(),
    )
    return done.stdout


async def _declare(url: str) -> None:
    """Cluster a's network and its pool."""
    four, six = A.subnets
    async with IpamClient([url]) as client:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(Problem):
                if (await client.status()).ready:
                    break
            if time.monotonic() > deadline:
                raise PlaceError("the IPAM server is not ready")
            await asyncio.sleep(0.1)
        with contextlib.suppress(Problem):
            await client.create_fabric(m.NewFabric(name="default"))
        await client.create_cluster(m.NewCluster(name=A.name))
        await client.create_network(
            A.name,
            m.NewNetwork(
                name=NETWORK,
                parent=BOND,
                vlan=VLAN,
                ipv4=four,
                gateway4=four.replace(".0/24", ".1"),
                ipv6=six,
                gateway6=six.replace("::/64", "::1"),
                # So that the pool is one subnet of each family: 10.101.0.32/27.
                exclude=[four.replace(".0/24", ".2") + "-" + four.replace(".0/24", ".31")],
            ),
        )
        await client.create_pool(
            A.name, m.NewPool(name=POOL, kind="default", network=NETWORK, size="32")
        )


def _for_now(problem: Problem) -> bool:
    return problem.retry_after is not None or problem.code in _FOR_NOW


def logs(space: str) -> list[dict[str, Any]]:
    """What the programs of a node have logged as JSON, oldest first for each program."""
    found = []
    for path in sorted((FOLDER / space).glob("*.log")):
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
    return found
