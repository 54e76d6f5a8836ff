"""What Prometheus is told: of the server, and of its cluster's federations as it has them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import Metric

from federation.plan.availability import gateways
from federation.server.service import Service
from federation.server.state import State
from netspace.http_metrics import CONTENT_TYPE as CONTENT_TYPE
from netspace.http_metrics import HttpMetrics

STATES: Final[tuple[str, ...]] = ("up", "connecting", "down")


class Metrics(HttpMetrics):
    """The metrics of one server."""

    async def exposition(self, service: Service) -> bytes:
        """The text format."""
        return await self.told(families(service))


def families(service: Service) -> Iterator[Metric]:
    """Of the state as this server has it; what only the leader knows is told by the leader."""
    place = service.place
    leads = Gauge("netspace_federation_leading", "1 at the leader of the cluster's servers.")
    leads.add_metric([], float(service.leading))
    yield leads
    expires = Gauge(
        "netspace_federation_certificate_expires_timestamp_seconds",
        "When this server's certificate of a federation expires.",
        labels=["federation"],
    )
    for name, at in service.identity.expires().items():
        expires.add_metric([name], at)
    yield expires
    if place.mirror.known.is_set():
        yield from _peers(place.state, place.cluster)
    if service.leading:
        yield from _led(service)


def _peers(state: State, cluster: str) -> Iterator[Metric]:
    labels = ["federation", "peer"]
    nodes = Gauge("netspace_federation_peer_nodes", "Nodes of another member.", labels=labels)
    down = Gauge(
        "netspace_federation_peer_nodes_down",
        "Nodes of another member that its own servers do not hear.",
        labels=labels,
    )
    known = Gauge("netspace_federation_peer_gateways", "Gateways of another member.", labels=labels)
    available = Gauge(
        "netspace_federation_peer_gateways_available",
        "Gateways of another member that are available in this cluster's judgement.",
        labels=labels,
    )
    fault = Gauge(
        "netspace_federation_peer_fault",
        "1 where what another member tells is not applied.",
        labels=labels,
    )
    for (name, peer), info in state.peers.items():
        at = [name, peer]
        nodes.add_metric(at, len(info.nodes))
        down.add_metric(at, sum(node.down is not None for node in info.nodes))
        record = state.federations.get(name)
        if record is not None and record.federation.kind(cluster, peer) == "heterogeneous":
            known.add_metric(at, len(gateways(info)))
            available.add_metric(at, len(state.available.get(name, {}).get(peer, [])))
    for name, record in state.federations.items():
        for member in record.federation.members:
            if member.cluster != cluster:
                fault.add_metric(
                    [name, member.cluster], float((name, member.cluster) in state.faults)
                )
    yield from (nodes, down, known, available, fault)


def _led(service: Service) -> Iterator[Metric]:
    duty, labels = service.duty, ["federation", "peer"]
    reached = Gauge(
        "netspace_federation_peer_reached",
        "1 where another member's servers answered when they were last asked.",
        labels=labels,
    )
    age = Gauge(
        "netspace_federation_peer_contact_age_seconds",
        "Seconds since another member's servers last answered.",
        labels=labels,
    )
    now = time.time()
    for at, exchange in duty.exchanges.items():
        reached.add_metric(list(at), float(exchange.reached))
        if exchange.contact is not None:
            age.add_metric(list(at), max(0.0, now - exchange.contact))
    tunnels = Gauge(
        "netspace_federation_tunnels",
        "Paths of the cluster's nodes to another member's, by their own words.",
        labels=[*labels, "state"],
    )
    counted = {(*at, state): 0 for at in duty.exchanges for state in STATES}
    silent = 0
    for heard in duty.words.heard.values():
        silent += heard.node.down is not None
        for path in () if heard.word is None else heard.word.paths:
            said = (path.federation, path.cluster, str(path.state))
            if said in counted:
                counted[said] += 1
    for at3, count in counted.items():
        tunnels.add_metric(list(at3), count)
    nodes = Gauge("netspace_federation_nodes", "Nodes of the cluster that have spoken.")
    nodes.add_metric([], len(duty.words.heard))
    down = Gauge("netspace_federation_nodes_down", "Of these, those that are silent.")
    down.add_metric([], silent)
    yield from (reached, age, tunnels, nodes, down)
