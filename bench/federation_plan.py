"""How long a plan of large federations takes, and what it takes of memory: no kernel, one node.

Every node of every cluster can be a gateway and has a range of each family; half of the other
clusters have this one's CNI, the other half another. `measure` runs each size in a process of its
own, from the JSON of a view to the desired node, once cold and once after one path changed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from federation.plan.node import desired
from federation.plan.paths import follow, found, observe
from netspace.messages.federation import (
    ClusterInfo,
    FederatedNode,
    Federation,
    FederationView,
    Member,
    Peer,
    Version,
    View,
)

CLUSTERS: Final = 10
_ROOT: Final = Path(__file__).resolve().parent.parent


class PlanFigures(msgspec.Struct, frozen=True):
    """`read_ms`: decoding the view; `plan_ms`: the first plan of it; `again_ms`: the plan after a
    gateway failed; `rss_mib`: the most that the process took, all of it together."""

    clusters: int
    nodes: int
    read_ms: float
    plan_ms: float
    again_ms: float
    rss_mib: float


def measure() -> dict[str, float]:
    """The figures: for 10 clusters with 5,000 nodes together, with 5,000 each, and 10 with 200
    each."""
    whole, each, small = (figures_of(CLUSTERS, nodes) for nodes in (500, 5000, 200))
    return {
        "plan_ms_5000_nodes": max(whole.plan_ms, whole.again_ms),
        "plan_rss_mib": whole.rss_mib,
        "plan_ms_5000_nodes_each": max(each.plan_ms, each.again_ms),
        "plan_rss_mib_5000_nodes_each": each.rss_mib,
        "plan_ms_200_nodes_each": max(small.plan_ms, small.again_ms),
    }


def figures_of(clusters: int, nodes: int) -> PlanFigures:
    """One size, `nodes` in each cluster, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-m", "bench.federation_plan", str(clusters), str(nodes)],
        cwd=_ROOT,
        input=msgspec.json.encode(view(clusters, nodes)),
        stdout=subprocess.PIPE,
        check=True,
    )
    return msgspec.json.decode(run.stdout, type=PlanFigures)


def view(clusters: int, nodes: int) -> View:
    """A view of cluster c0; clusters of even number have its CNI."""
    infos = [info(number, nodes) for number in range(clusters)]
    members = [
        Member(
            cluster=one.cluster, cni=one.cni, endpoints=one.endpoints, ca="CA", ranges=one.ranges
        )
        for one in infos
    ]
    federation = Federation(name="f", number=1, founder="c0", root="CA", vni=78, members=members)
    peers = [
        Peer(
            cluster=one.cluster,
            kind=federation.kind("c0", one.cluster),
            ca="CA",
            info=one,
            available=[node.name for node in one.nodes],
        )
        for one in infos[1:]
    ]
    joined = FederationView(federation=federation, own=infos[0], peers=peers)
    return View(cluster="c0", number=1, federations=[joined])


def info(number: int, nodes: int) -> ClusterInfo:
    """A cluster whose nodes have a range of 32 IPv4 addresses and one of IPv6 each."""
    return ClusterInfo(
        cluster=f"c{number}",
        version=Version(epoch=1, number=1),
        cni="bridge" if number % 2 else "macvlan",
        ranges=[f"10.{number * 8}.0.0/13", f"fd00:{number:x}::/32"],
        endpoints=[f"172.16.{number}.1:7443"],
        nodes=[
            FederatedNode(
                name=f"node-{place:04d}",
                addresses=[f"172.{16 + number}.{place >> 8}.{place & 255}"],
                ranges=[
                    f"10.{number * 8 + (place >> 11)}.{place >> 3 & 255}.{(place & 7) << 5}/27",
                    f"fd00:{number:x}:{place:x}::/64",
                ],
                capabilities=["ipsec", "vxlan", "ipv6"],
            )
            for place in range(nodes)
        ],
    )


def _child(clusters: int, nodes: int) -> None:
    raw = sys.stdin.buffer.read()
    start = time.perf_counter()
    seen = msgspec.json.decode(raw, type=View)
    read = time.perf_counter()
    first = desired(seen, "node-0007")
    planned = time.perf_counter()
    paths = {path: found(0.0, state.ordinal) for path, state in follow({}, first.tunnels).items()}
    before = desired(seen, "node-0007", paths)
    failed = before.tunnels[0].path
    began = time.perf_counter()
    after = desired(seen, "node-0007", {**paths, failed: observe(paths[failed], "down", 0.0, 3)})
    again = time.perf_counter()
    if sum(one != other for one, other in zip(before.flows, after.flows, strict=True)) != 1:
        raise RuntimeError("one gateway failed: the flows of one peer change, and no other's")
    figures = PlanFigures(
        clusters,
        nodes,
        round((read - start) * 1000, 1),
        round((planned - read) * 1000, 1),
        round((again - began) * 1000, 1),
        round(_most_mib(), 1),
    )
    sys.stdout.buffer.write(msgspec.json.encode(figures))


def _most_mib() -> float:
    """The most that this process had in memory; rusage would count what its parent had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


if __name__ == "__main__":
    _child(int(sys.argv[1]), int(sys.argv[2]))
