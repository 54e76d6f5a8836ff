"""What is written down of a federated place where something in it went wrong: by node what its
kernel has, what its agent says of itself and what its programs have logged, and by pod its routes.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from lab import programs, topology
from lab.federation.layout import LabNode
from lab.federation.place import FederatedPlace
from lab.place import FOLDER
from netspace.problems import Problem

_NODE: Final = (
    ("ip", "-s", "address"),
    ("ip", "route", "show", "table", "all"),
    ("ip", "-6", "route", "show", "table", "all"),
    ("ip", "neighbour"),
    ("ip", "-s", "xfrm", "policy"),
    ("ip", "-s", "xfrm", "state"),
    ("iptables-legacy-save", "-c"),
    ("ip6tables-legacy-save", "-c"),
    ("ipset", "list"),
)
_POD: Final = (
    ("ip", "-s", "address"),
    ("ip", "route"),
    ("ip", "-6", "route"),
    ("ip", "neighbour"),
)
_COUNTERS: Final = ("/proc/net/xfrm_stat", "/proc/net/snmp", "/proc/net/snmp6")


def write(lab: FederatedPlace, folder: Path) -> None:
    """Into files in the folder, which is made. What cannot be had is told in its place."""
    folder.mkdir(parents=True, exist_ok=True)
    for node in lab.nodes:
        space = topology.netns(node.name)
        (folder / f"{node.name}.kernel").write_text(_told(space, _NODE, _COUNTERS))
        (folder / f"{node.name}.agent").write_text(_agent(lab, node))
    for name, pod in lab.pods.items():
        (folder / f"{name}.kernel").write_text(_told(pod.netns, _POD, ()))
    for log in sorted(FOLDER.glob("*/**/*log")):
        name = "-".join(log.relative_to(FOLDER).parts)
        (folder / name).write_bytes(log.read_bytes())


def _agent(lab: FederatedPlace, node: LabNode) -> str:
    try:
        return msgspec.json.format(msgspec.json.encode(lab.agent_status(node))).decode()
    except Problem as problem:
        return str(problem)


def _told(space: str, commands: Iterable[Sequence[str]], files: Iterable[str]) -> str:
    """What commands say in a namespace, and what files say there. No secret is among it but the
    keys of the lab's own states."""
    asked = [*commands, *(("cat", file) for file in files)]
    return "\n".join(f"$ {' '.join(words)}\n{_said(space, words)}" for words in asked)


def _said(space: str, words: Sequence[str]) -> str:
    try:
        program = words[0] if words[0] == "cat" else str(programs.find(words[0]))
        done = subprocess.run(
            [str(programs.find("ip")), "netns", "exec", space, program, *words[1:]],
            capture_output=True,
            text=True,
            env=programs.environment(),
        )
    except programs.ProgramMissing as error:
        return f"{error}\n"
    return done.stdout + done.stderr
