"""Federation server processes for tests, benches and the demo."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from federation.client import Client
from lab.server import Server
from netspace.problems import Problem

T = TypeVar("T")

HASTY: dict[str, Any] = {"leader_ttl": 2, "times": {"pause": 0.05, "backoff": 0.5}}
"""Settings of a server that falls silent for two seconds at most."""


class FederationServer(Server):
    """A server of `cluster` over the etcd at `url`: nodes and people on a Unix socket in its
    folder, other clusters on a free port of loopback. It keeps its keys in its folder. `door` is
    where other clusters reach it."""

    module = "federation.main"
    words = ("serve",)

    def __init__(self, folder: Path, url: str, cluster: str, **settings: Any) -> None:
        self.cluster = cluster
        self.door = f"https://127.0.0.1:{_free_port()}"
        super().__init__(
            folder,
            url,
            **{
                "cluster": cluster,
                "federation": {"listen": [self.door]},
                "state_dir": str(folder / "state"),
                **settings,
            },
        )

    def ask(self, question: Callable[[Client], Awaitable[T]], seconds: float = 10.0) -> T:
        """What it answers, within so many seconds; raises `Problem`."""

        async def asked() -> T:
            async with Client([self.url], seconds) as client:
                return await question(client)

        return asyncio.run(asked())

    def ready(self, seconds: float = 10.0) -> bool:
        """Whether it says within so many seconds that it can serve."""
        try:
            self.ask(lambda client: client.ready(), seconds)
        except Problem:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
