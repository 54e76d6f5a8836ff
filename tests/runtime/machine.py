"""A node with a container runtime of its own, which touches nothing of the machine.

Mounts, processes and network are the node's own: what a runtime keeps under /etc, /run, /opt/cni
and /var/lib lies in the node's folder or in memory. Everything that runs on the node ends with its
first process, as with a power cut; what is in the folder outlives that.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from hostnet import Netns, open_netns
from lab import launcher, processes, programs
from lab.server import until
from tests.nodes import Node
from tests.runtime import cgroups
from tests.runtime.cri import Cri
from tests.runtime.images import NAME

PATIENCE = 30.0
"""Seconds that anything may take."""

_CONF = programs.CLONE / "conf" / "10-netspace.conflist"

_BOOT = """
set -e
folder=$1
ip link set lo up
mount --bind "$folder/etc" /etc
mount --bind "$folder/lib" /var/lib
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/opt
mount --rbind /opt /run/opt
mount -t tmpfs -o mode=755 tmpfs /opt
for entry in /run/opt/*; do [ ! -e "$entry" ] || ln -s "$entry" "/opt/${entry##*/}"; done
rm -f /opt/cni
mkdir /opt/cni
mount --bind "$folder/cni" /opt/cni
touch "$folder/up"
# A shell waits for whatever process it is given, so no ended one stays.
while :; do sleep 3600 & wait $!; done
"""

_CONTAINERD = f"""
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{NAME}"
  stream_server_address = "127.0.0.1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
"""

_CONTAINERS = """
[containers]
apparmor_profile = "unconfined"
seccomp_profile = "unconfined"
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
conmon_path = ["{conmon}"]
[engine.runtimes]
runc = ["{runc}"]
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "/etc/cni/net.d"
"""

_STORAGE = """
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
"""


class Machine:
    """The node, which is described by `node`. `cgroup` is the path of its own in every hierarchy;
    `archive` has the sandboxes' image; with `agent` an agent carries the calls out, else the
    executables do."""

    def __init__(self, node: Node, archive: Path, cgroup: str, *, agent: bool) -> None:
        self.node, self.archive, self.cgroup, self.agent = node, archive, cgroup, agent
        self.folder = node.folder / "machine"
        self._first: subprocess.Popen[bytes] | None = None
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._cri: Cri | None = None
        self._attempts = 0
        self._install()

    # Power

    def start(self) -> None:
        """Boots the node; nothing runs on it yet."""
        up = self.folder / "up"
        up.unlink(missing_ok=True)
        command = [*processes.bound(), "nsenter", f"--net=/proc/self/fd/{self.node.netns.fd}"]
        command += ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command += ["sh", "-c", _BOOT, "sh", str(self.folder)]
        with (self.folder / "boot.log").open("ab") as log:
            self._first = subprocess.Popen(
                command,
                pass_fds=[self.node.netns.fd],
                env=programs.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(lambda: up.exists() or self._first_ended(), "the node is up")
        assert not self._first_ended(), (self.folder / "boot.log").read_text()

    def power_cut(self) -> None:
        """Ends everything that runs on the node at once; folders stay."""
        self._close_cri()
        if self._first is not None:
            self._first.kill()
            self._first.wait(PATIENCE)
            self._first = None
        for process in self._running.values():
            process.wait(PATIENCE)
        self._running.clear()

    def end(self) -> None:
        """The same, and the node's cgroups go."""
        self.power_cut()
        cgroups.remove(self.cgroup)

    # Programs

    def command(self, *arguments: str) -> list[str]:
        """A command line that runs these on the node."""
        assert self._first is not None
        target = str(_child_of(self._first.pid))
        return ["nsenter", "-t", target, "--mount", "--pid", "--net", "--", *arguments]

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A program on the node, to its end."""
        done = subprocess.run(
            self.command(*arguments),
            env=programs.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done

    def serve(self, name: str, *arguments: str) -> None:
        """A program on the node that goes on until it is killed; it says what it has to say in
        NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*processes.bound(), *self.command(*arguments)],
                env=programs.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self, name: str) -> None:
        """SIGKILL to what `serve` started. nsenter waits beside it in the other process namespace
        and ends with it."""
        process = self._running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(_child_of(process.pid), 9)
        process.wait(PATIENCE)

    def wait(self, name: str) -> None:
        """Until what `serve` started has ended by itself."""
        self._running.pop(name).wait(PATIENCE)

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def start_agent(self) -> None:
        """The agent, listening where the executables look for it."""
        self.run("mkdir", "-p", "/run/netspace")
        self.serve("agent", "netspace-agent", "serve")
        self._wait_for("agent", lambda: self.agent_status() == 0, "answering")

    def agent_status(self) -> int:
        """The exit status of `netspace-agent status`."""
        return self.run("netspace-agent", "status", check=False).returncode

    # containerd

    def start_containerd(self) -> Cri:
        """containerd on the node, ready for pods."""
        self.serve("containerd", "containerd")
        socket = Path(self.outside("/run/containerd/containerd.sock"))
        self._wait_for("containerd", socket.exists, "listening")
        self._cri = Cri(socket)
        if not (self.folder / "imported").exists():
            self._wait_for(
                "containerd",
                lambda: self.run("ctr", "version", check=False).returncode == 0,
                "answering",
            )
            self.run("ctr", "-n", "k8s.io", "images", "import", str(self.archive))
            (self.folder / "imported").touch()
        self._wait_for("containerd", self._cri.ready, "ready")
        return self._cri

    def kill_containerd(self, answered: Callable[[], object] = lambda: None) -> None:
        """`answered` waits for the calls under way: they are to see its end, not ours."""
        self.kill("containerd")
        answered()
        self._close_cri()

    def make_ready(self) -> None:
        """Boots the node and starts agent and containerd where they are down."""
        if self._first_ended():
            self.start()
        if self.agent and "agent" not in self._running:
            self.start_agent()
        if self._cri is None:
            self.start_containerd()

    def remove_pods(self) -> None:
        """Stops and removes every sandbox that containerd knows."""
        for sandbox in self.cri.sandboxes():
            self.cri.stop(sandbox)
            self.cri.remove(sandbox)

    @property
    def cri(self) -> Cri:
        assert self._cri is not None
        return self._cri

    def run_pod(self, name: str, *, within: float = 60, **annotations: str) -> str:
        """The id of a new sandbox. Annotations are named without their prefix `ipam.com/`."""
        ours = {f"ipam.com/{key}": value for key, value in annotations.items()}
        self._attempts += 1
        return self.cri.run(
            name, ours, cgroup=f"{self.cgroup}/{name}", attempt=self._attempts, within=within
        )

    def netns(self, sandbox: str) -> Netns:
        """The sandbox's network namespace, opened."""
        return open_netns(self.outside(self.cri.netns(sandbox)))

    def outside(self, path: str) -> str:
        """Where the machine sees a file under the node's /run."""
        return f"/proc/{_child_of(self._pid)}/root{path.replace('/var/run/', '/run/')}"

    def replay(self) -> None:
        """Gives back what was left pending, as the agent does."""
        self.run("netspace-agent", "prepare")

    def sandboxes(self) -> list[str]:
        """The network namespaces that the runtime has left standing."""
        folder = Path(self.outside("/run/netns"))
        return sorted(path.name for path in folder.glob("*"))

    # Inside

    @property
    def _pid(self) -> int:
        assert self._first is not None
        return self._first.pid

    def _first_ended(self) -> bool:
        return self._first is None or self._first.poll() is not None

    def _close_cri(self) -> None:
        if self._cri is not None:
            self._cri.close()
            self._cri = None

    def _wait_for(self, name: str, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            ended = self._running[name].poll() is not None
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"{name} is not {what}: {self.said(name)[-3000:]}")
            time.sleep(0.05)

    def _install(self) -> None:
        """What a package puts on a node: executables, conflist, configuration."""
        etc, plugins = self.folder / "etc", self.folder / "cni" / "bin"
        self.folder.mkdir()
        (self.folder / "lib").mkdir()
        shutil.copytree("/etc", etc, symlinks=True)
        for name in ("cni", "containerd", "containers", "netspace"):
            shutil.rmtree(etc / name, ignore_errors=True)
            (etc / name).mkdir()
        (etc / "netspace" / "node.yaml").write_bytes(self.node.config.read_bytes())
        (etc / "cni" / "net.d").mkdir()
        (etc / "cni" / "net.d" / _CONF.name).write_bytes(_CONF.read_bytes())
        (etc / "containerd" / "config.toml").write_text(_CONTAINERD)
        containers = {
            "containers.conf": _CONTAINERS.format(
                conmon=programs.find("conmon"), runc=programs.find("runc")
            ),
            "storage.conf": _STORAGE,
            "policy.json": json.dumps({"default": [{"type": "insecureAcceptAnything"}]}),
            "registries.conf": "",
        }
        for name, text in containers.items():
            (etc / "containers" / name).write_text(text)
        plugins.mkdir(parents=True)
        (plugins / "netspace-plugin").mkdir()
        for name in launcher.NAMES:
            launcher.build(plugins / name)
            (plugins / "netspace-plugin" / name).symlink_to(self.node.folder / "bin" / name)
        reference = programs.cni_dir()
        assert reference is not None
        (plugins / "loopback").symlink_to(reference / "loopback")


def _child_of(parent: int) -> int:
    """The pid of a process's only child."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if processes.stat(int(process.name))[1] == str(parent):
                return int(process.name)
    raise ProcessLookupError(f"process {parent} has no child")
