"""Two nodes with container runtimes on one segment, under one server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.agents import WAYS
from tests.nodes import Node, declare, default_pool, dual_stack, ipam_server
from tests.runtime import cgroups
from tests.runtime.images import pause_archive
from tests.runtime.machine import Machine
from tests.runtime.world import CLUSTER, TENANT, World
from tests.wires import namespaces, wire


@pytest.fixture(scope="session", params=WAYS)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """Both nodes, booted, with containerd; the parameter says who carries the calls out."""
    cgroups.remove_abandoned()
    folder = tmp_path_factory.mktemp("runtime")
    archive = pause_archive(folder)
    with ipam_server(folder) as server, namespaces(2) as spaces:
        declare(server, CLUSTER, dual_stack(1), default_pool(16), TENANT)
        wire(spaces[0], "up0", spaces[1], "up0")
        machines = []
        try:
            for number, netns in enumerate(spaces, 1):
                name = f"node-{number}"
                node = Node(netns, folder / name, CLUSTER, server.url, name)
                agent = request.param == "agent"
                machines.append(Machine(node, archive, cgroups.of_node(name), agent=agent))
                machines[-1].start()
            yield World(server, machines[0], machines[1])
        finally:
            for machine in machines:
                machine.end()


@pytest.fixture
def running(world: World) -> Iterator[World]:
    """The same, containerd ready on both; pods that a test leaves are removed."""
    for machine in world.machines:
        machine.make_ready()
    yield world
    for machine in world.machines:
        machine.make_ready()
        machine.remove_pods()
