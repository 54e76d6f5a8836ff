"""What Prometheus is told of the controller."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from netspace import __version__

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4


class Metrics:
    """The metrics of one process. Labels are kinds, codes and causes from fixed lists."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(namespace="netspace", registry=registry)
        version = Gauge(
            "netspace_build_info", "1, with the version that runs.", ["version"], registry=registry
        )
        version.labels(__version__).set(1)
        self.leading = Gauge(
            "netspace_controller_leading",
            "1: this process works; 0: another one does.",
            registry=registry,
        )
        self.rounds = Counter(
            "netspace_controller_rounds",
            "Rounds in which what is declared was compared with the server, by their end.",
            ["result"],
            registry=registry,
        )
        self.round_seconds = Histogram(
            "netspace_controller_round_duration_seconds", "Time of a round.", registry=registry
        )
        self.changes = Counter(
            "netspace_controller_changes",
            "Changes asked of the server.",
            ["kind"],
            registry=registry,
        )
        self.problems = Counter(
            "netspace_controller_problems",
            "Objects that could not be brought to what they declare, each time it was tried.",
            ["resource", "code"],
            registry=registry,
        )
        self.orphans = Gauge(
            "netspace_controller_orphans",
            "Networks and pools that the server has for Kubernetes and no object declares.",
            ["resource"],
            registry=registry,
        )
        self.wrong_namespaces = Gauge(
            "netspace_controller_wrong_namespaces",
            "Namespaces whose annotations cannot be used.",
            registry=registry,
        )
        self.fenced_nodes = Gauge(
            "netspace_controller_fenced_nodes",
            "Nodes that hold addresses and are fenced by Kubernetes' word.",
            registry=registry,
        )
        self.status_writes = Counter(
            "netspace_controller_status_writes",
            "Statuses written.",
            ["resource"],
            registry=registry,
        )
        self.watching = Counter(
            "netspace_controller_watch_events",
            "Lists and watches begun, and failures of either.",
            ["resource", "what"],
            registry=registry,
        )

    def exposition(self) -> bytes:
        """The text format."""
        return generate_latest(self._registry)
