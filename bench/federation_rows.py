"""How the figures of federations are measured, on the three clusters of the lab."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import vici

from bench import federation_join, federation_plan
from bench.figures import Figures
from bench.place import Failed
from federation.node.connections import PREFIX
from lab.federation import joined, wiring
from lab.federation.flows import Flow, Record, longest_gap_ms, lost, shares
from lab.federation.layout import B, LabNode, cluster
from lab.federation.measure import Wiretap, gateways_of
from lab.federation.place import FederatedPlace, ip_text
from lab.federation.throughput import Streams
from lab.federation.traffic import Traffic, between
from lab.federation.wiring import LabPod
from netspace.messages.federating import ChangeFederation
from netspace.messages.federation import Settings

Say = Callable[[str], None]

A: Final = cluster("a", 1, 1, macvlan=True)
C: Final = cluster("c", 3, 1)
CLUSTERS: Final = (A, B, C)
"""Those of the demo with as few nodes as the figures need: all share the lab kernel's processor."""

SETTLED: Final = 3.0
"""Seconds of traffic before something is done to it, and after."""
_PORTS: Final = 20000
_BROUGHT_UP: Final = f"{PREFIX}to/"


@dataclass(frozen=True, slots=True)
class Scale:
    """`flows`: of UDP in each family and direction, so many that both gateways have some; `streams`
    of TCP in each family, for `seconds`, with each gateway's link shaped to `megabits`; `kills`,
    `rekeys`: how often; `joins`: rounds of a node that joins. `bound`: seconds after which the
    bench gives up."""

    flows: int
    streams: int
    seconds: float
    megabits: float
    kills: int
    rekeys: int
    joins: int
    bound: float
    usual: str


WHOLE = Scale(
    flows=8,
    streams=32,
    seconds=20.0,
    megabits=4.0,
    kills=3,
    rekeys=5,
    joins=3,
    bound=2400,
    usual="four to six minutes",
)
QUICK = Scale(
    flows=8,
    streams=8,
    seconds=5.0,
    megabits=4.0,
    kills=1,
    rekeys=1,
    joins=1,
    bound=1200,
    usual="about three minutes",
)


class Bench:
    """Everything on one place, whose clusters are joined first."""

    def __init__(self, lab: FederatedPlace, scale: Scale, found: Figures, say: Say) -> None:
        self._lab, self._scale, self._found, self._say = lab, scale, found, say
        self._gateways: list[LabNode] = []
        self._pods: dict[str, LabPod] = {}

    def measure(self, folder: Path) -> None:
        """Measures all there is. Raises `Failed`, and what the lab raises."""
        self._plans(folder)
        self._build()
        self._wire()
        self._rekeys()
        self._handover()
        self._leader()
        for _ in range(self._scale.kills):
            self._gateway()
        self._throughput()

    def _build(self) -> None:
        self._lab.make(later=())
        self._lab.make_netspace()
        # Agents are told of both: one will be killed.
        self._lab.members[A.name].add_server()
        for node in self._lab.nodes:
            self._lab.start_node(node)
        for name, node in (("a", A.nodes[0]), ("b", B.nodes[2]), ("c", C.nodes[0])):
            self._pods[name] = self._lab.add_pod(node, f"pod-{name}")
        self._gateways = [node for node in B.nodes if node.gateway]
        self._say("three clusters stand")
        joined.join_all(self._lab, Settings())
        seconds, _ = joined.wait_for_paths(self._lab, 600)
        self._found.besides["paths_up_s"] = seconds
        self._say(f"joined, all paths up after {seconds:.0f} s")

    def _plans(self, folder: Path) -> None:
        figures = federation_plan.measure()
        for name in ("plan_ms_5000_nodes", "plan_rss_mib"):
            self._found.add(name, figures.pop(name))
        self._found.besides |= figures
        self._say("plans")
        whole, one = federation_join.milliseconds(folder / "join", self._scale.joins)
        for each in whole:
            self._found.add("node_join_ms_of_200", each)
        self._found.besides["node_more_ms_of_200"] = max(one)
        self._say("a node joins 200")

    def _wire(self) -> None:
        outer: set[int] = set()
        clear = 0
        for one, other, kind in ((A, B, "esp"), (A, C, "esp"), (B, C, "vxlan")):
            flows = self._both_ways(one.name, other.name, self._scale.flows)
            with Wiretap(self._lab, one, other) as tap, Traffic(flows) as traffic:
                time.sleep(SETTLED)
            if silent := [
                record.flow.name for record in traffic.records if not any(record.arrived)
            ]:
                raise Failed(f"nothing arrived of {len(silent)} flows: {', '.join(silent)}")
            wire = tap.wire
            outer |= set(wire.outer)
            clear += wire.clear
            name = f"{kind}_overhead_bytes"
            if kind not in wire.overhead:
                raise Failed(f"no {kind} packet between {one.name} and {other.name} was opened")
            self._found.add(name, next(v for k, v in wire.overhead.items() if k == kind))
        self._found.add("outer_headers", max(outer))
        self._found.add("clear_packets", clear)
        self._say("what is on the wire")

    def _rekeys(self) -> None:
        flows = self._both_ways("a", "b", self._scale.flows)
        nodes = [A.nodes[0], B.nodes[2]]
        with self._running(flows) as traffic:
            for _ in range(self._scale.rekeys):
                before = [spis(node) for node in nodes]
                for node in nodes:
                    _rekey(self._lab.vici(node))
                self._lab.wait(
                    lambda old=before: all(  # type: ignore[misc]
                        new and not new <= was
                        for new, was in zip(map(spis, nodes), old, strict=True)
                    ),
                    "new keys",
                )
                time.sleep(1.0)
        self._found.add("rekey_lost", lost(traffic.records))
        self._say(f"{self._scale.rekeys} rekeys of each tunnel")

    def _handover(self) -> None:
        """Cluster b makes its third node a gateway and takes it back: flows move twice."""
        flows = self._both_ways("a", "b", self._scale.flows)
        member = self._lab.members[B.name]
        inward = flows[: len(flows) // 2]

        def way() -> dict[Flow, str]:
            # By the third node go those that neither of the two sees: it has the pod itself.
            return gateways_of(inward, self._gateways, 1.5)

        with self._running(flows) as traffic:
            before = way()
            joined.change(member, ChangeFederation(layout="distributed"))
            moved = self._until(way, lambda now: len(now) < len(before))
            joined.change(member, ChangeFederation(layout="centralised"))
            self._until(way, lambda now: now == before)
        if len(before) != len(inward):
            raise Failed(f"{len(inward) - len(before)} flows have no gateway")
        self._found.besides["handover_moved"] = len(before) - len(moved)
        self._found.add("handover_lost", lost(traffic.records))
        self._say("gateways handed flows over, there and back")

    def _leader(self) -> None:
        member = self._lab.members[A.name]
        leader = member.status().leader
        flows = self._both_ways("a", "b", self._scale.flows)
        servers = {f"{A.name}-{at}": server for at, server in enumerate(member.servers)}
        if leader not in servers:
            raise Failed(f"cluster a's leader is {leader}")
        with self._running(flows) as traffic:
            os.kill(servers[leader].pid, signal.SIGKILL)
            self._lab.wait(
                lambda: member.status().leader not in (None, leader), "another leader", pause=1.0
            )
        self._found.add("leader_kill_lost", lost(traffic.records))
        self._say("the leading server killed")

    def _gateway(self) -> None:
        flows = self._flows("a", "b", self._scale.flows)
        with self._running(flows) as traffic:
            way = gateways_of(flows, self._gateways, 1.5)
            victim = self._busier(way)
            killed = time.monotonic()
            self._lab.kill_node(victim)
            time.sleep(4.0)
            end = time.monotonic()
        theirs, others = _split(traffic.records, way, victim)
        if not theirs or not others:
            raise Failed(f"all flows have one gateway: {shares(way.values())}")
        self._found.add("gateway_kill_gap_ms", longest_gap_ms(theirs, killed, end))
        self._found.add("gateway_kill_other_flows_lost", lost(others, killed - 1.0))
        self._lab.revive_node(victim)
        joined.wait_for_paths(self._lab, 600)
        self._say(f"gateway {victim.name} killed and back")

    def _throughput(self) -> None:
        here, there = self._pods["a"], self._pods["b"]
        ends = [(pod.netns, pod.addresses) for pod in (here, there)]
        flows = between("stream", ends[0], ends[1], self._scale.streams, _PORTS, ("tcp",))
        wiring.shape(B, self._gateways, self._scale.megabits)
        try:
            with Streams(flows) as streams:
                streams.measure(SETTLED)
                carried = streams.measure(self._scale.seconds)
            self._found.add("throughput_2_gateways_mbit", carried.megabits)
            with self._running(flows):
                way = gateways_of(flows, self._gateways, 2.0)
            self._found.add("flow_share_max", max(shares(way.values()).values()))
            self._say("throughput by two gateways")
            victim = self._gateways[1]
            self._lab.kill_node(victim)
            time.sleep(SETTLED)
            with Streams(flows) as streams:
                streams.measure(SETTLED)
                carried = streams.measure(self._scale.seconds)
            self._found.add("throughput_1_gateway_mbit", carried.megabits)
            self._say("throughput by one gateway")
        finally:
            wiring.shape(B, self._gateways, None)

    # What they are made of

    def _until(
        self, way: Callable[[], dict[Flow, str]], is_so: Callable[[dict[Flow, str]], bool]
    ) -> dict[Flow, str]:
        """The flows' gateways once these are as they should be. Raises `Failed`."""
        deadline = time.monotonic() + 120
        while not is_so(now := way()):
            if time.monotonic() > deadline:
                raise Failed(f"flows do not move with the layout: {shares(now.values())}")
        return now

    def _flows(self, here: str, there: str, count: int, port: int = _PORTS) -> list[Flow]:
        one, other = self._pods[here], self._pods[there]
        ends = [(pod.netns, pod.addresses) for pod in (one, other)]
        return between(f"{here}-{there}", ends[0], ends[1], count, port)

    def _both_ways(self, one: str, other: str, count: int) -> list[Flow]:
        return [
            *self._flows(one, other, count),
            *self._flows(other, one, count, _PORTS + 1000),
        ]

    @contextlib.contextmanager
    def _running(self, flows: list[Flow]) -> Iterator[Traffic]:
        with Traffic(flows, tick=0.02) as traffic:
            time.sleep(SETTLED)
            yield traffic
            time.sleep(SETTLED)
        _check_arrivals(traffic.records)

    def _busier(self, way: dict[Flow, str]) -> LabNode:
        parts = shares(way.values())
        return max(self._gateways, key=lambda node: parts.get(node.name, 0))


def spis(node: LabNode) -> set[str]:
    """The SPIs of a node's ESP states."""
    lines = ip_text(node.name, "xfrm", "state").splitlines()
    return {line.split()[3] for line in lines if line.strip().startswith("proto esp spi")}


def _rekey(socket: Path) -> None:
    """Has a charon renew the keys of the tunnels that it brought up now, as it does when their time
    is over. Those that others brought up are theirs to renew."""
    import socket as sockets

    with sockets.socket(sockets.AF_UNIX) as opened:
        opened.connect(str(socket))
        session = vici.Session(opened)
        for found in list(session.list_sas()):
            for name, ike in found.items():
                if not name.startswith(_BROUGHT_UP):
                    continue
                for child in ike["child-sas"].values():
                    if child["state"] == b"INSTALLED":
                        session.rekey({"child-id": child["uniqueid"].decode()})


def _check_arrivals(records: list[Record]) -> None:
    """Raises `Failed` where nothing at all arrived of a flow."""
    if silent := [record.flow.name for record in records if not any(record.arrived)]:
        raise Failed(f"nothing arrived of {len(silent)} flows: {', '.join(silent)}")


def _split(
    records: list[Record], way: dict[Flow, str], victim: LabNode
) -> tuple[list[Record], list[Record]]:
    """Those by the victim, and those by another gateway."""
    theirs = [each for each in records if way.get(each.flow) == victim.name]
    others = [each for each in records if way.get(each.flow) not in (None, victim.name)]
    return theirs, others
