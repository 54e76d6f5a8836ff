"""Netspace on the cluster, installed as packaging/kubernetes/README.md says: overlay `try`, with
the configuration of these nodes by an overlay of one's own."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import yaml

from lab import programs
from tests.kubernetes.cluster import ADDRESSES, NODES, SERVICE_CIDRS, Cluster, until

KUBERNETES: Final = programs.CLONE / "packaging" / "kubernetes"
NAMESPACE: Final = "netspace-system"
CLUSTER: Final = "prod"
SERVICE: Final = "10.96.0.47"
PARTS: Final = (
    "deployment/netspace-server",
    "daemonset/netspace-agent",
    "deployment/netspace-controller",
)
PATIENCE: Final = 180
"""Seconds until everything runs, on a machine that has much else to do."""


class Netspace:
    """Netspace on the cluster; what a person has made for it is in `folder`."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.certs = folder / "certs"
        self.overlay = folder / "my-cluster"

    def prepare(self, archive: Path) -> None:
        """Images, label, certificates, Secrets, overlay."""
        with ThreadPoolExecutor() as threads:
            imports = [threads.submit(self.cluster.import_images, node, archive) for node in NODES]
            self.cluster.kubectl("label", "node", NODES[0], "ipam.netspace.io/server=true")
            self._make_certificates()
            self._make_secrets()
            self._write_overlay()
            for each in imports:
                each.result()

    def install(self) -> None:
        """`kubectl apply -k`, until everything runs. The server is told of the cluster, of which it
        may know already."""
        self.cluster.kubectl("apply", "-k", str(self.overlay))
        self._wait_for(PARTS[0])
        if not json.loads(self.exec("cluster", "list", "-o", "json")):
            self.exec("cluster", "create", CLUSTER)
        self._wait_for(*PARTS[1:])

    def _wait_for(self, *parts: str) -> None:
        for part in parts:
            words = ("rollout", "status", part, f"--timeout={PATIENCE}s")
            self.cluster.kubectl("-n", NAMESPACE, *words, seconds=PATIENCE + 10)

    def remove(self) -> None:
        """Out of Kubernetes; what is declared, and what is on the nodes, stays."""
        ours = ("-l", "app.kubernetes.io/part-of=netspace")
        kinds = "daemonset,deployment,service,configmap,serviceaccount,role,rolebinding"
        self.cluster.kubectl("-n", NAMESPACE, "delete", kinds, *ours)
        self.cluster.kubectl("delete", "clusterrole,clusterrolebinding", *ours)
        until(lambda: not self.pods(), "Netspace's pods are gone")

    def remove_from_nodes(self) -> None:
        """By the overlay `uninstall`."""
        overlay = str(KUBERNETES / "overlays" / "uninstall")
        self.cluster.kubectl("apply", "-k", overlay)
        rollout = ("rollout", "status", "daemonset/netspace-uninstall", f"--timeout={PATIENCE}s")
        self.cluster.kubectl("-n", "netspace-uninstall", *rollout, seconds=PATIENCE + 10)
        self.cluster.kubectl("delete", "-k", overlay, "--wait=false")

    def pods(self) -> list[Any]:
        return list(self.cluster.get("pods", "-n", NAMESPACE)["items"])

    def exec(self, *words: str) -> str:
        """netspacectl in the server's container, as the README has it."""
        inside = ("exec", "deployment/netspace-server", "-c", "server", "--")
        return self.cluster.kubectl("-n", NAMESPACE, *inside, "netspacectl", *words)

    def ctl(self, *words: str, check: bool = True) -> str:
        """netspacectl with an admin's certificate, from a node."""
        program = str(programs.VENV / "bin" / "netspacectl")
        where = ("--server", f"https://{SERVICE}:8470", "--ca", str(self.certs / "ca.pem"))
        who = [f"--{kind}={self.certs}/admin-test.{end}" for kind, end in _PAIR]
        return self.cluster.on(NODES[0], program, *where, *who, *words, check=check)

    def asked(self, *words: str) -> Any:
        """The same, as values."""
        return json.loads(self.ctl(*words, "-o", "json"))

    def certify(self, *words: str) -> None:
        """`netspacectl certs`, into the folder of the certificates."""
        program = str(programs.VENV / "bin" / "netspacectl")
        self.cluster.on(NODES[0], program, "certs", *words, "--dir", str(self.certs))

    def make_secret(self, name: str, files: list[tuple[str, str]]) -> None:
        """Of the authority's certificate and of `files`: key → file among the certificates."""
        given = [("ca.pem", "ca.pem"), *files]
        words = [f"--from-file={key}={self.certs / file}" for key, file in given]
        self.cluster.kubectl("-n", NAMESPACE, "create", "secret", "generic", name, *words)

    def _make_certificates(self) -> None:
        self.certify("ca")
        self.certify("server", "netspace", "--host", SERVICE, "--host", ADDRESSES[NODES[0]])
        self.certify("controller", CLUSTER)
        self.certify("admin", "test")
        for node in NODES:
            self.certify("node", CLUSTER, node)

    def _make_secrets(self) -> None:
        self.cluster.kubectl("apply", "-f", str(KUBERNETES / "base" / "namespace.yaml"))
        both = [(f"{name}.{end}", f"server-netspace.{end}") for name, end in _ends("server")]
        self.make_secret("netspace-server-tls", both)
        both = [
            (f"{name}.{end}", f"controller-{CLUSTER}.{end}") for name, end in _ends("controller")
        ]
        self.make_secret("netspace-controller-tls", both)
        both = [
            (f"{node}.{end}", f"node-{CLUSTER}-{node}.{end}")
            for node in NODES
            for _, end in _ends("")
        ]
        self.make_secret("netspace-nodes-tls", both)

    def _write_overlay(self) -> None:
        self.overlay.mkdir()
        base = yaml.safe_load((KUBERNETES / "base" / "node-config.yaml").read_text())
        base["services"]["cidrs"] = list(SERVICE_CIDRS)
        (self.overlay / "default.yaml").write_text(yaml.safe_dump(base))
        try_it = os.path.relpath(KUBERNETES / "overlays" / "try", self.overlay)
        node = {"name": "netspace-node", "behavior": "merge", "files": ["default.yaml"]}
        overlay = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": NAMESPACE,
            "bases": [try_it],
            "configMapGenerator": [node],
        }
        (self.overlay / "kustomization.yaml").write_text(yaml.safe_dump(overlay))


_PAIR: Final = (("cert", "pem"), ("key", "key"))


def _ends(name: str) -> list[tuple[str, str]]:
    return [(name, end) for _, end in _PAIR]
