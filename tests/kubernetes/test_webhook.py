"""The webhook between a real API of Kubernetes' and a real address server."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.etcd import free_ports
from lab.server import CALM, Server, until
from netspace.messages import NewCluster, NewFabric, NewNetwork, NewPool
from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.controllers import ControllerProcess, World

COMPONENT = Path(__file__).parents[2] / "packaging" / "kubernetes" / "components" / "webhook"
NAMESPACE = "webhook-test"
OURS = "webhook-test"
"""The configuration that leads to this test's process."""
CLUSTER = "webhook"
"""Others' clusters are in the same etcd."""


class WebhookProcess(ControllerProcess):
    words = ("webhook",)


@pytest.fixture(scope="module")
def world(apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An API that asks a webhook, which asks a server."""
    folder = tmp_path_factory.mktemp("webhook")
    for name in ("server", "webhook"):
        (folder / name).mkdir()
    (port,) = free_ports("127.0.0.1", 1)
    tls = apiserver.pki.make([("O", "netspace:webhooks")], ["127.0.0.1"], server=True)
    server = Server(folder / "server", apiserver.etcd.url, **CALM)
    webhook = WebhookProcess(
        folder / "webhook",
        apiserver,
        server.url,
        cluster=CLUSTER,
        webhook={
            "listen": f"https://127.0.0.1:{port}",
            "ca": str(tls.ca),
            "cert": str(tls.cert),
            "key": str(tls.key),
        },
    )
    try:
        server.start()
        server.wait_until(lambda: server.listens, "listening")
        made = World(apiserver, server, webhook)
        made.ask(prepared)
        webhook.start()
        webhook.wait_until(lambda: webhook.said("listening"), "listening")
        (declared,) = [
            each
            for each in yaml.safe_load_all((COMPONENT / "webhook.yaml").read_text())
            if each["kind"] == "ValidatingWebhookConfiguration"
        ]
        client = {
            "url": f"https://127.0.0.1:{port}/validate",
            "caBundle": base64.b64encode(tls.ca.read_bytes()).decode(),
        }
        declared["metadata"]["name"] = OURS
        declared["webhooks"][0] |= {"clientConfig": client, "failurePolicy": "Fail"}
        apiserver.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        apiserver.apply(declared)
        until(lambda: "there is no pool" in applied(made, pod(netspace="none")), "it is asked")
        yield made
    finally:
        apiserver.kubectl("delete", "validatingwebhookconfiguration", OURS, check=False)
        apiserver.kubectl("delete", "namespace", NAMESPACE, "--wait=false", check=False)
        for each in (webhook, server):
            if each.running:
                each.end()


async def prepared(client: Any) -> None:
    await client.create_fabric(NewFabric(name=CLUSTER))
    await client.create_cluster(NewCluster(name=CLUSTER))
    await client.create_network(
        CLUSTER, NewNetwork(name="red", fabric=CLUSTER, vlan=910, ipv4="10.1.0.0/24")
    )
    pool = NewPool(name="blue", kind="netspace", network="red", size="8", namespaces=[NAMESPACE])
    await client.create_pool(CLUSTER, pool)


def pod(**ours: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", **template("web-0", **ours)}


def template(name: str, **ours: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"app": "web"},
            "annotations": {f"ipam.com/{key}": text for key, text in ours.items()},
        },
        "spec": {"containers": [{"name": "main", "image": "busybox"}]},
    }


def applied(world: World, body: dict[str, Any]) -> str:
    """What kubectl says; nothing is kept."""
    return world.apiserver.kubectl("apply", "--dry-run=server", "-f", "-", body=body, check=False)


def test_a_right_annotation_passes_and_a_wrong_one_is_refused_in_words(world: World) -> None:
    assert "pod/web-0 created" in applied(world, pod(netspace="blue"))
    assert "pod/web-0 created" in applied(world, pod())
    said = applied(world, pod(netspace="blu"))
    assert "annotations.ipam.netspace.io" in said
    assert "there is no pool blu: correct the name, or make it first" in said
    assert "there is no such annotation" in applied(world, pod(netspce="blue"))


def test_templates_and_namespaces_are_looked_at(world: World) -> None:
    spec = {
        "selector": {"matchLabels": {"app": "web"}},
        "template": template("", application="blue"),
    }
    metadata = {"name": "web", "namespace": NAMESPACE}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}
    assert "use ipam.com/netspace" in applied(world, deployment)
    annotated = {"name": "other", "annotations": {"ipam.com/netspace": "blue"}}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": annotated}
    assert "does not list namespace other" in applied(world, namespace)


def test_the_manifests_are_taken_by_the_api(with_namespaces: ApiServer) -> None:
    said = with_namespaces.kubectl("apply", "--dry-run=server", "-k", str(COMPONENT))
    assert "deployment.apps/netspace-webhook created" in said


def test_its_configuration_is_one(tmp_path: Path) -> None:
    from kube_controller.config import ControllerConfig
    from netspace.config import load

    config = load(COMPONENT / "webhook-config.yaml", ControllerConfig)
    assert config.webhook is not None
