"""Another cluster beside the one of Kubernetes: a single node on the nodes' segment, with an etcd,
a federation server and a federation agent as plain processes. It says that its CNI is Netspace's,
so that the two are meshed. Its one pod is an address of the node itself.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from ipaddress import ip_interface
from pathlib import Path
from typing import Final, TypeVar

from federation.client import Client
from hostnet import Net, Netns, add_address, anonymous_netns, get_link, open_netns, run_in, set_up
from lab import programs
from lab.etcd import Etcd
from lab.federation_server import HASTY, FederationServer
from lab.processes import bound
from lab.server import until
from tests.kubernetes.cluster import Cluster
from tests.nodes import netns_path
from tests.wires import wire

NAME: Final = "west"
NODE: Final = "west-1"
ADDRESS: Final = "172.31.240.99"
RANGE: Final = "10.88.0.0/24"
POD: Final = "10.88.0.5"
_PORT: Final = "outside"

T = TypeVar("T")


class Outside:
    """The other cluster; its files are in `folder`."""

    def __init__(self, folder: Path, netns: Netns) -> None:
        self._folder = folder
        self._netns = netns

    def ask(self, question: Callable[[Client], Awaitable[T]]) -> T:
        """What its federation server answers."""

        async def scenario() -> T:
            async with Client([f"unix://{self._folder}/server.sock"]) as client:
                return await question(client)

        return asyncio.run(scenario())

    def hears(self, address: str, port: int) -> str:
        """What its pod hears from an HTTP server; nothing where that is not to be reached."""

        def job(_: Net) -> str:
            asked = HTTPConnection(address, port, timeout=3, source_address=(POD, 0))
            try:
                asked.request("GET", "/")
                return asked.getresponse().read().decode().strip()
            except OSError:
                return ""
            finally:
                asked.close()

        return run_in(self._netns, job)


@contextmanager
def outside(cluster: Cluster, folder: Path) -> Iterator[Outside]:
    """The other cluster, from the moment on that its server answers."""
    with ExitStack() as stack:
        netns = stack.enter_context(anonymous_netns())
        plane = (cluster.work / "pids" / "ns-cp").read_text().split()[0]
        there = stack.enter_context(open_netns(f"/proc/{plane}/ns/net"))
        wire(there, _PORT, netns, "eth0")
        stack.callback(cluster.control_plane, "ip", "link", "del", _PORT)
        cluster.control_plane("ip", "link", "set", _PORT, "master", "br0")
        run_in(netns, _addressed)
        log = stack.enter_context((folder / "log").open("ab"))
        command = [sys.executable, "-m", "tests.kubernetes.outside", str(folder)]
        process = subprocess.Popen(
            [*bound(), "nsenter", f"--net={netns_path(netns)}", "--", *command],
            cwd=programs.CLONE,
            env=programs.environment(),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
        stack.callback(process.communicate)
        until((folder / "ready").exists, f"the other cluster is ready; its log: {folder}/log")
        yield Outside(folder, netns)


def _addressed(net: Net) -> None:
    set_up(net, get_link(net, "lo"))
    add_address(net, get_link(net, "lo"), ip_interface(f"{POD}/32"))
    add_address(net, get_link(net, "eth0"), ip_interface(f"{ADDRESS}/24"))


def _be(folder: Path) -> None:
    """Is that cluster, in the namespace that this process is in, until the standard input ends."""
    with Etcd(folder / "etcd") as etcd:
        door = {"listen": [f"https://{ADDRESS}:8475"]}
        server = FederationServer(folder, etcd.url, NAME, cni="netspace", federation=door, **HASTY)
        server.start().wait_until(lambda: server.said("ready"), "ready")
        agent = {
            "cluster": NAME,
            "node": NODE,
            "server": {"endpoints": [server.url]},
            "state_dir": str(folder / "agent"),
            "run_dir": str(folder),
            "underlay": {"addresses": [ADDRESS]},
            "pods": {"ranges": [RANGE]},
            "cni": {"name": "netspace"},
            "vici": str(folder / "charon.vici"),
            "handover": str(folder / "federation.json"),
            "report": 1,
        }
        (folder / "agent.yaml").write_text(json.dumps(agent))
        words = ("-m", "federation.main", "agent", "--config", str(folder / "agent.yaml"))
        process = subprocess.Popen([*bound(), sys.executable, *words], cwd=programs.CLONE)
        (folder / "ready").touch()
        sys.stdin.read()
        process.terminate()
        server.end()
        process.wait(30)


if __name__ == "__main__":
    _be(Path(sys.argv[1]))
