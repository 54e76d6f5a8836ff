"""./run demo federation: three clusters become one network and stay it, step by step, with checks.

Runs inside the lab kernel or on a machine whose kernel has bonds, VLANs and ESP; `lab.__main__`
chooses.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Sequence
from typing import Final

from federation.desired import ROUTE_PROTOCOL
from lab import place, programs, topology
from lab.charon import CharonError
from lab.etcd import EtcdError
from lab.federation import joined, reach
from lab.federation.flows import Flow, Record, longest_gap_ms, lost, shares
from lab.federation.layout import LATER, MTUS, A, B, C, LabCluster
from lab.federation.measure import Wire, Wiretap, gateways_of
from lab.federation.packets import Kind
from lab.federation.place import PATIENCE, FederatedPlace, ip_text
from lab.federation.traffic import Traffic, TrafficError, between
from lab.federation.wiring import LabPod
from lab.narrator import Narrator
from lab.runtime import CniError
from netspace.messages.federation import Settings
from netspace.problems import Problem

PROBE: Final = 0.5
"""Seconds between two probes: thirty programs share the lab kernel's only processor."""
GAP: Final = 4000
"""Milliseconds that a flow may stand still when its gateway fails, with such probes, longer than
those that stand still since the processor is busy. The bench has the product's own probes."""
SETTLED: Final = 60.0
"""Seconds within which pods reach one another once the paths are up: firewall and pods' routes
follow, and rounds of them take seconds on that processor."""
FLOWS: Final = 8
"""In each family, of UDP; the bench has more."""
PAIRS: Final = ((A, B), (A, C), (B, C))


class Demo:
    """The story. Each method is one step."""

    def __init__(self, lab: FederatedPlace, tell: Narrator, verbose: bool) -> None:
        self.lab, self.tell, self.verbose = lab, tell, verbose

    def run(self) -> None:
        self.build()
        self.pods()
        self.join()
        self.tunnels()
        self.reaches()
        self.wire()
        self.gateway_fails()
        self.node_comes()
        self.pod_moves()
        self.cluster_leaves()

    def build(self) -> None:
        self.tell.step("Three clusters, each on a router of its own; the routers are joined")
        self.lab.make()
        rows = []
        for cluster in self.lab.clusters:
            nodes = [node for node in self.lab.nodes if node.cluster == cluster.name]
            kind = "macvlan on VLAN 910, by Netspace" if cluster.macvlan else "a routed bridge"
            gateways = [node.name for node in nodes if node.gateway]
            rows.append([
                cluster.name, " ".join(node.name for node in nodes), " ".join(gateways), kind,
                " ".join(cluster.subnets if cluster.macvlan else cluster.ranges),
            ])  # fmt: skip
        self.tell.table(("cluster", "nodes", "gateways", "its pods' network", "addresses"), rows)
        mtus = (f"{' to '.join(sorted(pair))} {mtu}" for pair, mtu in MTUS.items())
        self.tell.say(f"MTU between the routers: {', '.join(mtus)}")
        self.lab.make_netspace()
        if self.lab.why_slow:
            self.tell.say(f"{self.lab.why_slow}: each call starts Python.")
        for node in self.lab.nodes:
            self.lab.start_node(node)
        self.tell.say("An etcd and a federation server each; on every node charon and an agent")

    def pods(self) -> None:
        self.tell.step("Pods, which do not reach other clusters yet")
        for node, name in (
            ("a1", "alice"), ("a2", "anna"), ("b1", "berta"), ("b3", "bob"), ("c1", "cleo"),
        ):  # fmt: skip
            self.lab.add_pod(next(each for each in self.lab.nodes if each.name == node), name)
        rows = [
            [pod.name, pod.node.cluster, pod.node.name, *pod.addresses]
            for pod in self.lab.pods.values()
        ]
        self.tell.table(("pod", "cluster", "node", "IPv4", "IPv6"), rows)
        asked = self.between_clusters()
        quiet = reach.silent(asked, 1)
        self.tell.check("no pod reaches another cluster's", len(quiet) == len(asked),
                        f"{len(quiet)} of {len(asked)} pings unanswered")  # fmt: skip

    def join(self) -> None:
        self.tell.step("Cluster a founds a federation; b and c join, each with a token of its own")
        began = time.monotonic()
        founder = self.lab.members[A.name]
        details = joined.found(founder, Settings(probe=PROBE))
        self.tell.say(f"a founds {details.name}, its root authority stays in a file of a's server")
        for cluster in (B, C):
            details = joined.join(founder, self.lab.members[cluster.name])
            kinds = [
                f"{other.cluster}: {details.federation.kind(cluster.name, other.cluster)}"
                for other in details.federation.members
                if other.cluster != cluster.name
            ]
            self.tell.say(f"{cluster.name} joins; its way to {', to '.join(kinds)}")
        self.tell.check(
            "the federation has three members",
            sorted(each.cluster for each in details.federation.members) == ["a", "b", "c"],
            f"{time.monotonic() - began:.1f} s",
        )

    def tunnels(self) -> None:
        self.tell.step("The tunnels come up: ESP to the other's gateways, VXLAN between all nodes")
        seconds, known = joined.wait_for_paths(self.lab, PATIENCE * 2)
        rows = []
        for name in sorted(known):
            for path in known[name].paths:
                esp = A.name in (name[0], path.cluster)
                rtt = "" if path.rtt is None else f"{path.rtt * 1e3:.1f} ms"
                rows.append([name, path.node, "ESP" if esp else "VXLAN", path.state,
                             str(path.mtu or ""), rtt])  # fmt: skip
        self.tell.table(("node", "to", "tunnel", "state", "MTU", "round trip"), rows)
        self.tell.check(f"all {len(rows)} are up", bool(rows), f"{seconds:.1f} s after joining")

    def reaches(self) -> None:
        self.tell.step("Every pod reaches every other cluster's, in both families")
        asked = self.between_clusters()
        self.reached(asked)
        failed = reach.broken(asked)
        self.tell.check(
            f"TCP brings {reach.PIECE // 1000} kB whole, in both directions", not failed,
            "; ".join(f"{way}: {why}" for way, why in failed.items()) or f"{len(asked)} transfers",
        )  # fmt: skip

    def wire(self) -> None:
        self.tell.step("What is on the wire between the routers")
        for one, other in PAIRS:
            here, there = (self.pod(cluster) for cluster in (one, other))
            flows = [*self.flows(here, there, 2), *self.flows(there, here, 2, port=21000)]
            with Wiretap(self.lab, one, other) as tap, Traffic(flows, tick=0.05) as traffic:
                time.sleep(1.5)
            self.show(one, other, tap.wire, traffic.records)

    def show(
        self, one: LabCluster, other: LabCluster, wire: Wire, records: Sequence[Record]
    ) -> None:
        name = f"{one.name} to {other.name}"
        kind: Kind = "esp" if A in (one, other) else "vxlan"
        if kind in wire.example:
            packet = wire.example[kind]
            outer, inner = packet.headers[0], packet.headers[-1]
            self.tell.say(
                f"{outer.source} → {outer.target} {kind.upper()}, {outer.length} bytes ["
                f"{inner.source} → {inner.target}, {inner.length} bytes]"
                + (" (opened with the node's key)" if kind == "esp" else "")
            )
        self.tell.check(f"{name}: one outer header around every packet", wire.outer == (1,),
                        f"{wire.kinds[kind]} {kind.upper()} packets")  # fmt: skip
        self.tell.check(f"{name}: nothing in clear", wire.clear == 0, wire.clear)
        bound = 60 if kind == "esp" else 50
        self.tell.check(
            f"{name}: at most {bound} bytes around a packet",
            0 < wire.overhead.get(kind, 0) <= bound,
            wire.overhead.get(kind, "none seen"),
        )
        if self.verbose:
            self.tell.say(f"{dict(wire.kinds)}, longest {wire.longest} bytes, lost {lost(records)}")

    def gateway_fails(self) -> None:
        self.tell.step("A gateway of b loses its power while traffic runs, and comes back")
        gateways = [node for node in self.lab.nodes if node.cluster == B.name and node.gateway]
        source, target = self.lab.pods["anna"], self.lab.pods["bob"]
        flows = [*self.flows(source, target, FLOWS),
                 *between("anna → bob", (source.netns, source.addresses),
                          (target.netns, target.addresses), 1, 22000, ("tcp",))]  # fmt: skip
        with Traffic(flows, tick=0.02) as traffic:
            time.sleep(0.5)
            way = gateways_of(flows, gateways, 1.5)
            parts = shares(way.values())
            self.tell.check("each flow has its gateway", len(way) == len(flows),
                            ", ".join(f"{k} {v:.0%}" for k, v in parts.items()))  # fmt: skip
            victim = max(gateways, key=lambda node: parts.get(node.name, 0))
            killed = time.monotonic()
            self.lab.kill_node(victim)
            time.sleep(5)
            again = time.monotonic()
            self.lab.revive_node(victim)
            joined.wait_for_paths(self.lab, PATIENCE)
            time.sleep(2)
            back = gateways_of(flows, gateways, 1.5)
            end = time.monotonic()
        theirs = [each for each in traffic.records if way.get(each.flow) == victim.name]
        others = [each for each in traffic.records if way.get(each.flow) not in ("", victim.name)]
        rows = [
            [record.flow.name, way.get(record.flow, "?"), _ms(record, killed, again),
             str(record.lost(killed - 1, again)), back.get(record.flow, "?")]
            for record in traffic.records
        ]  # fmt: skip
        head = ("flow", "gateway", "gap", "lost", "gateway at the end")
        self.tell.table(head, rows if self.verbose else rows[:6] + rows[-2:])
        gap, usual = (longest_gap_ms(each, killed, again) for each in (theirs, others))
        self.tell.check(
            f"the flows by {victim.name} go on by the other gateway",
            bool(theirs) and gap < GAP + usual,
            f"{len(theirs)} flows, at most {gap:.0f} ms; the others' {usual:.0f} ms",
        )
        count = lost(others, killed - 1, end)
        self.tell.check("the other flows lose nothing", not count, f"{len(others)} flows, {count}")
        cut = [each.flow.name for each in traffic.records if each.broken]
        self.tell.check("TCP connections stand", not cut, ", ".join(cut) or "all")
        count = lost(traffic.records, again + 3, end)
        self.tell.check(f"{victim.name} comes back, its flows with it, and nothing is lost",
                        back == way and not count, f"{count} lost")  # fmt: skip

    def node_comes(self) -> None:
        self.tell.step("Cluster c gets a node")
        self.lab.add_node(LATER)
        new = self.lab.add_pod(LATER, "carl")
        seconds, _ = joined.wait_for_paths(self.lab, PATIENCE)
        self.tell.say(f"{LATER.name} has its tunnels after {seconds:.1f} s")
        self.reached(reach.ways([(new, self.lab.pods["alice"]), (new, self.lab.pods["bob"])]))

    def pod_moves(self) -> None:
        self.tell.step("A pod of a moves to another node and keeps its addresses")
        before = self.lab.pods["alice"]
        target = next(node for node in A.nodes if node != before.node)
        moved = self.lab.move_pod("alice", target)
        self.tell.check("they are the same", moved.addresses == before.addresses,
                        f"{before.node.name} → {moved.node.name}")  # fmt: skip
        self.reached(reach.ways([(moved, self.lab.pods["bob"]), (moved, self.lab.pods["cleo"])]))

    def cluster_leaves(self) -> None:
        self.tell.step("Cluster c leaves; a and b notice nothing")
        source, target = self.lab.pods["anna"], self.lab.pods["bob"]
        gone = [node for node in self.lab.nodes if node.cluster == C.name]
        flows = [*self.flows(source, target, 2), *self.flows(target, source, 2, port=21000)]
        with Traffic(flows, tick=0.02) as traffic:
            joined.leave(self.lab.members[C.name])
            others = [node for node in self.lab.nodes if node.cluster != C.name]
            self.lab.wait(
                lambda: not any(self.left_on(node.name, C) for node in others)
                and not any(self.left_on(node.name, A, B) for node in gone),
                "c's routes, policies and devices to be gone", pause=1.0,
            )  # fmt: skip
            time.sleep(1)
        self.tell.check("nothing of it is left on any node", True)
        count = lost(traffic.records)
        sent = sum(len(each.sent) for each in traffic.records)
        self.tell.check(
            "traffic between a and b goes on without loss", not count, f"{sent} sent, {count} lost"
        )
        asked = reach.ways([(source, self.lab.pods["cleo"]), (target, self.lab.pods["cleo"])])
        quiet = reach.silent(asked, 1)
        self.tell.check("nobody reaches c any more, nor c anybody", len(quiet) == len(asked),
                        f"{len(quiet)} of {len(asked)} pings unanswered")  # fmt: skip

    # What the steps are made of

    def left_on(self, node: str, *clusters: LabCluster) -> list[str]:
        """Policies and routes of ours on a node that are about other clusters."""
        told = ip_text(node, "xfrm", "policy") + ip_text(node, "xfrm", "state")
        for family in ("-4", "-6"):
            told += ip_text(node, family, "route", "show", "proto", str(ROUTE_PROTOCOL))
        marks = [
            mark for each in clusters for mark in (f"10.10{each.number}.", f"fd00:10{each.number}:")
        ]
        return [line for line in told.splitlines() if any(mark in line for mark in marks)]

    def between_clusters(self) -> list[reach.Way]:
        return reach.ways((self.pod(one), self.pod(other)) for one, other in PAIRS)

    def reached(self, asked: Sequence[reach.Way]) -> None:
        began = time.monotonic()
        quiet = list(asked)
        while quiet and time.monotonic() < began + SETTLED:
            quiet = reach.silent(quiet, 10, count=2)
        took = f"all, within {time.monotonic() - began:.1f} s"
        self.tell.check(f"{len(asked)} ways answer a ping, both directions, IPv4 and IPv6",
                        not quiet, ", ".join(map(str, quiet)) or took)  # fmt: skip
        if self.verbose:
            for way in asked:
                self.tell.say(str(way))

    def pod(self, cluster: LabCluster) -> LabPod:
        """The last of a cluster's pods."""
        return [pod for pod in self.lab.pods.values() if pod.node.cluster == cluster.name][-1]

    def flows(self, here: LabPod, there: LabPod, count: int, port: int = 20000) -> list[Flow]:
        ends = [(pod.netns, pod.addresses) for pod in (here, there)]
        return between(f"{here.name} → {there.name}", ends[0], ends[1], count, port)

    def leave_standing(self) -> None:
        """Says how to look around."""
        server = self.lab.members[A.name].servers[0].url
        self.tell.step("The lab stands")
        self.tell.say(
            f"./run lab ip -n {topology.netns('a1')} xfrm policy\n"
            f"./run lab ip netns exec {self.lab.pods['anna'].netns} ping"
            f" -c 3 {self.lab.pods['bob'].addresses[0]}\n"
            f"./run lab netspacectl --federation-server {server} federation status\n"
            "./run demo --end      ends it"
        )


def _ms(record: Record, since: float, until: float) -> str:
    gap = record.gap(since, until)
    return "never came" if math.isinf(gap) else f"{gap * 1e3:.0f} ms"


def main(arguments: Sequence[str]) -> int:
    known = {"--keep", "--verbose"}
    if not set(arguments) <= known:
        told = " ".join(arguments)
        print(f"demo: {told!r} is not understood; use --keep, --verbose or --end", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    tell = Narrator()
    lab = FederatedPlace()
    try:
        with lab:
            demo = Demo(lab, tell, "--verbose" in arguments)
            try:
                demo.run()
            except Exception:
                if demo.verbose:
                    _show_logs()
                raise
            if "--keep" in arguments:
                demo.leave_standing()
                lab.keep = True
    except (
        CharonError,
        CniError,
        EtcdError,
        Problem,
        TrafficError,
        place.PlaceError,
        programs.ProgramMissing,
        topology.TopologyError,
    ) as error:
        tell.check("the demo runs to its end", False, error)
    except KeyboardInterrupt:
        print("\ninterrupted; everything that was made is removed", file=sys.stderr)
        return 130
    if not lab.keep:
        left = place.left()
        tell.check("nothing of the lab is left", not left, ", ".join(left) or "none")
    return tell.sum_up()


def _show_logs() -> None:
    """The end of every program's log."""
    for path in sorted(place.FOLDER.glob("*/**/*log")):
        said = path.read_text(errors="replace")[-3000:]
        print(f"--- {path.relative_to(place.FOLDER)}\n{said}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
