"""Cgroups for the runtimes of tests, and whether a runtime can run here at all."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from lab import probe, programs

_PATIENCE = 30.0


def missing() -> str:
    """Why no runtime can run here; empty where one can."""
    if reason := probe.kernel().no_namespaces:
        return f"needs network namespaces ({reason})"
    for name in ("containerd", "containerd-shim-runc-v2", "ctr", "runc", "podman", "conmon", "gcc"):
        if programs.lookup(name) is None:
            return f"needs {name}: ./run test brings it, but for gcc"
    if not hierarchies():
        return "needs cgroups: none are mounted"
    folder = of_node("probe")
    try:
        for hierarchy in hierarchies():
            Path(f"{hierarchy}{folder}").mkdir()
    except OSError as error:
        return f"needs cgroups that it may make ({error})"
    finally:
        remove(folder)
    return ""


def hierarchies() -> list[str]:
    """Where the hierarchies of cgroups are mounted."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [fields[1] for fields in mounts if fields[2] in ("cgroup", "cgroup2")]


def of_node(name: str) -> str:
    """The path of a node's cgroup, which names the process whose test it is."""
    return f"/netspace-{os.getpid()}-{name}"


def remove_abandoned() -> None:
    """Removes what a test left whose process was killed."""
    for hierarchy in hierarchies():
        for folder in Path(hierarchy).glob("netspace-*-*"):
            pid = folder.name.split("-")[1]
            if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
                remove(f"/{folder.name}")


def remove(path: str) -> None:
    """Removes a tree of cgroups in every hierarchy, once nothing runs in it any more."""
    deadline = time.monotonic() + _PATIENCE
    for hierarchy in hierarchies():
        top = Path(f"{hierarchy}{path}")
        while top.exists() and time.monotonic() < deadline:
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
            if top.exists():
                time.sleep(0.05)
