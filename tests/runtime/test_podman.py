"""Containers of a real podman with its CNI back end, which tells a plugin nothing but a name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hostnet import Netns, open_netns
from lab.server import until
from tests.runtime.images import NAME
from tests.runtime.machine import Machine
from tests.runtime.world import World, pings, shown, talks


@pytest.fixture
def podman(world: World) -> Iterator[World]:
    """Both nodes with the image; containers that a test leaves are removed."""
    for machine in world.machines:
        machine.make_ready()
        machine.run("podman", "load", "--quiet", "--input", str(machine.archive))
    yield world
    for machine in world.machines:
        machine.run("podman", "rm", "--all", "--force", "--time=0")


def run(machine: Machine, name: str) -> str:
    """The id of a new container on the conflist's network."""
    where = ("--network=netspace", f"--cgroup-parent={machine.cgroup}")
    return machine.run("podman", "run", "--detach", *where, f"--name={name}", NAME).stdout.strip()


def netns(machine: Machine, container: str) -> Netns:
    form = "{{.NetworkSettings.SandboxKey}}"
    path = machine.run("podman", "inspect", "--format", form, container).stdout.strip()
    return open_netns(machine.outside(path))


def test_its_containers_get_the_default_pool_and_talk_in_both_families(podman: World) -> None:
    near, far = run(podman.one, "near"), run(podman.two, "far")
    held = {str(entry.container): entry for entry in podman.held()}
    assert {container: entry.pool for container, entry in held.items()} == {
        near: "default",
        far: "default",
    }
    with netns(podman.one, near) as client, netns(podman.two, far) as server:
        assert shown(client) == (True, [held[near].ipv4, held[near].ipv6])
        for address in (held[far].ipv4, held[far].ipv6):
            assert address is not None
            assert pings(client, address)
            assert talks(client, server, address)


def test_a_container_that_is_removed_leaves_nothing(podman: World) -> None:
    container = run(podman.one, "web")
    podman.one.run("podman", "stop", "--time=0", container)
    assert podman.held() == []
    podman.one.run("podman", "start", container)
    assert [entry.container for entry in podman.held()] == [container]
    podman.one.run("podman", "rm", "--force", "--time=0", container)
    podman.nothing_is_left()


def test_a_container_that_is_stopped_while_the_server_is_away(podman: World) -> None:
    container = run(podman.one, "web")
    podman.server.stop()
    try:
        podman.one.run("podman", "rm", "--force", "--time=0", container)
    finally:
        podman.start_server()
    if podman.one.agent:
        until(lambda: not podman.held(), "the agent has given the address back")
    else:
        assert [entry.container for entry in podman.held()] == [container]
        podman.one.replay()
    podman.nothing_is_left()
