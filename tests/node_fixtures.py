"""Fixtures of a server and of a node under it, for the folders whose tests run plugins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodes import IpamServer, Node, declare, default_pool, dual_stack, ipam_server
from tests.wires import namespaces, wire

CLUSTER = "cluster-1"


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[IpamServer]:
    """A server that is ready, with a cluster of one network: the module's `NETWORK`, or 10.1.0.0/24
    and fd00:1::/64 on `up0`."""
    network = getattr(request.module, "NETWORK", None) or dual_stack(1)
    with ipam_server(tmp_path_factory.mktemp("server")) as running:
        declare(running, CLUSTER, network, default_pool())
        yield running


@pytest.fixture
def node(server: IpamServer, tmp_path: Path) -> Iterator[Node]:
    """A node of that cluster, whose `up0` is on a wire."""
    with namespaces(2) as (host, other):
        wire(host, "up0", other, "far0")
        yield Node(host, tmp_path, CLUSTER, server.url)
