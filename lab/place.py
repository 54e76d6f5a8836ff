"""Where the demo runs: etcd, the server, two nodes with their agents, and how it all ends.

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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from lab import launcher, processes, programs, topology
from lab.etcd import Etcd
from lab.runtime import Runtime
from lab.server import Server, ServerError

FOLDER = Path(tempfile.gettempdir()) / "netspace-demo"
CONF = programs.CLONE / "conf"
CLUSTER = "demo"
NODES = ("node1", "node2")
VLANS = (910, 920)
BOND = "bond0"
PATIENCE = 90.0
"""Seconds that an agent may take to make its node ready: the lab kernel is slow."""


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
        begin()
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
        remember(self.etcd.pid)
        server = Server(FOLDER, self.etcd.url, name="server-1")
        server.outlives = True
        process = server.start().process
        assert process is not None
        remember(process.pid)
        try:
            server.wait_until(lambda: server.listens, "listening")
        except ServerError as error:
            raise PlaceError(str(error)) from error

    def make_nodes(self) -> str:
        """Makes the switch and the nodes, and writes what an admin would put on them. Returns why
        the executables are the slow ones, or nothing."""
        programs_by_name, why = executables()
        self.topology.make()
        for node in NODES:
            bond = {"name": BOND, "slaves": list(topology.CARDS), "mode": "active-backup"}
            # There are no Services here, so nodes need no address of their own on each VLAN.
            changes = {"services": None, "bonds": [bond]}
            server = f"unix://{self.socket}"
            self.runtimes[node] = write_node(CLUSTER, node, server, programs_by_name, changes)
        return why

    def start_agents(self, wanted: Iterable[str]) -> None:
        """Starts the nodes' agents at once; returns when each has put right what is `wanted`, as in
        "bond bond0", and listens."""
        started = {node: self._start_agent(node) for node in NODES}
        deadline = time.monotonic() + PATIENCE
        for node, process in started.items():
            while not self._ready(node, set(wanted)):
                if process.poll() is not None or time.monotonic() > deadline:
                    said = (FOLDER / node / "log").read_text(errors="replace")[-2000:]
                    raise PlaceError(f"the agent of {node} is not ready; its log ends:\n{said}")
                time.sleep(0.1)

    def put_right(self, node: str) -> list[tuple[str, str]]:
        """What the node's agent has put right so far, by its log: the subject, and what was wrong
        and was done."""
        found = []
        for line in (FOLDER / node / "log").read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                told = json.loads(line)
                if told["message"] == "put right":
                    found.append((told["subject"], f"{told['found']}; {told['done']}"))
        return found

    def node_config(self, node: str) -> Path:
        return FOLDER / node / "node.yaml"

    def records(self, node: str) -> list[str]:
        """The attachment records that a node has on disk."""
        return sorted(path.name for path in (FOLDER / node / "state" / "attachments").glob("*"))

    # Running programs

    def ctl(self, *words: str) -> str:
        """What `netspacectl` says, run in the place's folder; raises `PlaceError` with its one line
        where it fails."""
        done = subprocess.run(
            [str(programs.VENV / "bin" / "netspacectl"), *self.ctl_options(), *words],
            cwd=FOLDER,
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

    def ip(self, namespace: str, *words: str) -> list[dict[str, Any]]:
        """What `ip -json` tells of a namespace of the topology."""
        done = subprocess.run(
            [str(programs.find("ip")), "-n", topology.netns(namespace), "-json", *words],
            capture_output=True,
            text=True,
            env=programs.environment(),
        )
        return [each for each in json.loads(done.stdout or "[]") if each]

    def links(self, namespace: str) -> list[dict[str, Any]]:
        """The links of a namespace, as `ip -json -details link` tells them."""
        return self.ip(namespace, "-details", "link")

    def _start_agent(self, node: str) -> subprocess.Popen[bytes]:
        program = str(programs.VENV / "bin" / "netspace-agent")
        return start(node, "log", program, "serve", "--config", str(self.node_config(node)))

    def _ready(self, node: str, wanted: set[str]) -> bool:
        listens = (FOLDER / node / launcher.SOCKET).exists()
        return listens and wanted <= {subject for subject, _ in self.put_right(node)}


def write_node(
    cluster: str, node: str, server: str, binaries: Mapping[str, Path], changes: Mapping[str, Any]
) -> Runtime:
    """Writes what an admin would put on a node: executables, configuration, conflist. `changes`
    replace keys of `conf/node.yaml`, those that are None are left out. Returns the runtime that
    uses them."""
    folder = FOLDER / node
    (folder / "bin").mkdir(parents=True)
    for name, program in binaries.items():
        (folder / "bin" / name).symlink_to(program)
    config = yaml.safe_load((CONF / "node.yaml").read_text())
    config |= {
        "cluster": cluster,
        "node": node,
        "state_dir": str(folder / "state"),
        "server": {"endpoints": [server]},
        **changes,
    }
    config["agent"]["socket"] = str(folder / launcher.SOCKET)
    told = {key: value for key, value in config.items() if value is not None}
    (folder / "node.yaml").write_text(json.dumps(told))
    conflist = json.loads((CONF / "10-netspace.conflist").read_text())
    conflist["plugins"][0]["ipam"]["config"] = str(folder / "node.yaml")
    (folder / "10-netspace.conflist").write_text(json.dumps(conflist))
    return Runtime(node, folder / "10-netspace.conflist", folder / "bin", folder)


def start(space: str, log: str, *words: str) -> subprocess.Popen[bytes]:
    """Starts a program in a namespace of the topology; what it says goes to the file `log` in the
    namespace's own folder. It outlives this process and ends with the place."""
    with (FOLDER / space / log).open("ab") as file:
        process = subprocess.Popen(
            topology.command(topology.netns(space), *words),
            cwd=FOLDER,
            env=programs.environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            # Ctrl-C is for whoever ends the place.
            start_new_session=True,
        )
    remember(process.pid)
    return process


def remember(pid: int) -> None:
    """Notes a process that ends with the place."""
    with (FOLDER / "pids").open("a") as pids:
        pids.write(f"{processes.identity(pid)}\n")


def begin() -> None:
    """Makes the folder of the place. Raises PlaceError: there is one already."""
    try:
        FOLDER.mkdir(mode=0o700)
    except FileExistsError:
        raise PlaceError(
            f"a demo stands already, or was killed: {FOLDER} is there; end it with ./run demo --end"
        ) from None
    (FOLDER / "pids").touch()


def end() -> None:
    """Ends a place: its processes, its namespaces, its folder. Nothing of it is left."""
    if (FOLDER / "pids").exists():
        _end_processes(list(reversed((FOLDER / "pids").read_text().splitlines())))
    topology.remove()
    shutil.rmtree(FOLDER, ignore_errors=True)


def left() -> list[str]:
    """What of a place is still there."""
    return topology.standing() + ([str(FOLDER)] if FOLDER.exists() else [])


def executables() -> tuple[dict[str, Path], str]:
    """The executables by name: the launcher where it can be compiled; else the complete plugins,
    and why."""
    try:
        return dict.fromkeys(launcher.NAMES, launcher.kept()), ""
    except (launcher.BuildError, programs.ProgramMissing, OSError) as error:
        why = f"The executables' C program cannot be compiled ({str(error).splitlines()[0]})"
        return {name: programs.VENV / "bin" / name for name in launcher.NAMES}, why


def _end_processes(identities: Sequence[str]) -> None:
    """Ends processes of ours, which may have become other programs since."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(100):
            left = [each for each in identities if each and _is_there(each)]
            if not left:
                return
            for pid in (int(each.split()[0]) for each in left):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.05)


def _is_there(identity: str) -> bool:
    return processes.identity(int(identity.split()[0])) == identity
