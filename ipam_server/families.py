"""The metrics of clusters, of etcd and of the other servers: pure, from what is in memory.

Label values are names that this server holds: of clusters, networks and pools that exist, of etcd's
endpoints as configured, of kinds and codes; none comes from a request. docs/metrics.md has them.
"""

from __future__ import annotations

import contextlib
from collections import Counter as Count
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import HistogramMetricFamily as Histogram
from prometheus_client.core import Metric

from ipam_server.inventory import PoolState
from ipam_server.pools import total_free
from ipam_server.state import ClusterState
from netspace.messages import Status
from netspace.problems import Problem
from statestore import ALARMS, MemberStatus

if TYPE_CHECKING:
    from ipam_server.service import ClusterService

_CLUSTER: Final = ("cluster",)


@dataclass(frozen=True, slots=True)
class Look:
    """What was heard when the server last looked whether it is ready. `lag`: revisions that this
    server is behind each cluster's leader. `quota`: bytes, for an etcd that does not tell."""

    ready: bool
    lag: Mapping[str, int]
    members: tuple[MemberStatus, ...]
    quota: int


def lags(status: Status, revisions: Mapping[str, int]) -> dict[str, int]:
    """How many revisions each cluster here is behind what its leader says of itself; nothing is
    said of a cluster whose leader was not reached."""
    return {
        cluster.name: max(0, cluster.revision - revisions[cluster.name])
        for server in status.servers
        for cluster in server.clusters
        if cluster.leading and cluster.name in revisions
    }


def heard(look: Look) -> Iterator[Metric]:
    """Readiness, lag, and how etcd is."""
    yield Gauge(
        "netspace_ready",
        "1: etcd answers and every cluster has a leader, as /readyz says.",
        value=look.ready,
    )
    lag = Gauge(
        "netspace_cluster_lag_revisions",
        "Revisions of etcd that this server is behind the cluster's leader.",
        labels=_CLUSTER,
    )
    for cluster, behind in look.lag.items():
        lag.add_metric([cluster], behind)
    reachable = Gauge("netspace_etcd_reachable", "1: the member answers.", labels=["endpoint"])
    size = Gauge("netspace_etcd_database_bytes", "The database's file.", labels=["endpoint"])
    used = Gauge(
        "netspace_etcd_database_in_use_bytes",
        "What of it would be left after a defragmentation.",
        labels=["endpoint"],
    )
    quota = Gauge(
        "netspace_etcd_quota_bytes",
        "What the file may grow to: as etcd says (from 3.6 on), else as configured.",
        labels=["endpoint"],
    )
    alarm = Gauge("netspace_etcd_alarm", "1: etcd has raised the alarm.", labels=["alarm"])
    alarms: set[str] = set()
    for member in look.members:
        where = [member.endpoint]
        reachable.add_metric(where, not member.error)
        if member.error:
            continue
        size.add_metric(where, member.database_bytes)
        used.add_metric(where, member.in_use_bytes)
        quota.add_metric(where, member.quota_bytes or look.quota)
        alarms.update(member.alarms)
    if any(not member.error for member in look.members):
        for name in ALARMS.values():
            alarm.add_metric([name], name in alarms)
    yield from (lag, reachable, size, used, quota, alarm)


def clusters(services: Iterable[ClusterService]) -> Iterator[Metric]:
    """Every cluster that this server looks after. The gauges of one whose state has not been read
    yet are absent."""
    known = list(services)
    read = []
    for service in known:
        with contextlib.suppress(Problem):
            read.append((service, service.state))
    yield from _standing(known, read)
    yield from _networks([state for _, state in read])
    yield from _pools([(state, service.now()) for service, state in read])
    yield from _allocations(known)
    yield from _cleaning(known, read)


def _standing(
    known: list[ClusterService], read: list[tuple[ClusterService, ClusterState]]
) -> Iterator[Metric]:
    leading = Gauge(
        "netspace_cluster_leading", "1: this server leads the cluster.", labels=_CLUSTER
    )
    leaders = Counter(
        "netspace_cluster_leader_changes",
        "New leaders, after the first, that this server has seen, itself among them.",
        labels=_CLUSTER,
    )
    waiting = Gauge(
        "netspace_cluster_waiting_changes", "Changes that wait for a transaction.", labels=_CLUSTER
    )
    for service in known:
        leading.add_metric([service.name], service.leading)
        leaders.add_metric([service.name], service.leader_changes)
        waiting.add_metric([service.name], service.local_status().waiting)
    revision = Gauge(
        "netspace_cluster_revision",
        "Revision of etcd that this server's memory has reached.",
        labels=_CLUSTER,
    )
    used = Gauge("netspace_cluster_used_addresses", "Slots held by somebody.", labels=_CLUSTER)
    released = Gauge(
        "netspace_cluster_released_addresses",
        "Slots whose last holder is remembered.",
        labels=_CLUSTER,
    )
    for service, state in read:
        networks = state.networks.values()
        revision.add_metric([service.name], state.revision)
        used.add_metric([service.name], sum(len(network.held) for network in networks))
        released.add_metric([service.name], sum(len(network.released) for network in networks))
    yield from (leading, leaders, waiting, revision, used, released)


def _networks(states: list[ClusterState]) -> Iterator[Metric]:
    addresses = Gauge(
        "netspace_network_addresses",
        "A network's total pool: what is carved into pools, and what is free for them.",
        labels=["cluster", "network", "state"],
    )
    for state in states:
        for name, network in state.networks.items():
            free = total_free(state, name).size
            addresses.add_metric([state.name, name, "carved"], float(network.total.size - free))
            addresses.add_metric([state.name, name, "free"], float(free))
    yield addresses


def _pools(states: list[tuple[ClusterState, int]]) -> Iterator[Metric]:
    labels = ["cluster", "pool", "kind"]
    size = Gauge("netspace_pool_size_addresses", "A pool's own slots.", labels=labels)
    addresses = Gauge(
        "netspace_pool_addresses",
        "A pool's own slots: used, cooling, retained and free make up its size.",
        labels=[*labels, "state"],
    )
    reserved = Gauge(
        "netspace_pool_reserved_addresses", "Used slots that are reservations.", labels=labels
    )
    growable = Gauge(
        "netspace_pool_growable_addresses",
        "Slots by which an elastic pool can still grow by itself.",
        labels=labels,
    )
    for state, now in states:
        reservations = _reservations(state)
        source = {name: total_free(state, name).size for name in state.networks}
        for pool in state.pools.values():
            state.settle(pool, now)
            key = [state.name, pool.name, pool.record.kind]
            cooling, retained = len(pool.cooling), len(pool.retained)
            size.add_metric(key, float(pool.size))
            addresses.add_metric([*key, "used"], pool.used)
            addresses.add_metric([*key, "cooling"], cooling)
            addresses.add_metric([*key, "retained"], retained)
            free = pool.size - pool.used - cooling - retained
            addresses.add_metric([*key, "free"], float(free))
            reserved.add_metric(key, reservations[pool.name])
            growable.add_metric(key, float(room(state, pool, source[pool.record.network])))
    yield from (size, addresses, reserved, growable)


def room(state: ClusterState, pool: PoolState, total: int) -> int:
    """By how many slots a pool can grow by itself; `total`: what of its network is in no pool."""
    bounds = pool.record.bounds
    if bounds is None:
        return 0
    parent = state.pools.get(pool.record.parent) if pool.record.parent else None
    source = total if parent is None else parent.free
    return max(0, min(bounds.maximum - pool.ranges.size, source))


def _reservations(state: ClusterState) -> Count[str]:
    owners = (
        network.owner(index)
        for network in state.networks.values()
        for index in network.reservations
    )
    return Count(owner.name for owner in owners if owner is not None)


def _allocations(known: list[ClusterService]) -> Iterator[Metric]:
    whole = Histogram(
        "netspace_allocation_duration_seconds",
        "Time of an allocation that was answered with an address, at the leader.",
        labels=_CLUSTER,
    )
    phases = Histogram(
        "netspace_allocation_phase_duration_seconds",
        "Where the time of an allocation goes that takes a slot: waiting for its turn, decision,"
        " queue for a transaction, commit.",
        labels=["cluster", "phase"],
    )
    problems = Counter(
        "netspace_allocation_problems",
        "Allocations that ended with a problem, by its code, at the leader.",
        labels=["cluster", "code"],
    )
    batch = Histogram(
        "netspace_transaction_changes", "Changes that went in one transaction.", labels=_CLUSTER
    )
    for service in known:
        name, figures = service.name, service.figures
        whole.add_metric([name], figures.allocation.buckets(), figures.allocation.sum)
        batch.add_metric([name], figures.batch.buckets(), figures.batch.sum)
        for phase, tally in figures.phases.items():
            phases.add_metric([name, phase], tally.buckets(), tally.sum)
        for code, count in figures.problems.items():
            problems.add_metric([name, code], count)
    yield from (whole, phases, problems, batch)


def _cleaning(
    known: list[ClusterService], read: list[tuple[ClusterService, ClusterState]]
) -> Iterator[Metric]:
    candidates = Gauge(
        "netspace_reclaim_candidates",
        "Held slots that their node's last report missed, or Kubernetes says are gone with it.",
        labels=_CLUSTER,
    )
    fenced = Gauge(
        "netspace_fenced_nodes",
        "Nodes that Kubernetes says run nothing any more.",
        labels=_CLUSTER,
    )
    for service, state in read:
        candidates.add_metric([service.name], service.reclaim_candidates)
        fenced.add_metric([service.name], len(state.fenced))
    freed = Counter(
        "netspace_freed_addresses",
        "Pods' slots freed: released by the node, reclaimed, gone with a fenced node, on an"
        " operator's word.",
        labels=["cluster", "cause"],
    )
    forgotten = Counter(
        "netspace_forgotten_entries",
        "Past holders (history), remembered changes (audit) and released claims that were old.",
        labels=["cluster", "kind"],
    )
    for service in known:
        for cause, count in service.figures.freed.items():
            freed.add_metric([service.name, cause], count)
        for kind, count in service.figures.forgotten.items():
            forgotten.add_metric([service.name, kind], count)
    yield from (candidates, fenced, freed, forgotten)
