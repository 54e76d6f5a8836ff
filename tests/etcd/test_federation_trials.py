"""Trials that people and other members ask for, by real servers over etcd; what nodes would do is
said for them here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator

import msgspec
import pytest

from lab.etcd import Etcd
from netspace.http_client import HttpClient
from netspace.messages.federation import FederatedNode, NodeWord
from netspace.messages.federation_node import VerifiedPath
from netspace.messages.federation_trials import (
    MemberTrial,
    NewTrial,
    NodeTrial,
    Order,
    PodTarget,
    TrialReport,
)
from netspace.problems import Problem
from tests.federation_world import NAME, Cluster, World, pair, until

TRIALS = f"/v1/federations/{NAME}/trials"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, shared_etcd: Etcd) -> Iterator[list[Cluster]]:
    """Of the first there are two servers."""
    world = World(tmp_path_factory.mktemp("trials"), shared_etcd.url)
    try:
        a, b = world.cluster("try-a", servers=2), world.cluster("try-b")
        pair(a, b)
        a.say("n1", "192.0.2.1")
        b.say("m1", "192.0.2.11")
        yield [a, b]
    finally:
        world.end()


def orders(cluster: Cluster, node: str, address: str) -> list[Order]:
    """What a node is told that it is to try."""
    word = NodeWord(node=FederatedNode(name=node, addresses=[address]))
    return cluster.ask(lambda client: client.say(cluster.name, word)).trials


def tell(cluster: Cluster, node: str, order: Order) -> None:
    """A node that found all well."""
    found = NodeTrial(node=node, verified=[VerifiedPath(node="far", hops=[])])
    cluster.ask(lambda client: client.tell_trial(cluster.name, node, order.id, found))


def begin(cluster: Cluster, new: NewTrial, at: int = 0) -> TrialReport:
    return cluster.ask(lambda client: client.begin_trial(cluster.name, NAME, new), at)


def now(cluster: Cluster, trial: str, at: int = 0) -> TrialReport:
    return cluster.ask(lambda client: client.trial(cluster.name, NAME, trial), at)


class Shown:
    """A client's context with a certificate or none, that takes any server."""

    def __init__(self, shows: Cluster | None) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        if shows is not None:
            self.context.load_cert_chain(shows.folder / "server.pem", shows.folder / "server.key")


def as_member(
    one: Cluster | None, other: Cluster, method: str, target: str, body: bytes = b"", at: int = 0
) -> bytes:
    async def asked() -> bytes:
        client = HttpClient([other.servers[at].door], tls=Shown(one), name=NAME)
        try:
            return await client.request(method, target, body)
        finally:
            await client.close()

    return asyncio.run(asked())


def asks(one: Cluster, other: Cluster, asked: MemberTrial, at: int = 0) -> TrialReport:
    body = msgspec.json.encode(asked)
    return msgspec.json.decode(as_member(one, other, "POST", TRIALS, body, at), type=TrialReport)


@pytest.mark.parametrize("at", [0, 1], ids=["one server", "the other"])
def test_nodes_of_both_clusters_are_told_and_heard(two: list[Cluster], at: int) -> None:
    a, b = two
    pods = [PodTarget(address="10.2.0.9"), PodTarget(address="10.1.0.7", port=443)]
    begun = begin(a, NewTrial(cluster=b.name, pods=pods), at)
    assert (begun.done, begun.there.awaited) == (False, 1)
    [there] = orders(a, "n1", "192.0.2.1")
    assert (there.cluster, there.pods) == (b.name, pods[:1])
    until(lambda: orders(b, "m1", "192.0.2.11"), "the other cluster's node is told")
    [back] = orders(b, "m1", "192.0.2.11")
    assert (back.cluster, back.pods) == (a.name, pods[1:])
    tell(a, "n1", there)
    assert orders(a, "n1", "192.0.2.1") == [], "it has answered"
    assert not now(a, begun.id, at).done
    tell(b, "m1", back)
    until(lambda: now(a, begun.id, at).done, "over")
    report = now(a, begun.id, at)
    assert [node.node for node in report.there.nodes] == ["n1"]
    assert report.back is not None and report.back.source == b.name
    assert [node.node for node in report.back.nodes] == ["m1"]
    assert report.there.why == report.back.why == ""


def test_what_nodes_try_is_written_nowhere(two: list[Cluster]) -> None:
    a, b = two
    before = a.number(), b.number()
    begun = begin(a, NewTrial(cluster=b.name))
    until(lambda: orders(b, "m1", "192.0.2.11"), "told")
    tell(b, "m1", orders(b, "m1", "192.0.2.11")[0])
    tell(a, "n1", orders(a, "n1", "192.0.2.1")[0])
    until(lambda: now(a, begun.id).done, "over")
    assert (a.number(), b.number()) == before


def test_a_member_has_paths_to_itself_tried_and_nothing_else(two: list[Cluster]) -> None:
    a, b = two
    until(lambda: not orders(a, "n1", "192.0.2.1"), "nothing else runs")
    for pods, why in (
        (["10.1.0.7"], "lies in no federated range"),
        (["192.0.2.1"], "lies in no federated range"),
        (["nonsense"], "is no address"),
    ):
        with pytest.raises(Problem, match=why):
            asks(b, a, MemberTrial(pods=[PodTarget(address=each) for each in pods]))
    for body in (b'{"cluster":"x"}', b'{"rate":1000000000}', b'{"seconds":60}', b"[]"):
        with pytest.raises(Problem, match=r"unknown field|Expected"):
            as_member(b, a, "POST", TRIALS, body)
    for at in (0, 1):
        begun = taken(b, a, MemberTrial(pods=[PodTarget(address="10.2.0.9")]), at)
        assert begun.there.target == b.name
        with pytest.raises(Problem) as caught:
            asks(b, a, MemberTrial(), at)
        assert caught.value.code == "busy"
        [order] = orders(a, "n1", "192.0.2.1")
        assert order.cluster == b.name
        tell(a, "n1", order)
        target = f"{TRIALS}/{begun.id}"
        found = msgspec.json.decode(as_member(b, a, "GET", target, at=at), type=TrialReport)
        assert found.done and found.back is None
        with pytest.raises(Problem, match="there is no trial"):
            now(a, begun.id)


def taken(one: Cluster, other: Cluster, asked: MemberTrial, at: int) -> TrialReport:
    """After the rest that a member has to keep."""
    found: list[TrialReport] = []

    def tried() -> bool:
        try:
            found.append(asks(one, other, asked, at))
        except Problem as problem:
            assert problem.code == "busy"
        return bool(found)

    until(tried, "taken")
    return found[0]


def test_members_alone_may_ask(two: list[Cluster]) -> None:
    with pytest.raises(Problem, match="showed no certificate"):
        as_member(None, two[0], "POST", TRIALS, b"{}")


def test_a_cluster_that_cannot_be_asked_is_told(two: list[Cluster]) -> None:
    a, b = two
    b.servers[0].end()
    try:
        begun = begin(a, NewTrial(cluster=b.name))
        tell(a, "n1", orders(a, "n1", "192.0.2.1")[0])
        until(lambda: now(a, begun.id).done, "over")
        report = now(a, begun.id)
        assert report.back is not None
        assert f"the servers of cluster {b.name} cannot be asked" in report.back.why
    finally:
        b.servers[0].start()
