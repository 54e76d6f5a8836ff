"""What users of a cluster see, end to end: kubelet, containerd, agent, server and etcd are real."""

from __future__ import annotations

from functools import partial
from ipaddress import IPv4Address, ip_address

from tests.kubernetes.cluster import NODES, SERVICE_CIDRS, until
from tests.kubernetes.installed import Netspace
from tests.kubernetes.workloads import (
    Workloads,
    addresses_of,
    deployment,
    pod,
    service,
    stateful_set,
)

API = "10.96.0.1"


def within(address: str, first: str, last: str) -> bool:
    return IPv4Address(first) <= IPv4Address(address) <= IPv4Address(last)


def test_pods_that_choose_nothing_have_both_families_from_the_default_pool(
    netspace: Netspace, workloads: Workloads
) -> None:
    netspace.cluster.apply(deployment("web", 4), service("web"))
    pods = workloads.ready("web", 4)

    assert {pod["spec"]["nodeName"] for pod in pods} == set(NODES)
    addresses = [addresses_of(pod) for pod in pods]
    assert len({four for four, _ in addresses}) == 4
    for four, six in addresses:
        assert within(four, "10.60.0.16", "10.60.0.79")
        assert six == f"fd00:60::{int(ip_address(four)) & 0xFF:x}"


def test_pods_reach_each_other_and_services_in_both_families(
    netspace: Netspace, workloads: Workloads
) -> None:
    pods = workloads.ready("web", 4)
    names = [pod["metadata"]["name"] for pod in pods]
    for address in addresses_of(pods[-1]):
        answer = until(partial(workloads.says, names[0], address), f"{address} answers")
        assert answer == names[-1]
    found = netspace.cluster.get("service", "web")["spec"]["clusterIPs"]
    assert len(found) == len(SERVICE_CIDRS)
    for address in found:
        answer = until(partial(workloads.says, names[0], address, 80), f"{address} answers")
        assert answer in names


def test_pods_reach_the_api(netspace: Netspace, workloads: Workloads) -> None:
    name = workloads.ready("web", 4)[0]["metadata"]["name"]
    netspace.cluster.kubectl("exec", name, "--", "nc", "-w", "3", API, "443", "-e", "true")


def test_a_deployment_that_grows_and_shrinks_gives_back_what_it_had(
    netspace: Netspace, workloads: Workloads
) -> None:
    for replicas in (7, 2):
        netspace.cluster.kubectl("scale", "deployment/web", f"--replicas={replicas}")
        workloads.ready("web", replicas)

    def used() -> bool:
        return int(netspace.asked("pool", "show", "default")["used"]) == 2

    until(used, "the default pool has two addresses in use")


def test_an_annotation_names_the_pool(netspace: Netspace, workloads: Workloads) -> None:
    netspace.cluster.apply(deployment("tenant", 2, netspace="tenant-a"))
    for four, _ in workloads.addresses("tenant", 2).values():
        assert within(four, "10.60.0.80", "10.60.0.95")
    workloads.delete("deployment/tenant")


def test_one_family_alone_is_possible(netspace: Netspace, workloads: Workloads) -> None:
    netspace.cluster.apply(pod("six", families="ipv6"))
    [[address]] = workloads.addresses("six", 1).values()
    assert ip_address(address).version == 6
    workloads.delete("pod/six")


def test_the_pods_of_a_stateful_set_keep_their_addresses(
    netspace: Netspace, workloads: Workloads
) -> None:
    kubectl = netspace.cluster.kubectl
    netspace.cluster.apply(stateful_set("db", 3, application="db"))
    first = workloads.addresses("db", 3)
    assert int(netspace.asked("pool", "show", "db")["size"]) == 3

    kubectl("scale", "statefulset/db", "--replicas=1")
    until(lambda: len(workloads.pods("db")) == 1, "one pod is left")
    kubectl("scale", "statefulset/db", "--replicas=3")
    assert workloads.addresses("db", 3) == first

    kubectl("rollout", "restart", "statefulset/db")
    kubectl("rollout", "status", "statefulset/db", "--timeout=80s")
    assert workloads.addresses("db", 3) == first

    kubectl("delete", "pod", "db-1", "--grace-period=0", "--force")
    assert workloads.addresses("db", 3) == first


def test_a_full_pool_says_so_on_the_pod_and_the_next_pod_comes_when_there_is_room(
    netspace: Netspace, workloads: Workloads
) -> None:
    netspace.cluster.apply(pod("first", netspace="tiny"))
    workloads.ready("first", 1)
    netspace.cluster.apply(pod("second", netspace="tiny"))
    [message, *_] = until(lambda: workloads.events("second", "PoolExhausted"), "the event")
    assert "tiny" in message
    workloads.delete("pod/first")
    workloads.ready("second", 1)
    workloads.delete("pod/second")


def test_a_namespaces_annotation_is_its_pods_default(
    netspace: Netspace, workloads: Workloads
) -> None:
    annotations = {"ipam.com/netspace": "tenant-a"}
    metadata = {"name": "team-a", "annotations": annotations}
    netspace.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    until(lambda: "tenant-a" in netspace.ctl("namespace", "list"), "the server knows it")
    netspace.cluster.apply(deployment("quiet", 1, "team-a"))
    [[four, _]] = workloads.addresses("quiet", 1, "team-a").values()
    assert within(four, "10.60.0.80", "10.60.0.95")
    workloads.delete("namespace/team-a")


def test_an_elastic_pool_grows_with_its_pods(netspace: Netspace, workloads: Workloads) -> None:
    netspace.cluster.apply(deployment("grows", 5, netspace="grows"))
    workloads.ready("grows", 5)
    assert int(netspace.asked("pool", "show", "grows")["size"]) >= 5
    workloads.delete("deployment/grows")
