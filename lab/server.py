"""netspace-server processes for tests and benches: configured, started, killed, ended."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import programs
from lab.processes import bound

PATIENCE = 20.0
"""Seconds that anything may take."""


class Server:
    """A server on a Unix socket in its folder. `log` is what it has said on standard error so far;
    `settings` are keys of its configuration. It falls silent for a second at most."""

    module = "ipam_server.main"
    """What is run, as `python -m` names it."""

    def __init__(self, folder: Path, url: str, **settings: Any) -> None:
        self.folder = folder
        self.socket = folder / "server.sock"
        self.url = f"unix://{self.socket}"
        config = {
            "listen": [self.url],
            "name": "s1",
            "etcd": {"endpoints": [url], "timeout": 1},
            "leader_ttl": 1,
            "limits": {"commit": 1.5},
            **settings,
        }
        self.config = folder / "server.yaml"
        self.config.write_text(json.dumps(config))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*bound(), sys.executable, "-m", self.module, "--config", str(self.config)],
                cwd=programs.CLONE,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

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
