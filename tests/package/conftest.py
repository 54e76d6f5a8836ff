"""The packages, built once, and systems without Python with them."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import debian, package
from lab.etcd import Etcd
from lab.package import Built
from tests.package.system import System, until

NETWORK = ("net", "--parent", "up0", "--ipv4", "10.7.0.0/24", "--ipv6", "fd00:7::/64")


@pytest.fixture(scope="session")
def built() -> Built:
    """The packages of the sources as they are."""
    return package.build()


@pytest.fixture(scope="session")
def make_system() -> Iterator[Callable[[], System]]:
    """A clean system; it goes with the session."""
    # Of a short name: its sockets' paths have 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="netspace-", ignore_cleanup_errors=True) as name:
        count = iter(range(100))

        def make() -> System:
            root = Path(name) / str(next(count))
            debian.copy(root)
            return System(root)

        yield make


@pytest.fixture(scope="session")
def installed(built: Built, make_system: Callable[[], System]) -> System:
    """A system with the package, for tests that leave it installed."""
    system = make_system()
    system.install(built.deb)
    return system


@pytest.fixture(scope="session")
def served(installed: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """That system, with its server running over an etcd from outside, and a cluster `prod` of one
    network on `up0`."""
    folder = tmp_path_factory.mktemp("server")
    with Etcd(folder / "etcd") as etcd:
        installed.write(
            "etc/netspace/server.yaml", {"name": "s1", "etcd": {"endpoints": [etcd.url]}}
        )
        (installed.root / "run/netspace").mkdir(exist_ok=True)
        server = installed.start("netspace-server", log=folder / "log")
        try:
            socket = installed.root / "run/netspace/server.sock"
            until(lambda: socket.exists() or server.poll() is not None, "the server listens")
            assert server.poll() is None, (folder / "log").read_text()
            for words in (
                ("cluster", "create", "prod"),
                ("network", "create", *NETWORK),
                ("pool", "create", "default", "--kind", "default", "--network", "net", "--size=8"),
            ):
                installed.run("netspacectl", *words)
            yield installed
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 0, (folder / "log").read_text()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of a short name."""
    path = Path(tempfile.mkdtemp(prefix="netspace-"))
    yield path
    shutil.rmtree(path)
