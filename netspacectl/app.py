"""One call of `netspacectl`: which servers it asks, for which cluster, how it answers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import click

from netspace.problems import Problem

if TYPE_CHECKING:
    from ipam_server.client import Client

T = TypeVar("T")
Output = Literal["table", "json", "yaml"]
OUTPUTS: Final[tuple[Output, ...]] = ("table", "json", "yaml")
DEFAULT_SERVER: Final = "unix:///run/netspace/server.sock"
TIMEOUT: Final = 10.0
"""Seconds a request may take."""
Question = Callable[["Client"], Coroutine[Any, Any, T]]
ClusterQuestion = Callable[["Client", str], Coroutine[Any, Any, T]]


def connect(servers: Sequence[str], timeout: float) -> AbstractAsyncContextManager[Client]:
    """The server's client; imported here, since it is the costliest import of all."""
    from ipam_server.client import Client

    return Client(servers, timeout)


@dataclass
class App:
    """The global options; click carries it as the context's object."""

    connect: Callable[[Sequence[str], float], AbstractAsyncContextManager[Client]] = connect
    servers: tuple[str, ...] = (DEFAULT_SERVER,)
    cluster: str | None = None
    output: Output = "table"
    timeout: float = TIMEOUT

    def ask(self, question: Question[T]) -> T:
        """What the server answers; raises `Problem`."""

        async def asked() -> T:
            async with self.connect(self.servers, self.timeout) as client:
                return await question(client)

        return _run(asked())

    def ask_in_cluster(self, question: ClusterQuestion[T]) -> T:
        """The same for what lies in a cluster: the one named, or the only one there is."""

        async def asked(client: Client) -> T:
            return await question(client, await self._cluster(client))

        return self.ask(asked)

    async def _cluster(self, client: Client) -> str:
        if self.cluster is not None:
            return self.cluster
        clusters = sorted(cluster.name for cluster in await client.clusters())
        if not clusters:
            raise Problem(
                "not-found",
                "the server has no cluster",
                do="create one with 'netspacectl cluster create NAME'",
            )
        if len(clusters) > 1:
            shown = ", ".join(clusters[:5]) + (", …" if len(clusters) > 5 else "")
            raise click.UsageError(
                f"the server has {len(clusters)} clusters: name one with -c ({shown})"
            )
        return clusters[0]


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    import asyncio

    return asyncio.run(coroutine)
