"""Nodes that are drained, programs that are killed, an API that is away, Netspace that is taken
away and put back: pods keep what they have, and new ones get addresses."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.kubernetes.cluster import NODES, Cluster, until
from tests.kubernetes.installed import Netspace
from tests.kubernetes.workloads import Workloads, deployment, pod


@pytest.fixture(scope="module")
def steady(netspace: Netspace, workloads: Workloads) -> Iterator[dict[str, list[str]]]:
    """Two pods, one on each node, that run throughout: name → addresses."""
    netspace.cluster.apply(deployment("steady", 2))
    yield workloads.addresses("steady", 2)
    workloads.delete("deployment/steady")


def test_pods_of_a_drained_node_get_addresses_on_the_other(
    netspace: Netspace, workloads: Workloads
) -> None:
    kubectl = netspace.cluster.kubectl
    netspace.cluster.apply(deployment("moves", 2, netspace="tenant-a"))
    workloads.ready("moves", 2)
    kubectl("drain", NODES[1], "--ignore-daemonsets", "--force", "--pod-selector=app=moves")
    pods = workloads.ready("moves", 2)
    assert {pod["spec"]["nodeName"] for pod in pods} == {NODES[0]}
    kubectl("uncordon", NODES[1])
    workloads.delete("deployment/moves")


def test_pods_keep_their_addresses_when_kubelet_and_containerd_are_killed(
    netspace: Netspace, workloads: Workloads, steady: dict[str, list[str]]
) -> None:
    for name in ("kubelet-node2", "containerd-node2"):
        netspace.cluster.kill(name)
    netspace.cluster.up()
    assert workloads.addresses("steady", 2) == steady
    netspace.cluster.apply(pod("after"))
    workloads.ready("after", 1)
    workloads.delete("pod/after")


def test_a_sandbox_that_dies_while_the_api_is_away_has_its_address_again(
    netspace: Netspace, workloads: Workloads, steady: dict[str, list[str]]
) -> None:
    cluster = netspace.cluster
    name, node = next(
        (pod["metadata"]["name"], pod["spec"]["nodeName"]) for pod in workloads.pods("steady")
    )
    before = sandboxes(cluster, node, name)
    cluster.kill("kube-apiserver")
    cluster.ctr(node, "tasks", "kill", "--signal=KILL", *before)
    until(lambda: sandboxes(cluster, node, name) - before, "the pod has another sandbox", 60)
    cluster.up()
    assert workloads.addresses("steady", 2) == steady


def test_netspace_comes_back_to_the_addresses_that_were_held(
    netspace: Netspace, workloads: Workloads, steady: dict[str, list[str]]
) -> None:
    netspace.remove()
    netspace.remove_from_nodes()
    for node in NODES:
        left = netspace.cluster.on(node, "ls", "/opt/cni/bin", "/etc/cni/net.d")
        assert "netspace" not in left
    assert workloads.addresses("steady", 2) == steady
    one, other = steady
    assert until(partial(workloads.says, one, steady[other][0]), "it answers") == other

    netspace.install()
    assert workloads.addresses("steady", 2) == steady
    held = netspace.ctl("address", "list", "-o", "json")
    assert all(four in held for four, _ in steady.values())
    netspace.cluster.apply(pod("anew"))
    [[address, _]] = workloads.addresses("anew", 1).values()
    assert address not in {four for four, _ in steady.values()}
    workloads.delete("pod/anew")


def sandboxes(cluster: Cluster, node: str, pod: str) -> set[str]:
    """The containers that hold a pod's namespaces and run."""
    filters = (
        f'labels."io.kubernetes.pod.name"=={pod}',
        'labels."io.cri-containerd.kind"==sandbox',
    )
    known = set(cluster.ctr(node, "containers", "list", "-q", ",".join(filters)).split())
    running = cluster.ctr(node, "tasks", "list").splitlines()
    return known & {line.split()[0] for line in running if line.endswith("RUNNING")}
