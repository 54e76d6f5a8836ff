"""A node for tests, whole: namespaces, configuration, and plugins run as a runtime runs them.

The IPAM server and its etcd are processes of their own; a node reaches the server by its Unix
socket, which every namespace sees. Nothing touches the machine's own network namespace.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cni_plugins.attachment import Host
from cni_plugins.protocol import Invocation, parse
from cni_plugins.records import Records
from cni_plugins.wiring import HostWiring
from hostnet import Kernel, Netns, Observer, list_links, run_in
from ipam_server.client import Client
from lab import programs
from lab.etcd import Etcd, quick_folder
from lab.server import CALM, Server
from netspace.messages import NewCluster, NewFabric, NewNetwork, NewPool
from netspace.problems import Problem

T = TypeVar("T")
_CLONE = Path(__file__).resolve().parent.parent
_EXECUTABLES = {"netspace": "macvlan_main", "netspace-ipam": "ipam_main"}
_READY = 20.0


class IpamServer:
    """netspace-server in `folder`, on an etcd of its own in the folder `data`."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.etcd = Etcd(data)
        etcd = {"endpoints": [self.etcd.url], "timeout": 2}
        self._server = Server(folder, self.etcd.url, etcd=etcd, **CALM)
        self.url = self._server.url

    def start(self) -> None:
        """Starts the server and waits until it is ready."""
        self._server.start().wait_until(self._ready, "ready")

    def stop(self) -> None:
        """Ends the server; its socket answers no more."""
        if self._server.running:
            self._server.end()

    def ask(self, question: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """The answer to what the coroutine asks of a client."""

        async def asked() -> T:
            async with Client([self.url]) as client:
                return await question(client)

        return asyncio.run(asked())

    def _ready(self) -> bool:
        try:
            return self.ask(lambda client: client.status()).ready
        except Problem:
            return False


@contextmanager
def ipam_server(folder: Path) -> Iterator[IpamServer]:
    """A server that is ready, with the fabric `default`; the folder need not be there."""
    folder.mkdir(parents=True, exist_ok=True)
    with quick_folder() as data:
        server = IpamServer(folder, data / "etcd")
        with server.etcd:
            try:
                server.start()
                server.ask(lambda client: client.create_fabric(NewFabric(name="default")))
                yield server
            finally:
                server.stop()


def dual_stack(number: int, **changes: Any) -> NewNetwork:
    """The network `net` with 10.NUMBER.0.0/24 and fd00:NUMBER::/64, gateways included."""
    values: dict[str, Any] = {
        "name": "net",
        "parent": "up0",
        "ipv4": f"10.{number}.0.0/24",
        "ipv6": f"fd00:{number}::/64",
        "gateway4": f"10.{number}.0.1",
        "gateway6": f"fd00:{number}::1",
    }
    return NewNetwork(**{**values, **changes})


def default_pool(size: int = 8) -> NewPool:
    """The default pool of the network `net`, whose addresses do not rest."""
    return NewPool(name="default", kind="default", network="net", size=str(size), cooldown=0)


def declare(server: IpamServer, cluster: str, network: NewNetwork, *pools: NewPool) -> None:
    """A cluster with one network and its pools."""

    async def ask(client: Client) -> None:
        await client.create_cluster(NewCluster(name=cluster))
        await client.create_network(cluster, network)
        for pool in pools:
            await client.create_pool(cluster, pool)

    server.ask(ask)


@dataclass
class Answer:
    """What an executable said: exit status, the JSON on standard output, its logs."""

    status: int
    json: dict[str, Any]
    log: str

    @property
    def addresses(self) -> list[str]:
        return [ip["address"] for ip in self.json["ips"]]


@dataclass
class Node:
    """A node's namespace, its folder, and the cluster's server behind its configuration."""

    netns: Netns
    folder: Path
    cluster: str
    server_url: str
    name: str = "node-1"

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(
            json.dumps(
                {
                    "cluster": self.cluster,
                    "node": self.name,
                    "server": {"endpoints": [self.server_url], "timeout": 5},
                    "state_dir": str(self.state),
                }
            )
        )
        (self.folder / "bin").mkdir(exist_ok=True)
        for name, module in _EXECUTABLES.items():
            program = self.folder / "bin" / name
            program.write_text(
                f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(_CLONE)!r})\n"
                f"from cni_plugins.{module} import main\nmain()\n"
            )
            program.chmod(0o755)

    @property
    def config(self) -> Path:
        return self.folder / "node.yaml"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def cni_path(self) -> str:
        folders = [str(self.folder / "bin")]
        if (reference := programs.cni_dir()) is not None:
            folders.append(str(reference))
        return ":".join(folders)

    def conflist(self, **changes: Any) -> dict[str, Any]:
        """One plugin's configuration as the runtime hands it over, with our IPAM."""
        conf: dict[str, Any] = {
            "cniVersion": "1.0.0",
            "name": "net",
            "type": "netspace",
            "ipam": {"type": "netspace-ipam", "config": str(self.config)},
        }
        return {key: value for key, value in {**conf, **changes}.items() if value is not None}

    def call(
        self,
        command: str,
        container: str,
        pod: Netns | None,
        conf: Mapping[str, Any],
        *,
        args: str = "",
        ifname: str = "eth0",
        plugin: str | Path = "netspace",
        environ: Mapping[str, str] | None = None,
    ) -> Answer:
        """Runs the plugin's executable in the node's namespace."""
        environment = self._environ(command, container, pod, args, ifname) | dict(environ or {})
        process = self.start(environment, plugin)
        output, log = process.communicate(json.dumps(conf).encode(), timeout=60)
        return answer_of(process.returncode, output, log)

    def begin(
        self,
        command: str,
        container: str,
        pod: Netns | None,
        conf: Mapping[str, Any],
        *,
        args: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts a call of the plugin's executable, all of whose input it has."""
        environment = self._environ(command, container, pod, args, "eth0") | dict(environ or {})
        process = self.start(environment)
        assert process.stdin is not None
        process.stdin.write(json.dumps(conf).encode())
        process.stdin.close()
        process.stdin = None
        return process

    def start(
        self, environment: Mapping[str, str], plugin: str | Path = "netspace"
    ) -> subprocess.Popen[bytes]:
        """Starts the plugin's executable in the node's namespace and leaves its input open."""
        program = plugin if isinstance(plugin, Path) else self.folder / "bin" / plugin
        return run_in(
            self.netns,
            lambda _: subprocess.Popen(
                [str(program)],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ),
        )

    def invocation(
        self,
        command: str,
        container: str,
        pod: Netns | None,
        conf: Mapping[str, Any],
        *,
        args: str = "",
        ifname: str = "eth0",
    ) -> Invocation:
        """The same call for a test that runs the operation in its own process."""
        environ = self._environ(command, container, pod, args, ifname)
        return parse(environ, json.dumps(conf).encode())

    def inside(
        self,
        work: Callable[[Host], Coroutine[Any, Any, T]],
        *,
        observer: Observer | None = None,
        step: Callable[[str], None] = lambda step: None,
    ) -> T:
        """The result of an operation in the node's namespace, in this process: `observer` is told
        every change of the kernel, `step` every step of the operation."""

        async def with_client() -> T:
            async with Client([self.server_url]) as client:
                return await work(
                    Host(
                        cluster=self.cluster,
                        node=self.name,
                        records=Records(self.state),
                        client=client,
                        wiring=HostWiring(Kernel(observer)),
                        environ=self._environ("ADD", "", None, "", ""),
                        step=step,
                    )
                )

        return run_in(self.netns, lambda _: asyncio.run(with_client()))

    def files(self) -> list[str]:
        """What is left of attachments on disk."""
        return sorted(path.name for path in (self.state / "attachments").glob("*"))

    def records(self) -> list[str]:
        """The files of attachments that are whole."""
        return [name for name in self.files() if name.endswith(".json")]

    def _environ(
        self, command: str, container: str, pod: Netns | None, args: str, ifname: str
    ) -> dict[str, str]:
        return {
            "PATH": os.defpath,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": "" if pod is None else netns_path(pod),
            "CNI_IFNAME": ifname,
            "CNI_ARGS": args,
            "CNI_PATH": self.cni_path,
        }


def answer_of(status: int, output: bytes, log: bytes) -> Answer:
    """What a process said."""
    said = json.loads(output) if output else {}
    return Answer(status, said, log.decode(errors="replace"))


def links(netns: Netns) -> list[str]:
    """The names of a namespace's links but `lo`."""
    return sorted(run_in(netns, lambda net: [x.name for x in list_links(net) if x.name != "lo"]))


def used(server: IpamServer, cluster: str) -> int:
    """How many addresses of the cluster are held; a server that has just started is waited for."""
    deadline = time.monotonic() + _READY
    while True:
        try:
            page = server.ask(lambda client: client.addresses(cluster, state="used"))
        except Problem as problem:
            if not problem.again or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return len(page.items)


def netns_path(netns: Netns) -> str:
    """A path by which another process opens an anonymous namespace of this one."""
    return f"/proc/{os.getpid()}/fd/{netns.fd}"


def pod_args(name: str, namespace: str = "default", uid: str = "") -> str:
    """CNI_ARGS as containerd writes them."""
    pairs = {
        "K8S_POD_UID": uid or f"uid-of-{name}",
        "IgnoreUnknown": "1",
        "K8S_POD_NAME": name,
        "K8S_POD_NAMESPACE": namespace,
    }
    return ";".join(f"{key}={value}" for key, value in pairs.items())
