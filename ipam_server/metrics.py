"""What Prometheus is told: requests by route, pools and clusters as the state has them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from netspace.messages import ClusterStatus, Pool
from netspace.problems import Problem

if TYPE_CHECKING:
    from ipam_server.directory import Directory

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Seconds: from one commit on a fast disk to the longest a request may take."""


class Metrics:
    """The metrics of one server. `observe` is told of every request."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(namespace="netspace", registry=self._registry)
        self._requests = Counter(
            "netspace_http_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "netspace_http_request_seconds",
            "Time from a request's header to its answer.",
            ("method", "route"),
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._cut = Counter(
            "netspace_http_connections_cut",
            "Connections turned away (full), without a handshake, or cut off (slow).",
            ("why",),
            registry=self._registry,
        )
        self._certificate: Gauge | None = None
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._state = _State()
        self._registry.register(self._state)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        key = (method, route, status)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = (
                self._requests.labels(method, route, str(status)),
                self._seconds.labels(method, route),
            )
        known[0].inc()
        known[1].observe(seconds)

    def cut(self, why: str) -> None:
        """A connection was turned away or cut off."""
        self._cut.labels(why).inc()

    def certificate_expires(self, at: float) -> None:
        """When the server's certificate expires, as a POSIX time."""
        if self._certificate is None:
            self._certificate = Gauge(
                "netspace_tls_certificate_expires_timestamp_seconds",
                "When the server's certificate expires.",
                registry=self._registry,
            )
        self._certificate.set(at)

    async def exposition(self, directory: Directory | None) -> bytes:
        """The text format. Where the state cannot be read its gauges are absent: an old figure
        would look like a present one."""
        self._state.clusters = [] if directory is None else await _read(directory)
        self._state.reclaiming = [] if directory is None else _reclaiming(directory)
        return generate_latest(self._registry)


async def _read(directory: Directory) -> list[tuple[ClusterStatus, list[Pool]]]:
    found = []
    for service in directory.services:
        with contextlib.suppress(Problem):
            found.append((await service.status(), await service.pools()))
    return found


def _reclaiming(directory: Directory) -> list[tuple[str, int, int]]:
    found = []
    for service in directory.services:
        with contextlib.suppress(Problem):
            found.append((service.name, service.reclaim_candidates, service.reclaimed))
    return found


class _State:
    """Gauges of what was last read of the state."""

    def __init__(self) -> None:
        self.clusters: list[tuple[ClusterStatus, list[Pool]]] = []
        self.reclaiming: list[tuple[str, int, int]] = []

    def collect(self) -> Iterator[Metric]:
        leading = GaugeMetricFamily(
            "netspace_cluster_leading", "1: this server leads the cluster.", labels=["cluster"]
        )
        waiting = GaugeMetricFamily(
            "netspace_cluster_waiting_requests", "Requests queued.", labels=["cluster"]
        )
        used = GaugeMetricFamily(
            "netspace_cluster_used_addresses", "Slots held by somebody.", labels=["cluster"]
        )
        released = GaugeMetricFamily(
            "netspace_cluster_released_addresses",
            "Slots whose last holder is remembered.",
            labels=["cluster"],
        )
        addresses = GaugeMetricFamily(
            "netspace_pool_addresses",
            "A pool's own slots: used, cooling, retained and free make up its size.",
            labels=["cluster", "pool", "kind", "state"],
        )
        candidates = GaugeMetricFamily(
            "netspace_reclaim_candidates",
            "Held slots that their node's last report missed.",
            labels=["cluster"],
        )
        reclaimed = CounterMetricFamily(
            "netspace_reclaimed_addresses", "Slots that this server reclaimed.", labels=["cluster"]
        )
        for name, missed, freed in self.reclaiming:
            candidates.add_metric([name], missed)
            reclaimed.add_metric([name], freed)
        yield from (candidates, reclaimed)
        for cluster, pools in self.clusters:
            leading.add_metric([cluster.name], cluster.leading)
            waiting.add_metric([cluster.name], cluster.waiting)
            used.add_metric([cluster.name], cluster.used)
            released.add_metric([cluster.name], cluster.released)
            for pool in pools:
                labels = [cluster.name, pool.name, pool.kind]
                addresses.add_metric([*labels, "used"], pool.used)
                addresses.add_metric([*labels, "cooling"], pool.cooling)
                addresses.add_metric([*labels, "retained"], pool.retained)
                addresses.add_metric([*labels, "free"], float(int(pool.free)))
        yield from (leading, waiting, used, released, addresses)
