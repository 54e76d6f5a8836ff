"""One call of `netspacectl`: which servers it asks, for which cluster, how it answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import click

from netspace.problems import Problem

if TYPE_CHECKING:
    from federation.client import Client as FederationClient
    from ipam_server.client import Client
    from netspace.tls import Tls

T = TypeVar("T")
Output = Literal["table", "json", "yaml", "svg"]
OUTPUTS: Final[tuple[Output, ...]] = ("table", "json", "yaml")
"""What every command can answer in."""
DEFAULT_SERVER: Final = "unix:///run/netspace/server.sock"
DEFAULT_FEDERATION_SERVER: Final = "unix:///run/netspace/federation.sock"
TIMEOUT: Final = 10.0
"""Seconds a request may take."""
Question = Callable[["Client"], Coroutine[Any, Any, T]]
ClusterQuestion = Callable[["Client", str], Coroutine[Any, Any, T]]
FederationQuestion = Callable[["FederationClient", str], Coroutine[Any, Any, T]]


def connect(
    servers: Sequence[str], timeout: float, tls: Tls | None
) -> AbstractAsyncContextManager[Client]:
    """The server's client; imported here, since it is the costliest import of all."""
    from ipam_server.client import Client

    return Client(servers, timeout, tls)


def connect_federation(
    servers: Sequence[str], timeout: float, tls: Tls | None
) -> AbstractAsyncContextManager[FederationClient]:
    """The federation server's client."""
    from federation.client import Client

    return Client(servers, timeout, tls)


@dataclass(frozen=True)
class Whom:
    """Whom a call asks, and as whom; None where nobody has said it. `federation`: the servers that
    are asked about federations."""

    servers: tuple[str, ...] | None = None
    cluster: str | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    federation: tuple[str, ...] | None = None

    def over(self, other: Whom) -> Whom:
        """What is said here, and else what the other says."""
        return Whom(
            *(mine if mine is not None else its for mine, its in zip(self, other, strict=True))
        )

    def __iter__(self) -> Iterator[Any]:
        return iter((self.servers, self.cluster, self.ca, self.cert, self.key, self.federation))

    def tls(self) -> Tls | None:
        """The files together; None where none is named, `Problem` where one is missing."""
        if self.ca is not None and self.cert is not None and self.key is not None:
            from netspace.tls import Tls

            return Tls(self.ca, self.cert, self.key)
        if self.ca or self.cert or self.key:
            raise click.UsageError("--ca, --cert and --key go together: name all three, or none")
        return None


@dataclass
class App:
    """The global options; click carries it as the context's object."""

    connect: Callable[[Sequence[str], float, Tls | None], AbstractAsyncContextManager[Client]] = (
        connect
    )
    connect_federation: Callable[
        [Sequence[str], float, Tls | None], AbstractAsyncContextManager[FederationClient]
    ] = connect_federation
    whom: Whom = Whom()
    output: Output = "table"
    timeout: float = TIMEOUT
    typed: frozenset[Literal["server", "federation-server"]] = frozenset()
    """Which of these options stand on the command line itself."""

    def settle(self) -> Whom:
        """Whom to ask: the command line, the environment, then the file; raises `Problem`."""
        self.whom = self.whom.over(settings())
        return self.whom

    @property
    def cluster(self) -> str | None:
        """The cluster that somebody has named."""
        return self.settle().cluster

    def ask(self, question: Question[T]) -> T:
        """What the server answers; raises `Problem`."""

        whom = self.settle()

        async def asked() -> T:
            servers = whom.servers or (DEFAULT_SERVER,)
            async with self.connect(servers, self.timeout, whom.tls()) as client:
                return await question(client)

        return _run(asked())

    def ask_in_cluster(self, question: ClusterQuestion[T]) -> T:
        """The same for what lies in a cluster: the one named, or the only one there is."""

        async def asked(client: Client) -> T:
            return await question(client, await self._cluster(client))

        return self.ask(asked)

    def ask_federation(self, question: FederationQuestion[T]) -> T:
        """What the federation server of the cluster answers, about that cluster; raises
        `Problem`."""
        whom = self.settle()
        if "server" in self.typed and "federation-server" not in self.typed:
            raise click.UsageError(
                f"--server {' --server '.join(whom.servers or ())} names an IPAM server, which is"
                " not asked about federations: name the federation server with --federation-server"
            )

        async def asked() -> T:
            servers = whom.federation or (DEFAULT_FEDERATION_SERVER,)
            async with self.connect_federation(servers, self.timeout, whom.tls()) as client:
                cluster = whom.cluster or (await client.cluster()).name
                return await question(client, cluster)

        return _run(asked())

    async def _cluster(self, client: Client) -> str:
        if self.whom.cluster is not None:
            return self.whom.cluster
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


def settings() -> Whom:
    """What the first of the files says that there is: the user's, then the machine's."""
    for path in config_files():
        if path.exists():
            from netspacectl.settings import read

            return read(path)
    return Whom()


def config_files() -> tuple[Path, Path]:
    own = os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()
    return Path(own) / "netspace" / "ctl.yaml", Path("/etc/netspace/ctl.yaml")


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    import asyncio

    return asyncio.run(coroutine)
