"""Two of the lab's clusters on plain routing: what the tools see when nothing is joined."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from lab import place, topology
from lab.federation import reach, wiring
from lab.federation.capture import Capture, pods_only
from lab.federation.flows import Flow, longest_gap_ms, lost
from lab.federation.layout import LATER, POD_NETWORKS, B, C
from lab.federation.measure import gateways_of
from lab.federation.packets import read
from lab.federation.throughput import Streams
from lab.federation.traffic import Traffic, TrafficError, between
from lab.federation.wiring import LabPod


@dataclass
class Routed:
    """Pods of cluster b on three nodes, one of cluster c."""

    pods: dict[str, LabPod]

    def flows(
        self, one: str, other: str, count: int, *transports: str, port: int = 20000
    ) -> list[Flow]:
        ends = [(self.pods[each].netns, self.pods[each].addresses) for each in (one, other)]
        return between(f"{one}-{other}", ends[0], ends[1], count, port, transports or ("udp",))


@pytest.fixture(scope="module")
def routed() -> Iterator[Routed]:
    assert place.left() == [], "a demo stands already; ./run demo --end ends it"
    try:
        wiring.make((B, C), later=(*B.nodes[3:], LATER))
        nodes = {"b1": B.nodes[0], "b2": B.nodes[1], "b3": B.nodes[2], "c1": C.nodes[0]}
        places = enumerate(nodes.items(), 11)
        yield Routed({name: wiring.add_pod(node, name, at) for at, (name, node) in places})
    finally:
        topology.remove()


def test_pods_of_one_cluster_reach_each_other_and_no_other_clusters(routed: Routed) -> None:
    pods = routed.pods
    within = reach.ways([(pods["b1"], pods["b3"]), (pods["b2"], pods["b3"])])
    assert reach.silent(within, 5) == []
    assert reach.broken(within[:4]) == {}
    across = reach.ways([(pods["b1"], pods["c1"])])
    assert reach.silent(across, 1) == across


def test_what_leaves_a_cluster_in_clear_is_seen_between_the_routers(routed: Routed) -> None:
    port = B.port(C)
    with (
        Capture(B.router, port, arriving=False, program=pods_only()) as clear,
        Traffic(routed.flows("b1", "c1", 2)) as traffic,
    ):
        time.sleep(0.3)
    sent = sum(len(record.sent) for record in traffic.records)
    assert lost(traffic.records) == sent > 0
    assert clear.count >= sent
    assert clear.missed == 0
    found = [read(frame, POD_NETWORKS) for frame in clear.frames]
    assert {packet.kind for packet in found if packet} == {"clear"}


def test_traffic_within_a_cluster_is_not_seen_between_the_routers(routed: Routed) -> None:
    with (
        Capture(B.router, B.port(C), arriving=False, program=pods_only()) as clear,
        Traffic(routed.flows("b1", "b3", 4, "udp", "tcp")) as traffic,
    ):
        time.sleep(0.5)
    assert (lost(traffic.records), clear.count) == (0, 0)
    assert all(not record.broken for record in traffic.records)


def test_a_node_that_is_cut_off_leaves_a_gap_as_long_as_it_was_and_loss_in_its_flows_alone(
    routed: Routed,
) -> None:
    flows = [*routed.flows("b1", "b3", 2), *routed.flows("b1", "b2", 2, port=21000)]
    with Traffic(flows) as traffic:
        time.sleep(0.5)
        wiring.cut(B.nodes[2], B)
        time.sleep(0.5)
        wiring.mend(B.nodes[2], B)
        time.sleep(1.5)
    hit, spared = traffic.records[:4], traffic.records[4:]
    assert 400 < longest_gap_ms(hit) < 2500 + traffic.worst_tick * 1e3
    assert lost(spared) == 0 < lost(hit)


def test_the_node_that_forwards_a_flow_is_found(routed: Routed) -> None:
    flows = routed.flows("b1", "b3", 3)
    with Traffic(flows):
        way: dict[Flow, str] = {}
        deadline = time.monotonic() + 20
        while len(way) < len(flows) and time.monotonic() < deadline:
            way |= gateways_of(flows, [B.nodes[0], B.nodes[1]], 0.5)
    assert set(way.values()) == {"b1"}
    assert len(way) == len(flows)


def test_a_shaped_node_gets_no_more_than_its_share(routed: Routed) -> None:
    flows = routed.flows("b1", "b3", 4, "tcp")
    wiring.shape(B, [B.nodes[2]], 5.0)
    try:
        with Streams(flows) as streams:
            streams.measure(0.5)
            carried = streams.measure(2.0)
    finally:
        wiring.shape(B, [B.nodes[2]], None)
    assert 3.5 < carried.megabits < 6.0
    assert len(carried.bytes_of) == len(flows)


def test_a_flow_that_cannot_begin_says_which(routed: Routed) -> None:
    (flow, *_) = routed.flows("b1", "b3", 1)
    with pytest.raises(TrafficError, match="b1-b3 udp4 1"):
        Traffic([flow, flow]).__enter__()
