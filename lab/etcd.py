"""etcd processes for tests, the demo and benches: started, killed, stopped, compacted, restarted.

Each `Etcd` is one member on loopback ports picked when it is made and kept across restarts, with
its data in a folder of the caller's. `members` makes a cluster of several.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from lab import processes, programs

READY = 20.0
"""Seconds a member may take until it has a leader and answers."""

MAINTENANCE = 60.0
"""Seconds that going through all that is stored may take."""

ROOM = 2 << 30
"""Bytes that must be free in memory: a member alone lays out 64 MiB of its log in advance."""


class EtcdError(Exception):
    """etcd did not start, or refused a request; says which and why."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM files: the server's certificate and key; with `client_ca` clients must show one, too.

    `client_cert` and `client_key` are what this runner itself shows for `compact` and `disarm`.
    """

    cert: Path
    key: Path
    ca: Path
    client_ca: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None


@dataclass
class Etcd:
    """One member. `folder` gets its data and its log (`etcd.log`); `quota` is in bytes. It ends
    with the process that started it, unless it `outlives` that."""

    folder: Path
    name: str = "a"
    host: str = "127.0.0.1"
    quota: int = 0
    tls: ServerTls | None = None
    arguments: Sequence[str] = ()
    client_port: int = 0
    peer_port: int = 0
    cluster: str = ""
    outlives: bool = False
    health_port: int = 0
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        ports = free_ports(self.host, 3)
        self.client_port = self.client_port or ports[0]
        self.peer_port = self.peer_port or ports[1]
        self.health_port = self.health_port or ports[2]
        self.cluster = self.cluster or f"{self.name}={self.peer_url}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """What a client names as its endpoint."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.client_port}"

    @property
    def peer_url(self) -> str:
        return f"http://{self.host}:{self.peer_port}"

    @property
    def pid(self) -> int:
        """The running process; raises `EtcdError` if there is none."""
        if self._process is None:
            raise EtcdError(f"etcd {self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether there is a process, be it a paused one."""
        return self._process is not None and self._process.poll() is None

    def start(self, wait: bool = True) -> None:
        """Start it, on the same ports and data as before; `wait` until it is ready."""
        if self._process is not None:
            raise EtcdError(f"etcd {self.name} is running already")
        self.folder.mkdir(parents=True, exist_ok=True)
        bound = [] if self.outlives else processes.bound()
        with (self.folder / "etcd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*bound, str(programs.find("etcd")), *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Our own settings only, and a group of its own: Ctrl-C is the caller's to handle.
                env={"PATH": os.defpath},
                start_new_session=True,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self, seconds: float = READY) -> None:
        """Until it says that it is healthy; raises `EtcdError` with the end of its log."""
        deadline = time.monotonic() + seconds
        while not self._healthy():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                why = "ended" if ended else f"not healthy within {seconds:.0f} s"
                self.kill()
                tail = (self.folder / "etcd.log").read_text(errors="replace")[-2000:]
                raise EtcdError(f"etcd {self.name}: {why}; its log ends:\n{tail}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Let it end in an orderly way; killed if it takes more than 5 s."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """kill -9: nothing is written any more."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """kill -9 and start again."""
        self.kill()
        self.start()

    def copy_data(self, to: Path) -> None:
        """Keep a copy of the data of a member that was stopped, as a backup does."""
        shutil.copytree(self.folder / "data", to)

    def restore_data(self, copy: Path) -> None:
        """Put the data of a member that does not run back to an earlier copy."""
        shutil.rmtree(self.folder / "data")
        shutil.copytree(copy, self.folder / "data")

    def save_snapshot(self, to: Path) -> None:
        """What is stored now, in one file, as an admin backs it up."""
        self._etcdctl("snapshot", "save", str(to), "--endpoints", self.url)

    def restore_snapshot(self, snapshot: Path, token: str = "") -> None:
        """Replaces the data of a member that does not run by those of a snapshot. With a `token` it
        is another cluster than before."""
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        options = {
            "data-dir": self.folder / "data",
            "name": self.name,
            "initial-cluster": self.cluster,
            "initial-advertise-peer-urls": self.peer_url,
            **({"initial-cluster-token": token} if token else {}),
        }
        lines = [f"--{option}={value}" for option, value in options.items()]
        self._etcdctl("snapshot", "restore", str(snapshot), *lines)

    def _etcdctl(self, *words: str) -> None:
        done = subprocess.run(
            [str(programs.find("etcdctl")), *words],
            capture_output=True,
            text=True,
            env={"PATH": os.defpath, "ETCDCTL_API": "3"},
        )
        if done.returncode != 0:
            raise EtcdError(f"etcdctl {' '.join(words)}: {done.stderr.strip()[-500:]}")

    def pause(self) -> None:
        """SIGSTOP: its connections stand, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def compact(self, revision: int) -> None:
        """Forget what was before this revision."""
        body = {"revision": str(revision), "physical": True}
        self.request("kv/compaction", body, MAINTENANCE)

    def disarm(self) -> None:
        """End all alarms (NOSPACE)."""
        alarms = self.request("maintenance/alarm", {"action": "GET"}).get("alarms", [])
        for alarm in alarms:
            self.request("maintenance/alarm", {"action": "DEACTIVATE", **alarm})

    def defragment(self) -> None:
        """Give the space of deleted and compacted keys back."""
        self.request("maintenance/defragment", {}, MAINTENANCE)

    def request(self, path: str, body: dict[str, Any], seconds: float = 5) -> dict[str, Any]:
        """One request to etcd's JSON gateway (`/v3/PATH`). Raises `EtcdError`."""
        request = urllib.request.Request(
            f"{self.url}/v3/{path}", json.dumps(body).encode(), method="POST"
        )
        try:
            with self._open(request, seconds) as answer:
                decoded: dict[str, Any] = json.load(answer)
                return decoded
        except urllib.error.HTTPError as error:
            raise EtcdError(f"etcd {self.name}: {path}: {error.read().decode()}") from error
        except OSError as error:
            raise EtcdError(f"etcd {self.name}: {path}: {error}") from error

    def _healthy(self) -> bool:
        # Its own plain port, so that it can be asked whatever TLS the clients need.
        request = urllib.request.Request(f"http://{self.host}:{self.health_port}/health")
        try:
            with self._open(request) as answer:
                return bool(json.load(answer).get("health") == "true")
        except (OSError, ValueError):
            return False

    def _open(self, request: urllib.request.Request, seconds: float = 5) -> Any:
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if self.tls:
            context = ssl.create_default_context(cafile=str(self.tls.ca))
            if self.tls.client_cert:
                context.load_cert_chain(self.tls.client_cert, self.tls.client_key)
            handlers.append(urllib.request.HTTPSHandler(context=context))
        return urllib.request.build_opener(*handlers).open(request, timeout=seconds)

    def _arguments(self) -> list[str]:
        options = {
            "name": self.name,
            "data-dir": self.folder / "data",
            "listen-client-urls": self.url,
            "advertise-client-urls": self.url,
            "listen-peer-urls": self.peer_url,
            "initial-advertise-peer-urls": self.peer_url,
            "initial-cluster": self.cluster,
            "listen-metrics-urls": f"http://{self.host}:{self.health_port}",
            "logger": "zap",
            "log-outputs": "stderr",
            "log-level": "warn",
        }
        if self.quota:
            options["quota-backend-bytes"] = str(self.quota)
        if self.tls:
            options |= {"cert-file": self.tls.cert, "key-file": self.tls.key}
            if self.tls.client_ca:
                options["trusted-ca-file"] = self.tls.client_ca
        lines = [f"--{option}={value}" for option, value in options.items()]
        if self.tls and self.tls.client_ca:
            lines.append("--client-cert-auth")
        return [*lines, *self.arguments]


@contextlib.contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory, where there is room: a disk that others use may take longer for one write
    than servers wait for etcd."""
    memory = Path("/dev/shm")
    usable = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= ROOM
    with tempfile.TemporaryDirectory(
        prefix="netspace-etcd-", dir=memory if usable else None
    ) as folder:
        yield Path(folder)


def members(folder: Path, count: int = 3, host: str = "127.0.0.1") -> list[Etcd]:
    """The members of one cluster, not started; they are ready only once most of them run."""
    ports = free_ports(host, 3 * count)
    names = [chr(ord("a") + number) for number in range(count)]
    peers = dict(zip(names, ports[count : 2 * count], strict=True))
    healths = dict(zip(names, ports[2 * count :], strict=True))
    cluster = ",".join(f"{name}=http://{host}:{port}" for name, port in peers.items())
    return [
        Etcd(
            folder / name,
            name,
            host,
            client_port=port,
            peer_port=peers[name],
            health_port=healths[name],
            cluster=cluster,
        )
        for name, port in zip(names, ports[:count], strict=True)
    ]


def free_ports(host: str, count: int) -> list[int]:
    """TCP ports nobody listens on now, all different.

    From below what the kernel hands out to outgoing connections, so that a member that is
    restarted finds its own still free.
    """
    ports: list[int] = []
    for port in random.sample(range(20000, 32000), 12000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            ports.append(port)
        if len(ports) == count:
            break
    return ports
