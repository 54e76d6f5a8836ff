"""A container runtime, as far as CNI goes: runs a node's executables for a pod as containerd does.

It makes the pod's network namespace, hands over the environment and, on standard input, the
plugin's configuration from the conflist with the pod's annotations, and keeps the result for CHECK
and DEL.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostnet import create_netns, delete_netns, get_link, set_up
from lab import programs, topology

ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
IFNAME = "eth0"


class CniError(Exception):
    """What the plugin answered instead of a result: CNI's code, message and details."""

    def __init__(self, code: int, msg: str, details: str) -> None:
        super().__init__(f"{msg}: {details}" if details else msg)
        self.code = code


@dataclass
class Sandbox:
    """One sandbox of a pod on a node; `addresses` is IPv4 then IPv6, without prefix length."""

    node: str
    namespace: str
    name: str
    uid: str
    container: str
    annotations: Mapping[str, str]
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def netns(self) -> str:
        return topology.netns(f"pod-{self.container[:12]}")

    @property
    def path(self) -> Path:
        return topology.NETNS / self.netns

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(ip["address"].split("/")[0] for ip in self.result.get("ips", ()))


class Runtime:
    """A node's runtime. `conflist`: the file it reads; `binaries`: where the executables lie;
    `folder`: the one they are started in."""

    def __init__(self, node: str, conflist: Path, binaries: Path, folder: Path) -> None:
        self.node = node
        self._binaries, self._folder = binaries, folder
        conf = json.loads(conflist.read_text())
        self._plugin = {
            **conf["plugins"][0],
            "name": conf["name"],
            "cniVersion": conf["cniVersion"],
        }

    def add(
        self, namespace: str, name: str, annotations: Mapping[str, str] | None = None
    ) -> Sandbox:
        """Starts a pod's sandbox. On `CniError` the sandbox is deleted again, as kubelet does."""
        sandbox = Sandbox(
            node=self.node,
            namespace=namespace,
            name=name,
            uid=str(uuid.uuid4()),
            container=secrets.token_hex(32),
            annotations=annotations or {},
        )
        create_netns(str(sandbox.path)).close()
        topology.within(sandbox.netns, lambda net: set_up(net, get_link(net, "lo")))
        try:
            sandbox.result = self.call("ADD", sandbox)
        except CniError:
            self.delete(sandbox)
            raise
        return sandbox

    def check(self, sandbox: Sandbox) -> None:
        self.call("CHECK", sandbox)

    def delete(self, sandbox: Sandbox) -> None:
        """Ends a sandbox: DEL, then its network namespace."""
        self.call("DEL", sandbox)
        delete_netns(str(sandbox.path))

    def call(self, operation: str, sandbox: Sandbox) -> dict[str, Any]:
        """Runs the executable once in the node's network namespace; returns what it answered."""
        env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "CNI_COMMAND": operation,
            "CNI_CONTAINERID": sandbox.container,
            "CNI_NETNS": str(sandbox.path) if sandbox.path.exists() else "",
            "CNI_IFNAME": IFNAME,
            "CNI_PATH": str(self._binaries),
            "CNI_ARGS": f"K8S_POD_UID={sandbox.uid};IgnoreUnknown=1"
            f";K8S_POD_NAMESPACE={sandbox.namespace};K8S_POD_NAME={sandbox.name}"
            f";K8S_POD_INFRA_CONTAINER_ID={sandbox.container}",
        }
        config = dict(self._plugin)
        if sandbox.annotations:
            config["runtimeConfig"] = {ANNOTATIONS: dict(sandbox.annotations)}
        if operation != "ADD" and sandbox.result:
            config["prevResult"] = sandbox.result
        done = topology.within(
            topology.netns(self.node),
            lambda _: subprocess.run(
                [str(self._binaries / config["type"])],
                input=json.dumps(config).encode(),
                cwd=self._folder,
                env=programs.environment(env),
                capture_output=True,
            ),
        )
        answer = json.loads(done.stdout) if done.stdout.strip() else {}
        if done.returncode != 0:
            text = done.stderr.decode(errors="replace").strip().splitlines()
            raise CniError(
                answer.get("code", 0),
                answer.get("msg", f"exit status {done.returncode}: {' '.join(text[-1:])}"),
                answer.get("details", ""),
            )
        return dict(answer)
