"""A system without Python on which the packages are installed, and what is run on it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hostnet import Netns
from lab import debian
from lab.processes import bound
from tests.nodes import netns_path

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE: Final = 60.0

# What a system has that nobody calls a trace: the package manager's books and logs.
_BOOKS: Final = ("proc/", "dev/", "tmp/", "var/lib/dpkg/", "var/log/", "var/cache/")


@dataclass
class System:
    """A root folder. Programs run with it as their root, in a network namespace if one is named."""

    root: Path

    def start(
        self,
        *command: str,
        netns: Netns | None = None,
        environ: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        log: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program; `before` are commands around it on the machine. Without a `log` its
        output and standard error are pipes."""
        inside = [] if netns is None else ["nsenter", f"--net={netns_path(netns)}", "--"]
        with contextlib.ExitStack() as files:
            file = None if log is None else files.enter_context(log.open("ab"))
            return subprocess.Popen(
                [*bound(), *inside, *before, *debian.inside(self.root, *command)],
                # All the environment there is.
                env={"PATH": PATH, "LC_ALL": "C", "HOME": "/root", **(environ or {})},
                stdin=subprocess.PIPE if file is None else subprocess.DEVNULL,
                stdout=file or subprocess.PIPE,
                stderr=file or subprocess.PIPE,
            )

    def run(
        self, *command: str, stdin: bytes = b"", status: int = 0, **options: Any
    ) -> tuple[str, str]:
        """Run a program that ends with `status`; its output and its standard error."""
        process = self.start(*command, **options)
        output, errors = (data.decode() for data in process.communicate(stdin, PATIENCE))
        assert process.returncode == status, f"{command}: {process.returncode}\n{output}\n{errors}"
        return output, errors

    def install(self, deb: Path) -> None:
        (self.root / "tmp" / deb.name).write_bytes(deb.read_bytes())
        self.run("dpkg", "--install", f"/tmp/{deb.name}")

    def write(self, path: str, content: Mapping[str, Any]) -> None:
        """Write a configuration file."""
        (self.root / path).write_text(json.dumps(content))

    def files(self) -> set[str]:
        """Everything there is but the package manager's books."""
        found = set()
        for folder, folders, names in os.walk(self.root):
            at = os.path.relpath(folder, self.root)
            for name in (*folders, *names):
                path = name if at == "." else f"{at}/{name}"
                if not f"{path}/".startswith(_BOOKS):
                    found.add(path)
        return found


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)
