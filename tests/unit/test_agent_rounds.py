"""When the agent asks for the networks on account of pods, with its real rounds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cni_plugins import rounds
from cni_plugins.hosts import Hosts
from cni_plugins.node_config import NodeConfig
from cni_plugins.rounds import Rounds
from hostnet import Kernel
from netspace.messages import Network
from netspace.problems import Problem
from tests.unit.agent_bench import wait_until
from tests.unit.cni_bench import AWAY, Bench, invocation
from tests.unit.cni_doubles import network_view

SPARING = 0.2


class Server:
    """Says which networks there are, and counts how often it was asked; or says `problem`."""

    def __init__(self) -> None:
        self.there: list[str] = []
        self.asked = 0
        self.problem: Problem | None = None

    async def networks(self, cluster: str) -> list[Network]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.problem is not None:
            raise self.problem
        return [network(name) for name in self.there]


class Repairs:
    """Notes the networks that it is told of."""

    def __init__(self) -> None:
        self.networks: Sequence[Network] | None = None
        self.told: list[list[str] | None] = []

    def changed(self) -> None:
        self.told.append(None if self.networks is None else [each.name for each in self.networks])

    async def fence(self, disputes: object) -> bool:
        return False

    async def run(self) -> None:
        await asyncio.Event().wait()


class Node:
    """Rounds that have made their first report, which was refused where the server is away."""

    def __init__(self, bench: Bench, server: Server) -> None:
        self.server, self.repairs = server, Repairs()
        kept = SimpleNamespace(config=NodeConfig(cluster="c1"), client=server, host=bench.host())

        @contextmanager
        def using(path: str) -> Iterator[Any]:
            yield kept

        hosts = cast(Hosts, SimpleNamespace(using=using))
        self.rounds = Rounds(hosts, "", Kernel(), lambda _: self.repairs, settle=3600.0)

    def pod(self, *networks: str, **changes: Any) -> None:
        """An ADD on the networks succeeds."""
        views = [network_view(name=name, uid=name, **changes) for name in networks]
        self.rounds.succeeded(invocation("ADD"), views)


def network(name: str) -> Network:
    return Network(
        name=name, revision=1, uid=name, fabric="f", parent="bond0", vlan=910, ipv4="10.9.0.0/24",
        ipv6=None, gateway4=None, gateway6=None, mapping="offset", mtu=0, range=[], exclude=[],
        total="1", carved="0", used=0, reserved=0,
    )  # fmt: skip


@pytest.fixture
def during(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> Callable[[Callable[[Node], Awaitable[None]]], None]:
    """Runs a test while the rounds run, which report once an hour."""
    monkeypatch.setattr(rounds, "SPARING", SPARING)

    async def reported(*_: object) -> list[object]:
        return []

    monkeypatch.setattr(rounds, "report_node", reported)
    monkeypatch.setattr(rounds, "report_live", reported)

    async def whole(test: Callable[[Node], Awaitable[None]]) -> None:
        server = Server()
        server.there = ["old"]
        node = Node(Bench(tmp_path), server)
        work = asyncio.ensure_future(node.rounds.run())
        try:
            await wait_until(lambda: node.repairs.told[-1:] == [["old"]])
            await test(node)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    return lambda test: asyncio.run(whole(test))


During = Callable[[Callable[[Node], Awaitable[None]]], None]


def test_a_pod_on_a_network_that_is_known_asks_nothing(during: During) -> None:
    async def test(node: Node) -> None:
        for _ in range(200):
            node.pod("old")
        await asyncio.sleep(3 * SPARING)
        assert node.server.asked == 1

    during(test)


def test_the_node_learns_of_a_new_network_with_its_first_pod(during: During) -> None:
    async def test(node: Node) -> None:
        node.server.there.append("new")
        node.pod("new")
        await wait_until(lambda: node.repairs.told[-1] == ["old", "new"])
        await asyncio.sleep(3 * SPARING)
        assert node.server.asked == 2

    during(test)


@pytest.mark.parametrize("change", [{"vlan": 911}, {"vlan": None}, {"parent": "bond1"}])
def test_a_network_that_lies_elsewhere_now_is_a_new_one(
    during: During, change: dict[str, object]
) -> None:
    async def test(node: Node) -> None:
        node.pod("old", **change)
        await wait_until(lambda: node.server.asked == 2)

    during(test)


def test_however_many_pods_come_the_networks_are_asked_for_once_a_while(during: During) -> None:
    """Also where the list never has theirs."""

    async def test(node: Node) -> None:
        loop = asyncio.get_running_loop()
        began, pods = loop.time(), 0
        while loop.time() < began + 5 * SPARING or node.server.asked < 3:
            assert loop.time() < began + 30
            node.pod(f"nowhere-{pods}")
            pods += 1
            await asyncio.sleep(0.001)
        took = loop.time() - began
        assert node.server.asked <= 2 + took / SPARING < pods
        await asyncio.sleep(2 * SPARING)
        asked = node.server.asked
        await asyncio.sleep(3 * SPARING)
        assert node.server.asked == asked, "nobody came any more"

    during(test)


def test_a_question_that_failed_is_asked_again(during: During) -> None:
    async def test(node: Node) -> None:
        node.server.problem = AWAY
        node.server.there.append("new")
        node.pod("new")
        await wait_until(lambda: node.server.asked >= 2)
        node.server.problem = None
        await wait_until(lambda: node.repairs.told[-1] == ["old", "new"])

    during(test)
