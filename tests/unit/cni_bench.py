"""A node in memory but for its records, and the calls a runtime makes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cni_plugins import add, delete
from cni_plugins.attachment import Host
from cni_plugins.protocol import CniError, Invocation, parse
from cni_plugins.records import Records
from cni_plugins.results import Result, encode_result
from netspace.problems import Problem
from tests.unit.cni_doubles import CONTAINER, NETNS, InjectedError, MemoryIpam, MemoryWiring

AWAY = Problem("unavailable", "nobody answers")
LOST = Problem("outcome-unknown", "no answer came")
EVERYTHING_GOES: dict[str, Any] = {"cni.dev/valid-attachments": []}
STEPS = ["record", "older sandboxes", "slot", "interface", "held"]


def added(bench: Bench, **changes: Any) -> Result:
    return asyncio.run(add.add(bench.host(), invocation(**changes)))


def deleted(bench: Bench, **changes: Any) -> None:
    asyncio.run(delete.delete(bench.host(), invocation("DEL", **changes), "netspace"))


def error_of(work: Callable[[], object]) -> CniError:
    with pytest.raises(CniError) as caught:
        work()
    return caught.value


def fail_at(name: str) -> Callable[[str], None]:
    def step(done: str) -> None:
        if done == name:
            raise InjectedError(name)

    return step


def prev_result(result: Result, version: str = "1.1.0") -> dict[str, Any]:
    value: dict[str, Any] = json.loads(encode_result(result, version))
    return value


class Bench:
    """A node in memory but for its records, which are files in `folder`."""

    def __init__(self, folder: Path, ipam: MemoryIpam | None = None) -> None:
        self.folder = folder
        self.ipam = ipam or MemoryIpam()
        self.wiring = MemoryWiring()
        self.records = Records(folder)

    def host(self, step: Callable[[str], None] = lambda step: None, **changes: Any) -> Host:
        values: dict[str, Any] = {
            "cluster": "c1",
            "node": "node-1",
            "records": self.records,
            "client": self.ipam,
            "wiring": self.wiring,
            "environ": {},
            "step": step,
            "lock_wait": 0.2,
        }
        return Host(**{**values, **changes})

    def files(self) -> list[str]:
        """What is left of attachments on disk."""
        return sorted(
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path.is_file()
            and path.parent.name not in ("mappings", "made")
            and path.name != "lock"
        )

    def nothing_left(self) -> bool:
        return not (self.wiring.links or self.wiring.vlans or self.ipam.holders or self.files())


def invocation(
    command: str = "ADD",
    *,
    container: str = CONTAINER,
    netns: str = NETNS,
    ifname: str = "eth0",
    args: str = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u1",
    **conf: Any,
) -> Invocation:
    """The invocation of a configuration with our IPAM and these changes to it."""
    values = {
        "cniVersion": "1.1.0",
        "name": "net",
        "type": "netspace",
        "ipam": {"type": "netspace-ipam"},
        **conf,
    }
    environ = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": netns,
        "CNI_IFNAME": ifname,
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": args,
    }
    return parse(environ, json.dumps(values).encode())
