"""The real kube-proxy of a node, fed by a double of the API that knows Services and endpoints.

It is found in the folder that NETSPACE_TEST_KUBERNETES names: the program itself, or `bin.tar.xz`
with it inside.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hostnet import Net, Netns, run_in
from hostnet.chains import Family
from hostnet.firewall import find_firewall, read_firewall, restore
from lab.programs import lookup
from tests.services_world import TCP_PORT, UDP_PORT, WorldNode

VARIABLE = "NETSPACE_TEST_KUBERNETES"


@dataclass(frozen=True)
class Service:
    """A Service of both families with TCP 80 and UDP 53, and what is behind it."""

    name: str
    number: int
    ipv4: str
    ipv6: str

    @property
    def ips(self) -> tuple[str, str]:
        return f"10.96.0.{self.number}", f"fd00:96::{self.number:x}"

    def as_object(self) -> dict[str, Any]:
        four, six = self.ips
        return {
            "metadata": _named(self.name),
            "spec": {
                "type": "ClusterIP", "clusterIP": four, "clusterIPs": [four, six],
                "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
                "sessionAffinity": "None",
                "ports": [
                    {"name": "t", "protocol": "TCP", "port": 80, "targetPort": TCP_PORT},
                    {"name": "u", "protocol": "UDP", "port": 53, "targetPort": UDP_PORT},
                ],
            },
        }  # fmt: skip

    def slices(self) -> list[dict[str, Any]]:
        return [
            {
                "metadata": {
                    **_named(f"{self.name}-{kind.lower()}"),
                    "labels": {"kubernetes.io/service-name": self.name},
                },
                "addressType": kind,
                "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
                "ports": [
                    {"name": "t", "protocol": "TCP", "port": TCP_PORT},
                    {"name": "u", "protocol": "UDP", "port": UDP_PORT},
                ],
            }
            for kind, address in (("IPv4", self.ipv4), ("IPv6", self.ipv6))
        ]


def program(folder: Path) -> Path | None:
    """kube-proxy, unpacked into the folder where it must be; None where there is none."""
    place = os.environ.get(VARIABLE)
    if not place:
        return None
    if (Path(place) / "kube-proxy").exists():
        return Path(place) / "kube-proxy"
    packed = Path(place) / "bin.tar.xz"
    if not packed.exists():
        return None
    with tarfile.open(packed) as archive:
        for member in archive:
            if Path(member.name).name == "kube-proxy":
                archive.extract(member, folder, filter="data")
                return folder / member.name
    return None


@contextmanager
def kube_proxy(
    node: WorldNode, binary: Path, services: Sequence[Service], back_end: str
) -> Iterator[None]:
    """kube-proxy running in the node's namespace, its rules for all Services written."""
    netns = node.netns
    server = run_in(
        netns, lambda _: ThreadingHTTPServer(("127.0.0.1", 0), _handler(services, node.ipv4))
    )
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = run_in(
            netns, lambda _: _start(folder, binary, node.name, server.server_port, back_end)
        )
        try:
            _wait(netns, process, services, folder / "log")
            yield
        finally:
            process.terminate()
            process.wait(10)
            server.shutdown()
            serving.join()
            server.server_close()


def plain_rules(node: WorldNode, services: Sequence[Service]) -> None:
    """What of kube-proxy's rules counts here, where the program is not there."""

    def job(net: Net) -> None:
        families: tuple[Family, ...] = (4, 6)
        for family in families:
            lines = ["*nat", ":KUBE-SERVICES - [0:0]"]
            lines += [f"-I {chain} 1 -j KUBE-SERVICES" for chain in ("PREROUTING", "OUTPUT")]
            for service in services:
                backend = service.ipv4 if family == 4 else f"[{service.ipv6}]"
                ip = service.ips[family == 6]
                for kind, port, target in (("tcp", 80, TCP_PORT), ("udp", 53, UDP_PORT)):
                    lines.append(
                        f"-A KUBE-SERVICES -d {ip} -p {kind} -m {kind} --dport {port}"
                        f" -j DNAT --to-destination {backend}:{target}"
                    )
            restore(net, find_firewall(net, family), "\n".join([*lines, "COMMIT", ""]))

    run_in(node.netns, job)


def _start(
    folder: Path, binary: Path, node: str, port: int, back_end: str
) -> subprocess.Popen[bytes]:
    (folder / "kubeconfig").write_text(
        json.dumps(
            {
                "apiVersion": "v1", "kind": "Config", "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "users": [{"name": "u", "user": {}}],
            }
        )
    )  # fmt: skip
    (folder / "config.json").write_text(
        json.dumps(
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "mode": "iptables", "hostnameOverride": node,
                "clientConnection": {"kubeconfig": str(folder / "kubeconfig"),
                                     "contentType": "application/json"},
                "featureGates": {"IPv6DualStack": True},
                "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s",
                              "tcpCloseWaitTimeout": "0s"},
                "healthzBindAddress": "127.0.0.1:10256", "metricsBindAddress": "127.0.0.1:10249",
                "iptables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
            }
        )
    )  # fmt: skip
    programs = folder / "bin"
    programs.mkdir()
    for name in ("iptables", "ip6tables"):
        for verb in ("", "-save", "-restore"):
            found = lookup(f"{name}-{back_end}{verb}")
            assert found is not None
            (programs / f"{name}{verb}").write_text(f'#!/bin/sh\nexec {found} "$@"\n')
            (programs / f"{name}{verb}").chmod(0o755)
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [str(binary), f"--config={folder / 'config.json'}"],
            env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _wait(
    netns: Netns, process: subprocess.Popen[bytes], services: Sequence[Service], log: Path
) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if run_in(netns, lambda net: _written(net, 4, services) and _written(net, 6, services)):
            return
        time.sleep(0.1)
    raise AssertionError(f"kube-proxy wrote no rules: {log.read_text()[:1500]}")


def _written(net: Net, family: Family, services: Sequence[Service]) -> bool:
    present = read_firewall(net, find_firewall(net, family))
    rules = " ".join(present.rules("nat", "KUBE-SERVICES") or [])
    return all(f"{service.ips[family == 6]}/" in rules for service in services)


def _named(name: str) -> dict[str, Any]:
    return {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"}


def _handler(services: Sequence[Service], node_ip: str) -> type[BaseHTTPRequestHandler]:
    lists = {
        "services": ("v1", "ServiceList", [service.as_object() for service in services]),
        "endpointslices": (
            "discovery.k8s.io/v1beta1",
            "EndpointSliceList",
            [each for service in services for each in service.slices()],
        ),
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            found = lists.get(path.rsplit("/", 1)[-1])
            if "/nodes/" in path:
                name = path.rsplit("/", 1)[-1]
                address = {"type": "InternalIP", "address": node_ip}
                self._answer(200, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
                                   "status": {"addresses": [address]}})  # fmt: skip
            elif found is None:
                self._answer(404, {"kind": "Status", "apiVersion": "v1", "status": "Failure",
                                   "reason": "NotFound", "code": 404})  # fmt: skip
            elif "watch=" in query:
                # Nothing ever changes: the answer has no end.
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.rfile.read(1)
                self.close_connection = True
            else:
                version, kind, items = found
                self._answer(200, {"apiVersion": version, "kind": kind, "items": items,
                                   "metadata": {"resourceVersion": "1"}})  # fmt: skip

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._answer(201, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

        def _answer(self, status: int, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
