"""The cluster made ready for federations, as packaging/kubernetes/components/federation/README.md
says: the component on top of what a person has made for Netspace already."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import yaml

from tests.kubernetes.cluster import ADDRESSES, NODES, until
from tests.kubernetes.installed import KUBERNETES, NAMESPACE, PATIENCE, Netspace

COMPONENT: Final = KUBERNETES / "components" / "federation"
SERVICE: Final = "10.96.0.48"
PARTS: Final = (
    "deployment/netspace-federation",
    "daemonset/netspace-federation-agent",
    "deployment/netspace-controller",
)
_TLS: Final = "netspace-federation-tls"
_LABEL: Final = "ipam.netspace.io/federation"


class Federating:
    """The federation server, agents and charons on a cluster that has Netspace."""

    def __init__(self, netspace: Netspace, folder: Path) -> None:
        self.netspace = netspace
        self.cluster = netspace.cluster
        self._overlay = folder

    def install(self) -> None:
        """Until all of it runs."""
        self.cluster.kubectl("label", "node", NODES[0], f"{_LABEL}=true")
        hosts = (SERVICE, ADDRESSES[NODES[0]])
        self.netspace.certify("server", "federation", *(f"--host={host}" for host in hosts))
        files = [(f"server.{end}", f"server-federation.{end}") for end in ("pem", "key")]
        self.netspace.make_secret(_TLS, files)
        self._write_overlay()
        self.cluster.kubectl("apply", "-k", str(self._overlay))
        self._wait_for(*PARTS)
        # Of what is replaced by hand alone, `rollout status` knows nothing.
        charon = ("pods", "-l", "app.kubernetes.io/name=netspace-charon")
        ready = ("--for=condition=Ready", "--timeout=60s")
        self.cluster.kubectl("-n", NAMESPACE, "wait", *charon, *ready)

    def remove(self) -> None:
        """The component alone, and what was made for it; the controller is as it was before."""
        self.cluster.kubectl("delete", "-k", str(COMPONENT), "--ignore-not-found", "--wait=false")
        self.cluster.kubectl("apply", "-k", str(self.netspace.overlay))
        self.cluster.kubectl("-n", NAMESPACE, "delete", "secret", _TLS)
        self.cluster.kubectl("label", "node", NODES[0], f"{_LABEL}-")
        self._wait_for(PARTS[-1])

    def ctl(self, *words: str) -> str:
        """`netspacectl federation` in the server's container."""
        inside = ("exec", "deployment/netspace-federation", "--")
        return self.cluster.kubectl("-n", NAMESPACE, *inside, "netspacectl", "federation", *words)

    def status(self) -> Any:
        """What the server says of its nodes and federations, as values."""
        return json.loads(self.ctl("status", "-o", "json"))

    def on_each_node(self, part: str, *command: str) -> list[str]:
        """What a program says in the container of the DaemonSet on each node."""
        words = ("get", "pods", "-l", f"app.kubernetes.io/name={part}", "-o", "name")
        pods = self.cluster.kubectl("-n", NAMESPACE, *words).split()
        assert len(pods) == len(NODES)
        kubectl = self.cluster.kubectl
        return [kubectl("-n", NAMESPACE, "exec", pod, "--", *command) for pod in pods]

    def found(self, name: str) -> Any:
        """The Federation as it is; empty if there is none."""
        found = self.cluster.get("federations.ipam.netspace.io")["items"]
        return next((each for each in found if each["metadata"]["name"] == name), {})

    def answering(self, name: str, member: str) -> Any:
        """What its status says of the other member, once it answers and all paths to it are up."""

        def up() -> Any:
            status = self.found(name).get("status", {})
            said = {each["type"]: each["reason"] for each in status.get("conditions", ())}
            found = [each for each in status.get("members", ()) if each["cluster"] == member]
            if said.get("Reachable") != "Answering" or not found:
                return None
            [one] = found
            return one if one.get("tunnelsUp") == one.get("tunnelsWanted") == len(NODES) else None

        return until(up, f"{member} answers in {name}: {self.found(name).get('status')}")

    def _wait_for(self, *parts: str) -> None:
        for part in parts:
            words = ("rollout", "status", part, f"--timeout={PATIENCE}s")
            self.cluster.kubectl("-n", NAMESPACE, *words, seconds=PATIENCE + 10)

    def _write_overlay(self) -> None:
        """Of a cluster whose etcd is the one of overlay `try`."""
        server = (COMPONENT / "server-config.yaml").read_text()
        # With the places that the container fills in it is no YAML yet.
        until_etcd, _, rest = server.partition("etcd:\n")
        etcd = "etcd:\n  endpoints: [http://127.0.0.1:12379]\n"
        ipam = rest[rest.index("ipam:") :]
        (self._overlay / "federation-server.yaml").write_text(until_etcd + etcd + ipam)
        controller = yaml.safe_load((KUBERNETES / "base" / "controller-config.yaml").read_text())
        controller["federation"] = {
            **controller["server"],
            "endpoints": [f"https://{SERVICE}:8473"],
        }
        (self._overlay / "controller.yaml").write_text(yaml.safe_dump(controller))
        merged = {
            "netspace-federation": "federation-server.yaml",
            "netspace-controller": "controller.yaml",
        }
        overlay = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": NAMESPACE,
            "bases": [
                os.path.relpath(each, self._overlay) for each in (self.netspace.overlay, COMPONENT)
            ],
            "configMapGenerator": [
                {"name": name, "behavior": "merge", "files": [file]}
                for name, file in merged.items()
            ],
        }
        (self._overlay / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
