"""A node whose executables are the launchers, and its agent, which runs beside the test.

The launchers of the tests look for the agent's socket in their working folder, the node's.
"""

from __future__ import annotations

import functools
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from cni_plugins import agent_status
from cni_plugins.agent_status import AgentStatus
from hostnet import run_in
from lab import launcher, programs
from tests.nodes import Node

WAYS = ("exec", "agent")
"""How a node may do its work; whatever holds of one must hold of the other."""
SOCKET = "cni.sock"
_AGENT = (sys.executable, "-m", "cni_plugins.agent_main", "serve")
_SOON = 20.0
_HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execvp(sys.argv[2], sys.argv[2:])
"""


@functools.cache
def _launcher() -> Path:
    """The executable, compiled once; it goes with this process."""
    folder = tempfile.TemporaryDirectory(prefix="netspace-launcher-")
    _kept.append(folder)
    target = Path(folder.name) / "netspace"
    launcher.build(target, {"SOCKET_PATH": f'"{SOCKET}"'})
    return target


_kept: list[tempfile.TemporaryDirectory[str]] = []


def install_launchers(node: Node, **agent: Any) -> None:
    """Puts the launchers in the place of the plugins, which move beside them as on a real node, and
    the agent's section, with these values, into the node's configuration."""
    complete = node.folder / "bin" / "netspace-plugin"
    complete.mkdir()
    for name in launcher.NAMES:
        (node.folder / "bin" / name).rename(complete / name)
        shutil.copy(_launcher(), node.folder / "bin" / name)
    config = json.loads(node.config.read_text())
    config["agent"] = {"socket": str(node.folder / SOCKET), **agent}
    node.config.write_text(json.dumps(config))


class RunningAgent:
    """The agent's process in the node's namespace, and its log."""

    def __init__(self, node: Node, command: Sequence[str] = _AGENT) -> None:
        self.node = node
        self.command = [*command, "--config", str(node.config)]
        self.process: subprocess.Popen[bytes] | None = None
        self.log = node.folder / "agent.log"

    @property
    def path(self) -> Path:
        return self.node.folder / SOCKET

    def start(
        self, environ: Mapping[str, str] | None = None, listener: socket.socket | None = None
    ) -> None:
        """Starts it; it is not ready yet. A listener is handed over as systemd does it."""
        environment = {**programs.environment(), **(environ or {})}
        command, pass_fds = self.command, list[int]()
        if listener is not None:
            command = [sys.executable, "-ISc", _HAND_OVER, str(listener.fileno()), *command]
            pass_fds.append(listener.fileno())
        with self.log.open("ab") as log:
            self.process = run_in(
                self.node.netns,
                lambda _: subprocess.Popen(
                    command,
                    cwd=programs.CLONE,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=pass_fds,
                ),
            )

    def started(self) -> RunningAgent:
        """Starts it and waits until it serves."""
        self.start()
        self.wait_until_serving()
        return self

    def wait_until_serving(self) -> None:
        deadline = time.monotonic() + _SOON
        while not self._answers():
            assert self.process is not None and self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    def status(self) -> AgentStatus:
        """What it says of itself."""
        return msgspec.json.decode(agent_status.ask(self.path, "status"), type=AgentStatus)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends it by a signal; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def messages(self) -> list[dict[str, Any]]:
        """The lines of its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line[:1] == "{"]

    def kill(self) -> None:
        """Ends it in the midst of whatever it does, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.path))
        except OSError:
            return False
        return True


@contextmanager
def running_agent(node: Node, **agent: Any) -> Iterator[RunningAgent]:
    """An agent that serves the node's launchers; `agent` are values of its section."""
    install_launchers(node, **agent)
    running = RunningAgent(node)
    try:
        running.started()
        # Its first report looks at all attachments: it is over before a test makes some.
        wait_for("the first report", lambda: "attachments" in running.status().said)
        yield running
    finally:
        running.kill()


@contextmanager
def by(way: str, node: Node) -> Iterator[Node]:
    """The node with complete plugins as its executables ("exec"), or with launchers and an agent
    ("agent")."""
    if way == "exec":
        yield node
    else:
        with running_agent(node):
            yield node


def wait_for(what: str, condition: Callable[[], bool], seconds: float = _SOON) -> None:
    """Waits until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)
