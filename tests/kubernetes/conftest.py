"""What tests with a real Kubernetes have; they are skipped where there is none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lab import image
from tests.kubernetes.apiserver import apiserver as apiserver
from tests.kubernetes.apiserver import with_namespaces as with_namespaces
from tests.kubernetes.cluster import Cluster, end_abandoned, missing
from tests.kubernetes.controllers import controlled as controlled
from tests.kubernetes.installed import Netspace
from tests.kubernetes.workloads import Workloads, custom

_PREFIX = "netspace-kube-"

_NETWORK = {
    "parent": "eth0",
    "ipv4": "10.60.0.0/24",
    "ipv6": "fd00:60::/64",
    "gateway4": "10.60.0.1",
    "gateway6": "fd00:60::1",
}
_POOLS: Mapping[str, Mapping[str, Any]] = {
    "default": {"kind": "default", "ranges": ["10.60.0.16-10.60.0.79"]},
    "tenant-a": {"kind": "netspace", "ranges": ["10.60.0.80-10.60.0.95"], "namespaces": ["*"]},
    "tiny": {"kind": "netspace", "ranges": ["10.60.0.96"], "namespaces": ["*"]},
    "grows": {
        "kind": "netspace",
        "namespaces": ["*"],
        "elastic": {"minimum": 1, "maximum": 32, "step": 2},
    },
    # As large as the StatefulSet that names it.
    "db": {"kind": "application", "namespaces": ["*"], "retention": 600},
}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, without Netspace: brought up once."""
    if reason := missing():
        pytest.skip(reason)
    place = Path(tempfile.gettempdir())
    end_abandoned(place, _PREFIX)
    work = place / f"{_PREFIX}{os.getpid()}"
    work.mkdir(mode=0o755)
    made = Cluster(work)
    try:
        made.start()
        yield made
    finally:
        made.end()


@pytest.fixture(scope="session")
def netspace(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Netspace:
    """Netspace on it, with a network on the nodes' eth0 and pools, planned by kubectl."""
    made = Netspace(cluster, tmp_path_factory.mktemp("person"))
    made.prepare(image.build())
    made.install()
    plan(cluster)
    return made


def plan(cluster: Cluster) -> None:
    """Declares network and pools; the one that follows a StatefulSet waits for it."""
    pools = {name: {"network": "net", "cooldown": 1, **spec} for name, spec in _POOLS.items()}
    cluster.apply(custom("Network", "net", _NETWORK))
    cluster.apply(*(custom("Pool", name, spec) for name, spec in pools.items()))
    at_once = [f"pool.ipam.netspace.io/{name}" for name in _POOLS if name != "db"]
    words = ("--for=condition=Ready", "--timeout=60s", "network.ipam.netspace.io/net", *at_once)
    cluster.kubectl("wait", *words)


@pytest.fixture(scope="session")
def workloads(cluster: Cluster) -> Workloads:
    return Workloads(cluster)
