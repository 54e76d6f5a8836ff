"""netspace-server processes for tests, benches and the demo: configured, started, killed, ended."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from lab import programs
from lab.processes import bound

PATIENCE = 20.0
"""Seconds that anything may take."""

CALM: dict[str, Any] = {"leader_ttl": 10}
"""Settings of a server that leads on through a busy machine's pauses."""

HASTY: dict[str, Any] = {"leader_ttl": 2, "limits": {"commit": 3}}
"""Settings of a server whose place another one takes soon."""


class ServerError(RuntimeError):
    """A server did not start; has the end of its log."""


class Server:
    """A server over the etcd at `url`, on a Unix socket in its folder. `log` is what it has said on
    standard error so far; `settings` are keys of its configuration. It ends with the process that
    started it, unless it `outlives` that; `environment` is added to its own."""

    module = "ipam_server.main"
    """What is run, as `python -m` names it."""

    words: tuple[str, ...] = ()
    """What comes before `--config`."""

    outlives = False

    def __init__(self, folder: Path, url: str, **settings: Any) -> None:
        self.folder = folder
        self.socket = folder / "server.sock"
        self.url = f"unix://{self.socket}"
        config = {
            "listen": [self.url],
            "name": "s1",
            "etcd": {"endpoints": [url]},
            **settings,
        }
        self.config = folder / "server.yaml"
        self.config.write_text(json.dumps(config))
        self.environment: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        command = [sys.executable, "-m", self.module, *self.words, "--config", str(self.config)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command if self.outlives else [*bound(), *command],
                cwd=programs.CLONE,
                env=programs.environment() | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for whoever ends what outlives its starter.
                start_new_session=self.outlives,
            )
        return self

    def wait_until(self, condition: Callable[[], Any], what: str) -> None:
        """Waits for something of a server that runs; raises `ServerError` with the end of its log
        where it has ended or takes too long."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if not self.running or time.monotonic() > deadline:
                said = (self.folder / "log").read_text(errors="replace")[-2000:]
                raise ServerError(f"the server in {self.folder}: not {what}; its log ends:\n{said}")
            time.sleep(0.05)

    @property
    def listens(self) -> bool:
        """Whether its socket answers."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    @property
    def log(self) -> list[dict[str, Any]]:
        found = []
        for line in (self.folder / "log").read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def said(self, message: str) -> bool:
        return any(line["message"].startswith(message) for line in self.log)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def end(self, number: int = signal.SIGTERM) -> int:
        """The exit status after the signal."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)
