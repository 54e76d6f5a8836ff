"""Where a bench runs: an etcd and servers over it, as processes of their own on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

from bench import fill
from bench.certificates import HOST
from ipam_server.client import Client
from ipam_server.config import ServerConfig
from lab import programs, server
from lab.etcd import Etcd, free_ports
from lab.processes import bound
from netspace import messages as m
from netspace.problems import Problem
from netspace.tls import Tls

QUOTA = 8 << 30
"""Bytes that etcd may store: a million addresses and what is allocated besides."""

PATIENCE = 120.0
"""Seconds that a server may take until it serves, a million addresses to be read included."""


class Failed(Exception):
    """A bench cannot go on; says what failed and what it said."""


class Server(server.Server):
    """A netspace-server as it is delivered, on ports of loopback: `host` without TLS, and `secure`
    with it, which needs `tls` among the settings."""

    def __init__(self, folder: Path, name: str, etcd: str, **settings: Any) -> None:
        folder = folder / name
        folder.mkdir(parents=True, exist_ok=True)
        self.host, self.secure = (f"{HOST}:{port}" for port in free_ports(HOST, 2))
        url = f"http://{self.host}"
        config = {
            "listen": [url, *([f"https://{self.secure}"] if "tls" in settings else [])],
            "name": name,
            "etcd": {"endpoints": [etcd]},
            "leader_ttl": ServerConfig().leader_ttl,
            "log_level": "warning",
            **settings,
        }
        super().__init__(folder, etcd, **config)
        self.name, self.url = name, url

    def memory(self) -> tuple[float, float]:
        """MiB resident now, and at the most so far."""
        assert self.process is not None
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines)
        now, most = (int(found[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
        return now, most

    def processor(self) -> float:
        """Seconds of processor time so far."""
        assert self.process is not None
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        # User and system, in proc_pid_stat(5) 14 and 15; the name before may hold anything.
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def check(self) -> None:
        """Raises `Failed` if it ended by itself."""
        if self.process is not None and not self.running:
            tail = (self.folder / "log").read_text(errors="replace")[-2000:]
            raise Failed(f"server {self.name} ended by itself; its log ends:\n{tail}")

    def leave(self) -> None:
        """Ends it in an orderly way, if it runs."""
        if self.process is not None:
            self.end()
            self.process = None

    def kill(self) -> None:
        """Ends it at once, if it runs."""
        if self.process is not None:
            self.end(signal.SIGKILL)
            self.process = None


class Place:
    """An etcd and its servers; everything ends with the `async with`."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.etcd = Etcd(folder / "etcd", quota=QUOTA)
        self._folder = folder
        self._settings = settings
        self.servers: list[Server] = []
        self.add_servers(1)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.etcd.start)
        return self

    async def __aexit__(self, *error: object) -> None:
        for each in self.servers:
            each.kill()
        self.etcd.kill()

    def add_servers(self, count: int) -> None:
        """More of them, not started."""
        for _ in range(count):
            name = f"s{len(self.servers)}"
            self.servers.append(Server(self._folder, name, self.etcd.url, **self._settings))

    @property
    def server(self) -> Server:
        return self.servers[0]

    async def cluster(self, name: str, held: int = 0, network: m.NewNetwork = fill.BIG) -> None:
        """Makes a cluster that holds this many addresses, and waits until one may ask for more."""
        await fill.cluster(self.etcd.url, name, held, network=network)
        await self.serving(name)

    async def serving(self, cluster: str) -> None:
        """Starts the servers that do not run and waits until the cluster has a leader."""
        for each in self.servers:
            if not each.running:
                each.start()
        async with Client([each.url for each in self.servers]) as client:
            await self.until(lambda: client.pool(cluster, fill.POOL), f"{cluster} is served")

    async def until(self, attempt: Callable[[], Awaitable[object]], what: str) -> None:
        """Returns once the attempt raises no `Problem` any more."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for each in self.servers:
                each.check()
            with contextlib.suppress(Problem):
                await attempt()
                return
            if time.monotonic() > deadline:
                raise Failed(f"waited in vain for {PATIENCE:.0f} s until {what}")
            await asyncio.sleep(0.02)

    def stored(self) -> int:
        """Bytes in use of etcd's database, once compacted."""
        said = self.etcd.request("maintenance/status", {})
        self.etcd.compact(int(said["header"]["revision"]))
        return int(self.etcd.request("maintenance/status", {})["dbSizeInUse"])


class Bare:
    """The process of `bench.bare`: a handler that does nothing, behind mutual TLS if `tls`."""

    def __init__(self, folder: Path, tls: Tls | None = None) -> None:
        port = free_ports(HOST, 1)[0]
        self.host = f"{HOST}:{port}"
        files = [] if tls is None else [tls.cert, tls.key, tls.ca]
        self._command = [*bound(), sys.executable, "-m", "bench.bare", str(port), *map(str, files)]
        self._log = folder / "bare.log"
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=programs.CLONE,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        address, _, port = self.host.partition(":")
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(address, int(port))
                writer.close()
                return self
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the bare handler does not listen: {self._log.read_text()[-500:]}")
            await asyncio.sleep(0.02)

    async def __aexit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
