"""A real Kubernetes of two nodes, brought up by the scripts that NETSPACE_TEST_KUBERNETES names.

Each node is a set of namespaces of this machine. What Netspace keeps at fixed places of a node lies
in the node's own folder here. The nodes' eth0 are on one segment with the control plane's bridge,
which is the pods' gateway: untagged, since not every kernel has 802.1Q. At first the nodes have
another network's conflist, as nodes have that are to get Netspace.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from lab import programs
from tests.kubernetes import binaries

NODES: Final = ("node1", "node2")
ADDRESSES: Final = {"node1": "172.31.240.11", "node2": "172.31.240.12"}
SERVICE_CIDRS: Final = ("10.96.0.0/16", "fd00:96::/108")
GATEWAYS: Final = ("10.60.0.1/24", "fd00:60::1/64")
PATIENCE: Final = 90.0
"""Seconds that anything may take."""

_DUAL_STACK: Final = "--feature-gates=IPv6DualStack=true"
# What a node has for itself, and how it is called in the node's folder.
_OWN: Final = {
    "/opt/cni/bin": "cni-bin",
    "/etc/cni/net.d": "net.d",
    "/etc/netspace": "etc-netspace",
    "/var/lib/netspace": "lib-netspace",
    "/var/lib/netspace-etcd": "lib-netspace-etcd",
    "/var/lib/netspace-federation": "lib-netspace-federation",
    "/run/netspace": "run-netspace",
}
_FORMER: Final = {
    "cniVersion": "0.4.0",
    "name": "former",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "former0",
            "isGateway": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.61.0.0/24"}]]},
        }
    ],
}
_XTABLES: Final = ("iptables", "iptables-save", "iptables-restore")
_GUARD: Final = """
while kill -0 "$1" 2>/dev/null && [ -e "$WORK/.kubeup" ]; do sleep 1; done
[ ! -e "$WORK/.kubeup" ] || exec "$2"
"""


def missing() -> str:
    """Why there can be no cluster here, or nothing."""
    if reason := binaries.missing():
        return reason
    for script in ("up.sh", "down.sh"):
        if not (_scripts() / script).is_file():
            return f"needs a real Kubernetes: {_scripts()} has no {script}"
    for name in ("containerd", "runc", "ctr", "etcd", "busybox", "iptables-nft", "openssl"):
        if programs.lookup(name) is None:
            return f"needs {name}: ./run test brings it"
    return ""


class Cluster:
    """The cluster whose files are in `work`, a new folder of a short name."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._guard: subprocess.Popen[bytes] | None = None
        self._env = programs.environment() | {
            "WORK": str(work),
            "NODES": " ".join(NODES),
            "KUBE_BIN": str(binaries.folder()),
            "CNI_BIN_DIR": str(work / "nodes" / "%n" / _OWN["/opt/cni/bin"]),
            "CNI_CONF_DIR": str(work / "nodes" / "%n" / _OWN["/etc/cni/net.d"]),
            "SERVICE_CIDR": ",".join(SERVICE_CIDRS),
            "APISERVER_ARGS": _DUAL_STACK,
            "KCM_ARGS": _DUAL_STACK,
            "KUBELET_ARGS": _DUAL_STACK,
            "PROXY_CONFIG": "featureGates: {IPv6DualStack: true}",
        }
        self._env["PATH"] = f"{work}/tools:{self._env['PATH']}"

    def start(self) -> None:
        """Brings the cluster up, without Netspace."""
        _make_tools(self.work / "tools")
        for node in NODES:
            self._furnish(self.folder(node))
        # Whatever becomes of this process, the cluster ends with it.
        self._guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "sh", str(os.getpid()), str(_scripts() / "down.sh")],
            env=self._env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.up()
        with (self.work / "made-dirs").open("a") as made:
            for place in _OWN:
                made.writelines(f"{folder}\n" for folder in _make_folders(Path(place)))
        for node in NODES:
            for place, name in _OWN.items():
                self.on(node, "mount", "--bind", str(self.folder(node) / name), place)
        for gateway in GATEWAYS:
            nodad = ("nodad",) if ":" in gateway else ()
            self.control_plane("ip", "addr", "add", gateway, "dev", "br0", *nodad)

    def up(self) -> None:
        """Starts what is not running."""
        self._run(str(_scripts() / "up.sh"), seconds=300)

    def end(self) -> None:
        """Ends everything and removes its files."""
        if (self.work / ".kubeup").exists():
            self._run(str(_scripts() / "down.sh"), seconds=120)
        shutil.rmtree(self.work, ignore_errors=True)
        if self._guard is not None:
            self._guard.wait(PATIENCE)

    def folder(self, node: str) -> Path:
        return self.work / "nodes" / node

    # Commands

    def kubectl(
        self, *words: str, given: str = "", check: bool = True, seconds: float = PATIENCE
    ) -> str:
        """What kubectl says."""
        command = (str(self.work / "kubectl"), *words)
        return self._run(*command, given=given, check=check, seconds=seconds)

    def get(self, *words: str) -> Any:
        """What `kubectl get` says, as values."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def apply(self, *objects: Mapping[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", given=yaml.safe_dump_all(objects))

    def on(self, node: str, *command: str, check: bool = True) -> str:
        """What a program says that runs in the node's namespaces."""
        return self._run(str(self.work / "node"), node, *command, check=check)

    def control_plane(self, *command: str, check: bool = True) -> str:
        return self._run(str(self.work / "cp"), *command, check=check)

    def ctr(self, node: str, *words: str) -> str:
        """What ctr says of the node's containerd."""
        return self._run(str(self.work / "ctr"), node, *words)

    def import_images(self, node: str, archive: Path) -> None:
        # As up.sh does it: where containerd is told to unpack, it does so in the caller's mounts.
        socket = self.folder(node) / "containerd.sock"
        words = ("ctr", "-a", str(socket), "-n", "k8s.io", "images", "import", str(archive))
        self.on(node, *words)

    def kill(self, name: str) -> None:
        """SIGKILL to a program that up.sh started, as kubelet-node1; `up` starts it again."""
        pid = int((self.work / "pids" / name).read_text().split()[0])
        os.kill(pid, 9)
        until(lambda: not Path(f"/proc/{pid}/exe").exists(), f"{name} has ended")

    def _run(
        self, *command: str, given: str = "", check: bool = True, seconds: float = PATIENCE
    ) -> str:
        with (self.work / "tests.log").open("a") as log:
            done = subprocess.run(
                command,
                env=self._env,
                cwd="/",
                input=given,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
            log.write(f"{time.monotonic():.1f} {command} {done.returncode}\n{done.stderr}")
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{_end(done)}")
        return done.stdout

    def _furnish(self, folder: Path) -> None:
        for name in _OWN.values():
            (folder / name).mkdir(parents=True)
        reference = programs.cni_dir()
        assert reference is not None
        for plugin in ("loopback", "bridge", "host-local"):
            shutil.copy(reference / plugin, folder / _OWN["/opt/cni/bin"] / plugin)
        former = folder / _OWN["/etc/cni/net.d"] / "90-former.conflist"
        former.write_text(json.dumps(_FORMER))


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """What the condition says once it says something that counts as true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.3)
    return found


def end_abandoned(folder: Path, prefix: str) -> None:
    """Ends the clusters that tests have left whose process is gone."""
    for work in folder.glob(f"{prefix}*"):
        pid = work.name.removeprefix(prefix)
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            Cluster(work).end()


def _scripts() -> Path:
    return Path(os.environ[binaries.VARIABLE]).resolve()


def _make_tools(folder: Path) -> None:
    """The programs that Debian's packages name by alternatives, or that need libraries which lie in
    the clone, where up.sh finds them."""
    folder.mkdir()
    for name in ("containerd", "containerd-shim-runc-v2", "ctr", "runc", "etcd", "busybox"):
        (folder / name).symlink_to(programs.find(name))
    env = programs.environment()
    named = {key: env[key] for key in ("LD_LIBRARY_PATH", "XTABLES_LIBDIR") if key in env}
    words = " ".join(f"{key}={value}" for key, value in named.items())
    multi = programs.find("xtables-nft-multi")
    commands = {name: f"{multi} {name}" for name in _XTABLES}
    commands |= {name.replace("ip", "ip6", 1): f"{multi} ip6{name[2:]}" for name in _XTABLES}
    if conntrack := programs.lookup("conntrack"):
        commands["conntrack"] = str(conntrack)
    for name, command in commands.items():
        (folder / name).write_text(f'#!/bin/sh\nexec env {words} {command} "$@"\n')
        (folder / name).chmod(0o755)


def _make_folders(path: Path) -> list[Path]:
    """Makes the folder; those that were not there, from the outermost in."""
    made = [folder for folder in (*reversed(path.parents), path) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    return made


def _end(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stdout + done.stderr)[-3000:]
