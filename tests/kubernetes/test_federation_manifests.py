"""The federation's manifests in use: a cluster joins another one that is outside of Kubernetes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from federation.node import charon
from netspace.messages.federating import JoinFederation, Local, NewFederation
from tests.kubernetes.cluster import NODES, until
from tests.kubernetes.federating import Federating
from tests.kubernetes.installed import CLUSTER, NAMESPACE, Netspace
from tests.kubernetes.outside import NAME as OUTSIDE
from tests.kubernetes.outside import POD, RANGE, Outside, outside
from tests.kubernetes.workloads import PORT, Workloads, custom, deployment

SECRET = "netspace-federation-token"


@pytest.fixture(scope="module")
def federating(
    netspace: Netspace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Federating]:
    made = Federating(netspace, tmp_path_factory.mktemp("federating"))
    try:
        made.install()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def other(federating: Federating, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    with outside(federating.cluster, tmp_path_factory.mktemp("outside")) as made:
        yield made


@pytest.fixture(scope="module")
def union(federating: Federating, other: Outside) -> str:
    """A federation that the cluster declares and founds, and that the other one joins."""
    federating.cluster.apply(custom("Federation", "union", {"found": True, "pools": ["default"]}))
    ready = ("--for=condition=Joined", "federation.ipam.netspace.io/union")
    federating.cluster.kubectl("wait", *ready)
    join = JoinFederation(
        token=federating.ctl("token", "union").strip(), local=Local(ranges=[RANGE])
    )
    other.ask(lambda client: client.join(OUTSIDE, join))
    return "union"


def test_the_agents_of_all_nodes_report_to_the_server(federating: Federating) -> None:
    def speak() -> bool:
        said = federating.status()["nodes"]
        return {each["node"] for each in said if each["heard"] is not None} == set(NODES)

    until(speak, "all nodes speak")
    assert [node["faults"] for node in federating.status()["nodes"]] == [[], []]
    # As the agents' own probe asks.
    config = "--config=/tmp/federation-agent.yaml"
    for said in federating.on_each_node(
        "netspace-federation-agent", "netspace-federation", "agent", config, "status"
    ):
        assert "server: it answers" in said


def test_charon_has_all_that_it_is_to_load(federating: Federating) -> None:
    socket = f"unix://{charon.Charon().vici}"
    for said in federating.on_each_node("netspace-charon", "swanctl", "--stats", "--uri", socket):
        [loaded] = [line for line in said.splitlines() if line.startswith("loaded plugins:")]
        wanted = charon.configuration(charon.Charon()).partition("load = ")[2].splitlines()[0]
        assert set(wanted.split()) <= set(loaded.split())


def test_a_declared_federation_shows_the_member_that_joined(
    federating: Federating, other: Outside, union: str
) -> None:
    member = federating.answering(union, OUTSIDE)
    assert (member["kind"], member["ranges"], member["nodes"]) == ("homogeneous", [RANGE], 1)
    assert federating.found(union)["status"]["founder"] == CLUSTER
    [seen] = other.ask(lambda client: client.status(OUTSIDE)).federations
    [peer] = seen.peers
    assert (peer.cluster, peer.reached, peer.nodes) == (CLUSTER, True, len(NODES))


def test_pods_on_all_nodes_and_of_the_other_cluster_reach_one_another(
    federating: Federating, other: Outside, union: str, workloads: Workloads
) -> None:
    federating.answering(union, OUTSIDE)
    federating.cluster.apply(deployment("near", len(NODES)))
    for pod, (four, _) in workloads.addresses("near", len(NODES)).items():
        # The other cluster learns where an address is a few seconds after the pod has it.
        until(lambda pod=pod, four=four: other.hears(four, PORT) == pod, f"{pod} is heard")  # type: ignore[misc]
        ping = ("exec", pod, "--", "ping", "-c", "1", "-W", "2", POD)
        assert "1 packets received" in federating.cluster.kubectl(*ping)
    workloads.delete("deployment/near")


def test_a_federation_is_joined_by_the_token_in_the_secret_that_the_controller_may_read(
    federating: Federating, other: Outside
) -> None:
    new = NewFederation(name="back", local=Local(ranges=["10.89.0.0/24"]))
    other.ask(lambda client: client.found(OUTSIDE, new))
    token = other.ask(lambda client: client.token(OUTSIDE, "back", 60)).token
    literal = f"--from-literal=token={token}"
    kubectl = federating.cluster.kubectl
    kubectl("-n", NAMESPACE, "create", "secret", "generic", SECRET, literal)
    federating.cluster.apply(custom("Federation", "back", {"token": {}, "pools": ["tenant-a"]}))
    kubectl("wait", "--for=condition=Joined", "federation.ipam.netspace.io/back")
    kubectl("delete", "federation.ipam.netspace.io/back", "--timeout=30s")
    kubectl("-n", NAMESPACE, "delete", "secret", SECRET)
    details = other.ask(lambda client: client.federation(OUTSIDE, "back"))
    assert [each.cluster for each in details.federation.members] == [OUTSIDE]


def test_nothing_is_left_on_the_nodes_when_the_federation_has_ended(
    federating: Federating, other: Outside, union: str
) -> None:
    other.ask(lambda client: client.leave(OUTSIDE, union))
    federating.cluster.kubectl("delete", "federation.ipam.netspace.io/union", "--timeout=30s")
    assert not federating.found(union)

    def left(node: str) -> str:
        on = federating.cluster.on
        links = on(node, "ip", "-o", "link", "show", "type", "vxlan")
        routes = on(node, "ip", "route", "show", "proto", "78")
        rules = on(node, "sh", "-c", "iptables-save | grep NETSPACE-FED", check=False)
        return links + routes + rules

    for node in NODES:
        until(lambda node=node: not left(node), f"{node} is as it was")  # type: ignore[misc]
