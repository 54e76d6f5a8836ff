"""A controller's process between a real API of Kubernetes' and a real address server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ipam_server.client import Client
from lab import federation_server
from lab.federation_server import FederationServer
from lab.server import HASTY, Server, until
from netspace.http_client import HttpClient
from netspace.messages import (
    AllocateRequest,
    Allocation,
    AttachmentId,
    NewCluster,
    NodeReport,
    Selection,
)
from netspace.messages import Pod as PodOf
from netspace.problems import Problem
from tests.kubernetes.apiserver import ApiServer

CLUSTER = "east"
CRDS = Path(__file__).parents[2] / "packaging" / "kubernetes" / "base" / "crds"
LEASE, DURATION = "controller-tests", 8
"""Name, and the seconds it lasts where nobody gives it up."""

T = TypeVar("T")


class ControllerProcess(Server):
    """A hasty controller; `sooner` are keys of its configuration."""

    module = "kube_controller.main"
    words = ("serve",)

    def __init__(self, folder: Path, apiserver: ApiServer, url: str, **settings: Any) -> None:
        super().__init__(folder, url)
        self.port = folder / "signs.sock"
        config = {
            "cluster": CLUSTER,
            "server": {"endpoints": [url]},
            "kubernetes": {"kubeconfig": str(apiserver.kubeconfig)},
            "election": {
                "lease": LEASE,
                "namespace": "default",
                "duration": DURATION,
                "pause": 0.3,
            },
            "listen": f"unix://{self.port}",
            "poll": 0.5,
            "observe": 0.5,
            **settings,
        }
        self.config.write_text(json.dumps(config))


@dataclass
class World:
    """An API with the custom resources, a server, a controller, and the federation server that it
    asks, if any."""

    apiserver: ApiServer
    server: Server
    controller: ControllerProcess
    federation: FederationServer | None = None

    def ask(self, question: Callable[[Client], Awaitable[T]]) -> T:
        """What the server answers to a person."""

        async def scenario() -> T:
            async with Client([self.server.url]) as client:
                return await question(client)

        return asyncio.run(scenario())

    def network(self, name: str, **spec: Any) -> dict[str, Any]:
        return custom("Network", name, parent="bond0", **spec)

    def pool(self, name: str, network: str, kind: str = "netspace", **spec: Any) -> dict[str, Any]:
        return custom("Pool", name, kind=kind, network=network, **spec)

    def apply(self, *objects: dict[str, Any]) -> None:
        self.apiserver.apply(*objects)

    def found(self, kind: str, name: str) -> dict[str, Any]:
        """One of our objects as it is now; empty if there is none."""
        return self.apiserver.find(f"/apis/ipam.netspace.io/v1alpha1/{kind}s/{name}") or {}

    def status(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.found(kind, name).get("status", {})
        return found

    def condition(self, kind: str, name: str) -> dict[str, Any]:
        """The condition `Ready` of an object as it is now; empty if it has none yet."""
        found = self.found(kind, name)
        status = found.get("status", {})
        if not found or status.get("observedGeneration") != found["metadata"]["generation"]:
            return {}
        conditions = status.get("conditions", [])
        return next((each for each in conditions if each["type"] == "Ready"), {})

    def wait_ready(self, kind: str, *names: str) -> None:
        for name in names:
            until(partial(self._is_ready, kind, name), f"{kind} {name} is ready")

    def _is_ready(self, kind: str, name: str) -> bool:
        return self.condition(kind, name).get("status") == "True"

    def wait_refused(self, kind: str, name: str, reason: str) -> str:
        """The message once the object is refused for this reason."""
        until(
            lambda: self.condition(kind, name).get("reason") == reason,
            f"{kind} {name} is refused: {self.condition(kind, name)}",
        )
        assert self.condition(kind, name)["status"] == "False"
        return str(self.condition(kind, name)["message"])

    def pod(self, pool: str, name: str, node: str = "node-1", **more: Any) -> Allocation:
        """A pod's address from the pool, as its node asks for it."""
        request = AllocateRequest(
            attachment=AttachmentId(container=f"c-{name}", ifname="eth0"),
            claim=f"{abs(hash(name)):032x}"[-32:],
            node=node,
            pod=PodOf(namespace="team", name=name, uid=more.pop("uid", f"uid-{name}")),
            selection=Selection(**(more or {"netspace": pool})),
        )
        return self.ask(lambda client: client.allocate(CLUSTER, request))

    def report(self, *nodes: str) -> None:
        async def all_of_them(client: Client) -> None:
            for node in nodes:
                await client.report_node(CLUSTER, node, NodeReport(version="1"))

        self.ask(all_of_them)

    def is_unfenced(self, node: str) -> bool:
        """Whether the server has no word of Kubernetes' on the node."""
        try:
            self.ask(lambda client: client.fencing(CLUSTER, node))
        except Problem as problem:
            return problem.code == "not-found"
        return False

    def namespaces_of(self, *pools: str) -> set[tuple[str, ...]]:
        """What the pools list."""
        found = self.ask(lambda client: client.pools(CLUSTER))
        return {tuple(pool.namespaces) for pool in found if pool.name in pools}


@pytest.fixture(scope="session")
def controlled(apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Servers and a controller at the API without nodes, for all who leave them running."""
    folder = tmp_path_factory.mktemp("controlled")
    for name in ("server", "federation", "controller"):
        (folder / name).mkdir()
    reclaim = {"grace": 1, "interval": 0.3}
    server = Server(folder / "server", apiserver.etcd.url, **HASTY, reclaim=reclaim)
    apiserver.kubectl("apply", "-f", str(CRDS))
    apiserver.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    federation = FederationServer(
        folder / "federation", apiserver.etcd.url, CLUSTER, cni="bridge", **federation_server.HASTY
    )
    controller = ControllerProcess(
        folder / "controller", apiserver, server.url, federation={"endpoints": [federation.url]}
    )
    try:
        for each in (server, federation):
            each.start()
        for each in (server, federation):
            each.wait_until(lambda each=each: each.listens, "listening")  # type: ignore[misc]
        made = World(apiserver, server, controller, federation)
        made.ask(lambda client: client.create_cluster(NewCluster(name=CLUSTER)))
        controller.start()
        controller.wait_until(lambda: controller.said("leading"), "leading")
        yield made
    finally:
        for running in (controller, federation, server):
            if running.running:
                running.end()


def asked(port: Path, path: str) -> str:
    """What a controller answers at its own port."""

    async def scenario() -> str:
        client = HttpClient([f"unix://{port}"])
        try:
            return (await client.request("GET", path)).decode()
        except Problem as problem:
            return str(problem)
        finally:
            await client.close()

    return asyncio.run(scenario())


def custom(kind: str, name: str, /, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "ipam.netspace.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }


def workload(
    kind: str, name: str, namespace: str, replicas: int, application: str
) -> dict[str, Any]:
    labels = {"app": name}
    spec: dict[str, Any] = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels, "annotations": {"ipam.com/application": application}},
            "spec": {"containers": [{"name": "c", "image": "busybox"}]},
        },
    }
    if kind == "StatefulSet":
        spec["serviceName"] = name
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def namespace(name: str, **annotations: str) -> dict[str, Any]:
    ours = {f"ipam.com/{key}": value for key, value in annotations.items()}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "annotations": ours},
    }


def node(name: str, taints: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"taints": [{"key": key, "effect": "NoExecute"} for key in taints]},
    }


def scheduled(name: str, on: str) -> dict[str, Any]:
    """A pod that runs on a node, as far as the API knows."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": on, "containers": [{"name": "c", "image": "busybox"}]},
    }


def pod_event(pod: str, within: str, uid: str, reason: str, component: str) -> dict[str, Any]:
    """What somebody says of a pod."""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{pod}.", "namespace": within},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": within,
            "name": pod,
            "uid": uid,
        },
        "type": "Warning",
        "reason": reason,
        "message": "as the test says",
        "source": {"component": component},
        "reportingComponent": component,
    }
