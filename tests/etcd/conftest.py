"""etcd and server processes for these tests: one etcd shared by those that leave it alone."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.etcd import Etcd, members, quick_folder
from lab.server import CALM, Server

# A member alone has nobody to wait for: it leads within a fraction of a second.
ALONE = ("--heartbeat-interval=10", "--election-timeout=100")


@pytest.fixture(scope="session")
def shared_etcd() -> Iterator[Etcd]:
    """An etcd for tests that neither stop nor compact nor fill it."""
    with quick_folder() as folder, Etcd(folder, arguments=ALONE) as etcd:
        yield etcd


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> bytes:
    """A prefix of the test's own in the shared etcd."""
    return f"/{request.node.name}/".encode()


@pytest.fixture
def etcd() -> Iterator[Etcd]:
    """An etcd of the test's own."""
    with quick_folder() as folder, Etcd(folder, arguments=ALONE) as etcd:
        yield etcd


@pytest.fixture
def make_etcd(tmp_path: Path) -> Iterator[Callable[[Etcd], Etcd]]:
    """Start an etcd that is described by the test; it is ended with the test."""
    made: list[Etcd] = []

    def make(etcd: Etcd) -> Etcd:
        made.append(etcd)
        etcd.start()
        return etcd

    yield make
    for etcd in made:
        etcd.kill()


@pytest.fixture
def three_members() -> Iterator[list[Etcd]]:
    """A cluster of three, ready; one may be lost."""
    with quick_folder() as folder:
        cluster = members(folder)
        try:
            for member in cluster:
                member.start(wait=False)
            for member in cluster:
                member.wait_ready()
            yield cluster
        finally:
            for member in cluster:
                member.kill()


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Describe a calm server on the etcd at a URL; it is ended with the test."""
    made: list[Server] = []

    def make(url: str, **settings: Any) -> Server:
        folder = tmp_path / f"server-{len(made)}"
        folder.mkdir()
        made.append(Server(folder, url, **{**CALM, **settings}))
        return made[-1]

    yield make
    for server in made:
        if server.running:
            server.end(signal.SIGKILL)
