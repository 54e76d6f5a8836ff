"""Clusters with federation servers of their own, over one etcd, joined or not."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from federation.client import Client
from lab.federation_server import HASTY, FederationServer
from lab.server import until
from netspace.messages.federating import (
    FederationsStatus,
    FederationStatus,
    JoinFederation,
    Local,
    NewFederation,
    PeerStatus,
)
from netspace.messages.federation import FederatedNode, FederationView, NodeWord, PathWord, Peer

T = TypeVar("T")
NAME = "prod"


class Cluster:
    """A cluster whose servers are `servers`, the first of them asked, in one federation."""

    def __init__(self, name: str, servers: list[FederationServer], federation: str = NAME) -> None:
        self.name = name
        self.servers = servers
        self.federation = federation

    @property
    def folder(self) -> Path:
        """Where the first server has its keys of the federation."""
        return self.servers[0].folder / "state" / self.federation

    def cleared(self) -> None:
        """In no federation, and no node has spoken."""

        async def clear(client: Client) -> None:
            for each in await client.federations(self.name):
                end = client.delete if each.founded else client.leave
                await end(self.name, each.name, force=True)
            for node in (await client.status(self.name)).nodes:
                await client.forget_node(self.name, node.node)

        self.ask(clear)

    def ask(self, question: Callable[[Client], Awaitable[T]], at: int = 0) -> T:
        """What a server of it answers; raises `Problem`."""
        return self.servers[at].ask(question)

    def found(self, *ranges: str) -> None:
        new = NewFederation(name=self.federation, local=Local(ranges=list(ranges)))
        self.ask(lambda client: client.found(self.name, new))

    def token(self, lifetime: float = 60) -> str:
        return self.ask(lambda client: client.token(self.name, self.federation, lifetime)).token

    def join(self, token: str, *ranges: str, name: str | None = None) -> None:
        wanted = JoinFederation(token=token, name=name, local=Local(ranges=list(ranges)))
        self.ask(lambda client: client.join(self.name, wanted))

    def say(self, node: str, address: str, paths: Sequence[PathWord] = (), at: int = 0) -> None:
        word = NodeWord(
            node=FederatedNode(name=node, addresses=[address], capabilities=["ipsec"]),
            paths=list(paths),
        )
        self.ask(lambda client: client.say(self.name, word), at)

    def number(self, at: int = 0) -> int:
        return self.ask(lambda client: client.view(self.name), at).number

    def view(self, at: int = 0) -> FederationView:
        """Its federation as its nodes are told."""
        found = self.ask(lambda client: client.view(self.name), at).federations
        return next(each for each in found if each.federation.name == self.federation)

    def peer(self, name: str, at: int = 0) -> Peer | None:
        return next((each for each in self.view(at).peers if each.cluster == name), None)

    def nodes_of(self, name: str, at: int = 0) -> list[str]:
        """The nodes of another member that its own nodes know."""
        peer = self.peer(name, at)
        return [] if peer is None or peer.info is None else [n.name for n in peer.info.nodes]

    def available(self, name: str) -> list[str]:
        peer = self.peer(name)
        return [] if peer is None else peer.available

    def status(self, at: int = 0) -> FederationsStatus:
        return self.ask(lambda client: client.status(self.name), at)

    def sees(self, name: str) -> PeerStatus:
        """Another member in its status."""
        return next(peer for peer in self.stands().peers if peer.cluster == name)

    def stands(self) -> FederationStatus:
        """Its federation in its status."""
        return next(each for each in self.status().federations if each.name == self.federation)


class World:
    """Makes clusters; `end` kills what still runs."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url
        self._made: list[FederationServer] = []

    def cluster(self, name: str, servers: int = 1, **settings: Any) -> Cluster:
        """A cluster whose servers are ready. Its CNI is its own unless it is given."""
        [cluster] = self.clusters(name, servers=servers, **settings)
        return cluster

    def clusters(self, *names: str, servers: int = 1, **settings: Any) -> list[Cluster]:
        """Several alike, started together."""
        made = [Cluster(name, self._servers(name, servers, settings)) for name in names]
        for cluster in made:
            for server in cluster.servers:
                server.wait_until(partial(server.said, "ready"), "ready")
        return made

    def _servers(self, name: str, servers: int, settings: dict[str, Any]) -> list[FederationServer]:
        given = {"cni": f"cni-{name}", **HASTY, **settings}
        given["times"] = HASTY["times"] | settings.get("times", {})
        made: list[FederationServer] = []
        for number in range(servers):
            folder = self._folder / f"{name}-{number}"
            folder.mkdir()
            given["name"] = f"{name}-{number}"
            made.append(FederationServer(folder, self._url, name, **given))
        if servers > 1:
            doors = {"endpoints": [server.door for server in made]}
            made = [self._told(server, doors, given, i) for i, server in enumerate(made)]
        for server in made:
            self._made.append(server.start())
        return made

    def _told(
        self, server: FederationServer, doors: dict[str, Any], given: dict[str, Any], number: int
    ) -> FederationServer:
        """The same server once more, knowing where other clusters reach all of them."""
        given = {**given, "name": f"{server.cluster}-{number}"}
        given["federation"] = {"listen": [server.door], **doors}
        again = FederationServer(server.folder, self._url, server.cluster, **given)
        again.door = server.door
        return again

    def end(self) -> None:
        for server in self._made:
            if server.running:
                server.end(signal.SIGKILL)


def pair(one: Cluster, other: Cluster) -> tuple[Cluster, Cluster]:
    """The two in a federation that the first has founded, talking to one another."""
    one.found("10.1.0.0/16")
    other.join(one.token(), "10.2.0.0/16")
    until(lambda: one.peer(other.name) and one.sees(other.name).version, "the founder knows it")
    until(lambda: other.sees(one.name).version, "it knows the founder")
    return one, other


__all__ = ["NAME", "Cluster", "World", "pair", "until"]
