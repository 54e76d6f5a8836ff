"""A node at the real API: annotations, events, rights, as a service account with least rights."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from cni_plugins.kubernetes import events, rights
from cni_plugins.kubernetes.api import KubeApi
from cni_plugins.kubernetes.events import Happening, Post
from cni_plugins.kubernetes.pods import ApiPods
from cni_plugins.kubernetes.telling import post_event
from cni_plugins.node_config import KubernetesSection
from cni_plugins.protocol import CniError
from netspace.messages import Pod
from tests.kubernetes.apiserver import ApiServer

ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "node-api-test"},
    "rules": [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
    ],
}
BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "node-api-test"},
    "roleRef": {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": "node-api-test",
    },
    "subjects": [
        {"kind": "User", "name": "node-api-test", "apiGroup": "rbac.authorization.k8s.io"}
    ],
}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "web-0",
        "namespace": "node-api-test",
        "annotations": {"ipam.com/netspace": "blue", "other.example/key": "x"},
    },
    "spec": {"containers": [{"name": "main", "image": "busybox"}], "nodeName": "node-1"},
}
NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "node-api-test"}}


@pytest.fixture(scope="module")
def pod(apiserver: ApiServer) -> Iterator[Pod]:
    apiserver.apply(NAMESPACE, ROLE, BINDING)
    apiserver.apply(POD)
    found = apiserver.get("pod", "-n", "node-api-test", "web-0")
    yield Pod(namespace="node-api-test", name="web-0", uid=found["metadata"]["uid"])
    now = ("--force", "--grace-period=0", "--wait=false")
    apiserver.kubectl("delete", "pod", "-n", "node-api-test", "web-0", *now)
    apiserver.kubectl("delete", "clusterrole,clusterrolebinding", "node-api-test")
    apiserver.kubectl("delete", "namespace", "node-api-test", "--wait=false")


@pytest.fixture(scope="module")
def kubeconfig(apiserver: ApiServer) -> Path:
    mine = apiserver.pki.make([("CN", "node-api-test")])
    return apiserver.kubeconfig_of("node-api-test", mine)


def run(kubeconfig: Path, test: Callable[[KubeApi], Awaitable[None]]) -> None:
    async def work() -> None:
        api = KubeApi(KubernetesSection(kubeconfig=str(kubeconfig)), {})
        try:
            await test(api)
        finally:
            await api.close()

    asyncio.run(asyncio.wait_for(work(), 30))


def test_a_pods_annotations_are_read_and_its_uid_is_compared(kubeconfig: Path, pod: Pod) -> None:
    async def test(api: KubeApi) -> None:
        found = await ApiPods(api).annotations(pod)
        assert found["ipam.com/netspace"] == "blue"
        another = Pod(namespace=pod.namespace, name=pod.name, uid="another")
        for wrong in (another, Pod(namespace=pod.namespace, name="web-1", uid="x")):
            with pytest.raises(CniError) as caught:
                await ApiPods(api).annotations(wrong)
            assert caught.value.code == 11

    run(kubeconfig, test)


def test_events_stand_on_the_pod_and_count_up(
    kubeconfig: Path, pod: Pod, apiserver: ApiServer
) -> None:
    told = Happening(
        pod=pod, ifname="eth0", kind="Warning", reason="PoolExhausted", message="pool blue is full"
    )
    first = Post(happening=told, count=1, first=1_790_000_000, last=1_790_000_000)

    async def test(api: KubeApi) -> None:
        name = await post_event(api, first, "node-1")
        again = Post(happening=told, count=4, first=first.first, last=first.last + 60, name=name)
        assert await post_event(api, again, "node-1") == name

    run(kubeconfig, test)
    found = json.loads(
        apiserver.kubectl(
            *("get", "events", "-n", pod.namespace, "-o", "json"),
            *("--field-selector", f"involvedObject.uid={pod.uid}"),
        )
    )["items"]
    assert [(each["reason"], each["count"], each["type"]) for each in found] == [
        ("PoolExhausted", 4, "Warning")
    ]
    described = apiserver.kubectl("describe", "pod", "-n", pod.namespace, pod.name)
    assert "pool blue is full" in described
    assert events.SOURCE in described


def test_rights_are_asked_of_the_api(kubeconfig: Path, pod: Pod, apiserver: ApiServer) -> None:
    section = KubernetesSection()
    stranger = apiserver.kubeconfig_of("stranger", apiserver.pki.make([("CN", "stranger")]))

    async def enough(api: KubeApi) -> None:
        assert (await rights.ask(api, section)).lacks == ()

    async def lacking(api: KubeApi) -> None:
        said = await rights.ask(api, section)
        assert said.reached
        assert len(said.lacks) == 3

    run(kubeconfig, enough)
    run(stranger, lacking)
