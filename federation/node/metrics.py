"""What Prometheus is told of a node's federation agent.

Tunnels are told one by one, since a node has few; VXLAN paths, of which there may be thousands, by
the cluster they lead to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from netspace import __version__
from netspace.messages.federation_node import FederationAgentStatus, PathStatus

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
_PEER: Final = ("federation", "cluster")
_PATH: Final = (*_PEER, "gateway")


class Counts:
    """What is counted as it happens. `repairs`: changes that nobody asked for."""

    def __init__(self) -> None:
        self.rounds = 0
        self.repairs = 0
        self.rekeys = 0
        self.moves = 0
        self.lost = 0


Look = Callable[[], FederationAgentStatus]


class Metrics:
    """The metrics of one process, made of its status when they are asked for."""

    def __init__(self, look: Look, counts: Counts) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(namespace="netspace", registry=registry)
        registry.register(_Agent(look, counts))

    def exposition(self) -> bytes:
        """The text format."""
        return generate_latest(self._registry)


class _Agent(Collector):
    def __init__(self, look: Look, counts: Counts) -> None:
        self._look, self._counts = look, counts

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        status, counts = self._look(), self._counts
        yield _gauge(
            "netspace_build_info", "1, with the version that runs.", ("version",),
            [((__version__,), 1)],
        )  # fmt: skip
        yield from _paths(status)
        faults = [0, 0]
        for each in status.findings:
            faults[each.verdict == "fault"] += 1
        yield _gauge(
            "netspace_federation_findings", "What is wrong now.", ("verdict",),
            [(("fault",), faults[1]), (("warning",), faults[0])],
        )  # fmt: skip
        if status.view_age is not None:
            yield _gauge(
                "netspace_federation_view_age_seconds",
                "Since the server last confirmed what the node knows.", (),
                [((), status.view_age)],
            )  # fmt: skip
        yield _gauge(
            "netspace_federation_certificate_expires_timestamp_seconds",
            "When the node's certificate expires.", ("federation",),
            [((each.name,), each.certificate_until) for each in status.federations
             if each.certificate_until is not None],
        )  # fmt: skip
        for name, what, value in (
            ("rounds", "Times that the node was compared with what it should be.", counts.rounds),
            ("repairs", "Changes that put right what somebody else changed.", counts.repairs),
            ("rekeys", "Times that a tunnel got new keys.", counts.rekeys),
            ("bucket_moves", "Times that flows were moved to other gateways.", counts.moves),
            ("probes_lost", "Probes that were not answered.", counts.lost),
            ("probes_answered", "Probes of other nodes answered.", status.probes_answered),
        ):
            family = CounterMetricFamily(f"netspace_federation_{name}", what)
            family.add_metric([], value)
            yield family
        errors = GaugeMetricFamily(
            "netspace_federation_part_failed",
            "1: this part of the data plane could not be brought to what it should be.",
            labels=["part"],
        )
        for part in status.parts:
            errors.add_metric([part.name], 1 if part.error else 0)
        yield errors


def _paths(status: FederationAgentStatus) -> Iterator[Metric]:
    tunnels = [
        ((each.name, peer.cluster, path.node), path)
        for each in status.federations
        for peer in each.peers
        for path in peer.paths
        if path.kind == "esp"
    ]
    yield _gauge(
        "netspace_federation_tunnel_up", "1: the tunnel is up.", _PATH,
        [(labels, int(path.state == "up")) for labels, path in tunnels],
    )  # fmt: skip
    yield _gauge(
        "netspace_federation_tunnel_buckets",
        "How many of the 64 flow buckets the gateway has.", _PATH,
        [(labels, path.buckets) for labels, path in tunnels],
    )  # fmt: skip
    for name, what, value in _FIGURES:
        yield _gauge(
            f"netspace_federation_tunnel_{name}", what, _PATH,
            [(labels, found) for labels, path in tunnels if (found := value(path)) is not None],
        )  # fmt: skip
    meshes = [
        ((each.name, peer.cluster), [path for path in peer.paths if path.kind == "vxlan"])
        for each in status.federations
        for peer in each.peers
        if peer.kind == "homogeneous"
    ]
    yield _gauge(
        "netspace_federation_mesh_paths", "VXLAN paths to a cluster's nodes.", (*_PEER, "state"),
        [((*labels, state), sum(path.state == state for path in paths))
         for labels, paths in meshes for state in ("up", "connecting", "down")],
    )  # fmt: skip
    for name, what, value in _FIGURES:
        figures = [(labels, [v for path in paths if (v := value(path)) is not None])
                   for labels, paths in meshes]  # fmt: skip
        yield _gauge(
            f"netspace_federation_mesh_{name}", f"{what} Median over the paths.", _PEER,
            [(labels, median(values)) for labels, values in figures if values],
        )  # fmt: skip


_FIGURES: Final[tuple[tuple[str, str, Callable[[PathStatus], float | None]], ...]] = (
    ("loss_ratio", "Share of the last probes that were lost.", lambda path: path.loss),
    ("round_trip_seconds", "Median of the last probes.", lambda path: path.rtt),
    ("mtu_bytes", "What goes through in one piece.", lambda path: path.mtu),
)


def _gauge(
    name: str, what: str, labels: tuple[str, ...], values: list[tuple[tuple[str, ...], float]]
) -> Metric:
    family = GaugeMetricFamily(name, what, labels=labels)
    for given, value in values:
        family.add_metric(list(given), value)
    return family
