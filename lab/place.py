"""Where the demo runs: etcd, the server, two nodes with their configuration, and how it all ends.

Everything lies in one folder; `pids` in it names the processes, so that a place that was left
standing can be ended by another process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from lab import programs, topology
from lab.etcd import Etcd
from lab.runtime import Runtime
from lab.server import Server, ServerError

FOLDER = Path(tempfile.gettempdir()) / "netspace-demo"
CONF = programs.CLONE / "conf"
CLUSTER = "demo"
NODES = ("node1", "node2")
VLANS = (910, 920)
BOND = "bond0"


class PlaceError(RuntimeError):
    """The place cannot be made; says why and what to do."""


class Place:
    """Used in `with`; leaving it removes all of it unless `keep` is set."""

    def __init__(self) -> None:
        self.topology = topology.Topology(NODES, VLANS)
        self.socket = FOLDER / "server.sock"
        self.etcd = Etcd(FOLDER / "etcd", outlives=True)
        self.keep = False
        self.runtimes: dict[str, Runtime] = {}

    def __enter__(self) -> Self:
        try:
            FOLDER.mkdir(mode=0o700)
        except FileExistsError:
            raise PlaceError(
                f"a demo stands already, or was killed: {FOLDER} is there; end it with"
                " ./run demo --end"
            ) from None
        (FOLDER / "pids").touch()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.keep:
            end()

    # Making

    def start_server(self) -> None:
        """Starts etcd and the server; returns when the server listens."""
        (FOLDER / "etcd").mkdir()
        self.etcd.start()
        self._remember(self.etcd.pid)
        server = Server(FOLDER, self.etcd.url, name="server-1")
        server.outlives = True
        process = server.start().process
        assert process is not None
        self._remember(process.pid)
        try:
            server.wait_until(lambda: server.listens, "listening")
        except ServerError as error:
            raise PlaceError(str(error)) from error

    def make_nodes(self) -> None:
        """Makes the switch and the nodes, and writes what an admin would put on them."""
        binaries = FOLDER / "bin"
        binaries.mkdir()
        for name in ("netspace", "netspace-ipam"):
            (binaries / name).symlink_to(programs.VENV / "bin" / name)
        self.topology.make()
        for node in NODES:
            folder = FOLDER / node
            folder.mkdir()
            config = yaml.safe_load((CONF / "node.yaml").read_text())
            # There are no Services here, so nodes need no address of their own on each VLAN.
            del config["services"]
            config |= {
                "cluster": CLUSTER,
                "node": node,
                "state_dir": str(folder / "state"),
                "bonds": [{"name": BOND, "slaves": list(topology.CARDS), "mode": "active-backup"}],
                "server": {"endpoints": [f"unix://{self.socket}"]},
            }
            self.node_config(node).write_text(yaml.safe_dump(config))
            conflist = json.loads((CONF / "10-netspace.conflist").read_text())
            conflist["plugins"][0]["ipam"]["config"] = str(self.node_config(node))
            (folder / "10-netspace.conflist").write_text(json.dumps(conflist))
            self.runtimes[node] = Runtime(node, folder / "10-netspace.conflist", binaries)

    def node_config(self, node: str) -> Path:
        return FOLDER / node / "node.yaml"

    def records(self, node: str) -> list[str]:
        """The attachment records that a node has on disk."""
        return sorted(path.name for path in (FOLDER / node / "state" / "attachments").glob("*"))

    # Running programs

    def ctl(self, *words: str) -> str:
        """What `netspacectl` says; raises `PlaceError` with its one line where it fails."""
        done = subprocess.run(
            [str(programs.VENV / "bin" / "netspacectl"), *self.ctl_options(), *words],
            capture_output=True,
            text=True,
            env=programs.environment() | {"COLUMNS": "150"},
        )
        if done.returncode != 0:
            raise PlaceError(done.stderr.strip() or f"netspacectl {' '.join(words)} failed")
        return done.stdout

    def ctl_json(self, *words: str) -> Any:
        return json.loads(self.ctl("-o", "json", *words))

    def ctl_options(self) -> list[str]:
        return ["--server", f"unix://{self.socket}", "--cluster", CLUSTER]

    def on(self, namespace: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs a program in a namespace of the topology."""
        return subprocess.run(
            topology.command(topology.netns(namespace), *words),
            capture_output=True,
            text=True,
            env=programs.environment(),
        )

    def links(self, namespace: str) -> list[dict[str, Any]]:
        """The links of a namespace, as `ip -json -details link` tells them."""
        done = self.on(namespace, str(programs.find("ip")), "-json", "-details", "link")
        return [link for link in json.loads(done.stdout) if link]

    def _remember(self, pid: int | None) -> None:
        with (FOLDER / "pids").open("a") as pids:
            pids.write(f"{pid}\n")


def end() -> None:
    """Ends a place: its processes, its namespaces, its folder. Nothing of it is left."""
    if (FOLDER / "pids").exists():
        for pid in map(int, (FOLDER / "pids").read_text().split()):
            _end_process(pid)
    topology.remove()
    shutil.rmtree(FOLDER, ignore_errors=True)


def left() -> list[str]:
    """What of a place is still there."""
    return topology.standing() + ([str(FOLDER)] if FOLDER.exists() else [])


def _end_process(pid: int) -> None:
    """Ends a process of ours: one that has the place's folder in its command line."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(100):
            if not _is_ours(pid):
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.05)


def _is_ours(pid: int) -> bool:
    try:
        return str(FOLDER).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
