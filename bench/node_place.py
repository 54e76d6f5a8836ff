"""Where the bench of the node runs: namespaces on one wire, a server, an agent for each node, and
plugins called as a runtime calls them: one process each, configuration in, result out.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from bench.place import Failed
from bench.traffic import inside
from hostnet import Net, Netns, anonymous_netns, get_link, run_in, set_up
from ipam_server.client import Client
from lab import launcher, processes, programs
from lab.etcd import Etcd
from lab.server import Server
from netspace import messages as m

CLUSTER: Final = "bench"
PARENT: Final = "up0"
FOUR, DUAL = "four", "dual"
"""Pools, each of a network of its own: of IPv4 alone and of both families."""

_PATIENCE: Final = 30.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_GATEWAY4, _GATEWAY6 = "10.{}.255.254", "fd00:{}::ffff:ffff"


@dataclass(frozen=True, slots=True)
class Call:
    """What one process of a plugin did: seconds until it was gone, the processor seconds of it and
    its children, its result."""

    seconds: float
    processor: float
    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plugin:
    """An executable and the configurations it is called with, by pool. `ours`: an agent works for
    it."""

    program: Path
    path: str
    confs: Mapping[str, bytes]
    ours: bool


class Node:
    """A namespace with the parent link in it, and its agent."""

    def __init__(self, folder: Path, name: str, server: str) -> None:
        folder.mkdir()
        self.netns = anonymous_netns()
        self.folder, self.name = folder, name
        self.agent: subprocess.Popen[bytes] | None = None
        self.socket = folder / "cni.sock"
        self.config = folder / "node.yaml"
        self.config.write_text(
            json.dumps(
                {
                    "cluster": CLUSTER,
                    "node": name,
                    "server": {"endpoints": [server]},
                    "state_dir": str(folder / "state"),
                    "agent": {"socket": str(self.socket)},
                }
            )
        )

    def start(self) -> None:
        """Builds the launcher for the agent's socket and starts the agent."""
        target = self.folder / "bin" / "netspace"
        target.parent.mkdir()
        launcher.build(target, {"SOCKET_PATH": f'"{self.socket}"'})
        command = agent_command(self.config)
        with (self.folder / "log").open("ab") as log:
            self.agent = subprocess.Popen(
                [*inside(self.netns), *command],
                cwd=programs.CLONE,
                env=programs.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _PATIENCE
        while not self.socket.exists():
            if self.agent.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "log").read_text(errors="replace")[-2000:]
                raise Failed(f"the agent does not listen; its log ends:\n{said}")
            time.sleep(0.02)

    def processes(self) -> list[int]:
        """The agent's, by id: it and the one that it began."""
        assert self.agent is not None
        first = self.agent.pid
        begun = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, begun)]

    def plugin(self) -> Plugin:
        def conf(pool: str) -> bytes:
            ipam = {"type": "netspace-ipam", "config": str(self.config), "netspace": pool}
            told = {"cniVersion": "1.0.0", "name": "net", "type": "netspace", "ipam": ipam}
            return json.dumps(told).encode()

        folder = self.folder / "bin"
        return Plugin(folder / "netspace", str(folder), {p: conf(p) for p in (FOUR, DUAL)}, True)

    def reference(self, programs_in: Path) -> Plugin:
        """The reference plugins on the same parent, with ranges of the same size."""

        def conf(pool: str, *ranges: tuple[str, str, str]) -> bytes:
            ipam = {
                "type": "host-local",
                "dataDir": str(self.folder / "host-local"),
                "ranges": [
                    [{"subnet": subnet, "gateway": gateway}] for subnet, gateway, _ in ranges
                ],
                "routes": [{"dst": destination} for _, _, destination in ranges],
            }
            told = {
                "cniVersion": "1.0.0",
                "name": f"ref-{pool}",
                "type": "macvlan",
                "master": PARENT,
                "mode": "bridge",
                "ipam": ipam,
            }
            return json.dumps(told).encode()

        four = ("10.17.0.0/16", _GATEWAY4.format(17), "0.0.0.0/0")
        both = ("10.18.0.0/16", _GATEWAY4.format(18), "0.0.0.0/0")
        six = ("fd00:18::/64", _GATEWAY6.format(18), "::/0")
        confs = {FOUR: conf(FOUR, four), DUAL: conf(DUAL, both, six)}
        return Plugin(programs_in / "macvlan", str(programs_in), confs, False)

    def end(self) -> None:
        if self.agent is not None:
            self.agent.terminate()
            try:
                self.agent.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self.agent.kill()
                self.agent.wait()
        self.netns.close()


class Place:
    """Two nodes on one wire over one server; everything ends with the `with`. `node` is where the
    plugins are called, `far` the other end."""

    def __init__(self, folder: Path) -> None:
        self.etcd = Etcd(folder / "etcd")
        self._ended = contextlib.ExitStack()
        self.server = Server(folder, self.etcd.url, log_level="warning", name="s1")
        self.node = Node(folder / "near", "near", self.server.url)
        self.far = Node(folder / "far", "far", self.server.url)
        found = programs.cni_dir()
        if found is None:
            raise programs.ProgramMissing("macvlan")
        self.reference = self.node.reference(found)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as begun:
            for node in (self.node, self.far):
                begun.callback(node.end)
            begun.enter_context(self.etcd)
            begun.callback(self._end_server)
            self.server.start().wait_until(lambda: self.server.listens, "listening")
            asyncio.run(self._declare())
            run_in(self.node.netns, self._wire)
            run_in(self.far.netns, lambda net: set_up(net, get_link(net, PARENT)))
            for node in (self.node, self.far):
                node.start()
            self._ended = begun.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.close()

    def processor(self) -> float:
        """Processor seconds so far of what serves the node's plugins: its agent's processes,
        server, etcd."""
        assert self.server.process is not None
        mine = (*self.node.processes(), self.server.process.pid, self.etcd.pid)
        return sum(map(_processor, mine))

    def agent_memory(self) -> float:
        """MiB of the node's agent that are resident in its processes, twice what they share."""
        return sum(map(_resident, self.node.processes())) / 1024

    def _wire(self, net: Net) -> None:
        peer = {"ifname": PARENT, "net_ns_fd": self.far.netns.fd}
        net.change("make the wire", PARENT, "link", "add", kind="veth", ifname=PARENT, peer=peer)
        set_up(net, get_link(net, PARENT))

    async def _declare(self) -> None:
        async with Client([self.server.url]) as client:
            deadline = time.monotonic() + _PATIENCE
            while not (await client.status()).ready:
                if time.monotonic() > deadline:
                    raise Failed("the server is not ready")
                await asyncio.sleep(0.05)
            await client.create_fabric(m.NewFabric(name="default"))
            await client.create_cluster(m.NewCluster(name=CLUSTER))
            for number, pool in ((27, FOUR), (28, DUAL)):
                dual = pool == DUAL
                network = m.NewNetwork(
                    name=pool,
                    parent=PARENT,
                    ipv4=f"10.{number}.0.0/16",
                    gateway4=_GATEWAY4.format(number),
                    ipv6=f"fd00:{number}::/64" if dual else None,
                    gateway6=_GATEWAY6.format(number) if dual else None,
                )
                await client.create_network(CLUSTER, network)
                asked = m.NewPool(
                    name=pool,
                    kind="netspace",
                    network=pool,
                    size="4000",
                    namespaces=["*"],
                    cooldown=0,
                )
                await client.create_pool(CLUSTER, asked)

    def _end_server(self) -> None:
        if self.server.running:
            self.server.end()


class Runtime:
    """Calls plugins as a runtime would. Its methods are for threads that are in the node's
    namespace."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def name(self) -> str:
        """A container id that was never used."""
        return f"{next(self._numbers):064x}"

    def call(
        self, plugin: Plugin, pool: str, command: str, container: str, pod: Netns | None
    ) -> Call:
        """One operation. Raises `Failed` with what the plugin said."""
        environ = {
            "PATH": os.defpath,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": "" if pod is None else f"/proc/{os.getpid()}/fd/{pod.fd}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": plugin.path,
            "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;"
            f"K8S_POD_NAME=pod-{container[-12:]};K8S_POD_INFRA_CONTAINER_ID={container};"
            f"K8S_POD_UID=uid-{container[-12:]}",
        }
        given, said = os.memfd_create("given"), os.memfd_create("said")
        try:
            os.write(given, plugin.confs[pool])
            os.lseek(given, 0, os.SEEK_SET)
            begun = time.perf_counter()
            pid = os.posix_spawn(
                plugin.program,
                [plugin.program.name],
                environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, given, 0),
                    (os.POSIX_SPAWN_DUP2, said, 1),
                    (os.POSIX_SPAWN_DUP2, self._null, 2),
                ],
            )
            _, status, usage = os.wait4(pid, 0)
            seconds = time.perf_counter() - begun
            output = os.pread(said, 1 << 20, 0)
        finally:
            os.close(given)
            os.close(said)
        if status:
            told = output[:500].decode(errors="replace")
            raise Failed(f"{plugin.program.name}: {command} ended with {status}: {told}")
        result = json.loads(output) if output else {}
        return Call(seconds, usage.ru_utime + usage.ru_stime, result)


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[Sequence[Netns]]:
    """Fresh network namespaces of pods, with `lo` up as a runtime leaves it."""
    made: list[Netns] = []
    try:
        for _ in range(count):
            made.append(anonymous_netns())
            run_in(made[-1], lambda net: set_up(net, get_link(net, "lo")))
        yield made
    finally:
        for netns in made:
            netns.close()


def agent_command(config: Path) -> list[str]:
    return [sys.executable, "-m", "cni_plugins.agent_main", "serve", "--config", str(config)]


def _resident(pid: int) -> int:
    """KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def _processor(pid: int) -> float:
    user, system = processes.stat(pid)[11:13]
    return (int(user) + int(system)) / _TICKS
