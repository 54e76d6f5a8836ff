"""Input that must be refused, sent to the real thing: each case is refused with its reason, in one
line, and neither etcd nor the node's records change by it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from cni_plugins import node_config
from ipam_server.config import ServerConfig
from lab import programs
from lab.etcd import Etcd
from lab.server import Server, until
from netspace import config
from netspace.problems import KINDS, Problem
from netspacectl.address_plan import declared
from tests.hostile import Case, cases, good, repeated

EXECUTABLES: Final = {"netspace": "macvlan_main", "netspace-ipam": "ipam_main"}
LONGEST: Final = 1000
"""Characters of a reason: nobody reads more, and it is no echo of what was sent."""
SEED: Final = (
    ("POST", "/v1/clusters", {"name": "east"}),
    (
        "POST",
        "/v1/clusters/east/networks",
        {"name": "blue", "ipv4": "10.9.0.0/24", "ipv6": "fd00:9::/64", "gateway4": "10.9.0.1"},
    ),
    (
        "POST",
        "/v1/clusters/east/pools",
        {"name": "all", "kind": "default", "network": "blue", "size": "32", "cooldown": 0},
    ),
)


class World:
    """A server over an etcd of its own, and a node that asks it."""

    def __init__(self, folder: Path, etcd: Etcd) -> None:
        self.etcd = etcd
        self.state = folder / "state"
        self.state.mkdir()
        self.node_config = folder / "node.yaml"
        (folder / "server").mkdir()
        self.server = Server(
            folder / "server",
            etcd.url,
            limits={"commit": 1.5, "body": 65536},
            clock_interval=3600,
            leader_ttl=60,
        )
        self.node_config.write_text(
            json.dumps(
                {
                    "cluster": "east",
                    "node": "node-1",
                    "server": {"endpoints": [self.server.url]},
                    "state_dir": str(self.state),
                }
            )
        )

    def start(self) -> None:
        self.server.start()
        until(lambda: self.server.said("ready"), "the server is ready")
        for method, path, body in SEED:
            case = Case("seed", json.dumps(body).encode(), "", "", {"line": f"{method} {path}"})
            status, answer = self.ask(case)
            assert status == 201, answer

    def ask(self, case: Case) -> tuple[int, bytes]:
        """Status and body of the answer to a request that is written byte by byte."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(10)
            connection.connect(str(self.server.socket))
            # Where the answer comes before all is sent, the rest is not taken.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(_request(case))
            method = case.more.get("line", "GET").split(" ")[0]
            answer = http.client.HTTPResponse(connection, method=method)
            answer.begin()
            return answer.status, answer.read()

    def run(self, case: Case) -> subprocess.CompletedProcess[bytes]:
        """One call of a CNI executable."""
        assert case.data is not None
        module = EXECUTABLES[case.more.get("plugin", "netspace-ipam")]
        env = {key: repeated(value) for key, value in case.more["env"].items()}
        return subprocess.run(
            [sys.executable, "-m", f"cni_plugins.{module}"],
            input=case.data.replace(b"NODE_CONFIG", str(self.node_config).encode()),
            env={"PYTHONPATH": str(programs.CLONE), **env},
            capture_output=True,
            timeout=30,
            check=False,
        )

    def everything(self) -> tuple[Any, list[tuple[Path, bytes]]]:
        """All keys of etcd with values and revisions, and all files of the node but its locks'."""
        whole = {"key": "AA==", "range_end": "AA=="}
        files = sorted(
            path for path in self.state.rglob("*") if path.is_file() and path.name != "lock"
        )
        keys = self.etcd.request("kv/range", whole).get("kvs", [])
        return keys, [(path, path.read_bytes()) for path in files]

    @property
    def log(self) -> str:
        return (self.server.folder / "log").read_text()


def _request(case: Case) -> bytes:
    if "raw" in case.more:
        return repeated(case.more["raw"]).encode("latin-1")
    fields = {"Host": "localhost", "Connection": "close"}
    if case.data is not None:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(case.data))}
    fields |= case.more.get("headers", {})
    lines = [f"{repeated(case.more['line'])} HTTP/1.1"]
    lines += [f"{key}: {repeated(value)}" for key, value in fields.items() if value is not None]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (case.data or b"")


@contextlib.contextmanager
def served(folder: Path, etcd: Etcd) -> Iterator[World]:
    world = World(folder, etcd)
    try:
        world.start()
        yield world
        assert "Traceback" not in world.log
        assert not world.server.said("a request failed unexpectedly")
        assert world.server.running
    finally:
        if world.server.process is not None:
            world.server.process.kill()
            world.server.process.wait()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("hostile")
    with Etcd(folder / "etcd") as etcd, served(folder, etcd) as world:
        yield world


def readable(reason: str) -> bool:
    """Whether it is one line that a person reads to its end."""
    return reason.isprintable() and 0 < len(reason) <= LONGEST


@pytest.mark.parametrize("case", cases("http"), ids=str)
def test_a_request_is_refused(world: World, case: Case) -> None:
    before = world.everything()
    status, body = world.ask(case)
    problem = json.loads(body)
    reason = f"{problem['detail']}: {problem.get('do', '')}"
    assert (problem["code"], status) == (case.code, KINDS[str(case.code)].status), problem
    assert case.why in reason
    assert readable(reason)
    assert world.everything() == before


@pytest.mark.parametrize("case", cases("cni"), ids=str)
def test_a_call_of_a_plugin_is_refused(world: World, case: Case) -> None:
    before = world.everything()
    done = world.run(case)
    error = json.loads(done.stdout)
    reason = f"{error['msg']}: {error.get('details', '')}"
    assert (done.returncode, error["code"]) == (1, case.code), error
    assert case.why in reason
    assert readable(reason)
    assert b"Traceback" not in done.stderr
    assert world.everything() == before


def load(section: str, path: Path) -> object:
    match section:
        case "server.yaml":
            return config.load(path, ServerConfig)
        case "node.yaml":
            return node_config.load(path)
    return declared.read([declared.Source(path.name, path.read_bytes())])


FILES: Final = [
    (section, case)
    for section in ("server.yaml", "node.yaml", "plan.yaml")
    for case in cases(section)
]


@pytest.mark.parametrize(("section", "case"), FILES, ids=str)
def test_a_file_is_refused(tmp_path: Path, section: str, case: Case) -> None:
    path = tmp_path / section
    assert case.data is not None
    path.write_bytes(case.data)
    with pytest.raises(Problem) as caught:
        load(section, path)
    problem = caught.value
    assert problem.code == case.code
    assert any(case.why in fault for fault in problem.errors), problem.errors
    for fault in problem.errors:
        assert fault.startswith(section)
        assert readable(fault)


@pytest.mark.parametrize(
    ("section", "case"),
    [(name, case) for name in ("server.yaml", "node.yaml", "plan.yaml") for case in good(name)],
    ids=str,
)
def test_the_file_that_the_bad_ones_differ_from_is_taken(
    tmp_path: Path, section: str, case: Case
) -> None:
    assert case.data is not None
    (tmp_path / section).write_bytes(case.data)
    assert load(section, tmp_path / section) is not None


def test_what_the_bad_requests_and_calls_differ_from_is_taken(tmp_path: Path, etcd: Etcd) -> None:
    with served(tmp_path, etcd) as world:
        for case in good("http"):
            status, body = world.ask(case)
            assert status < 300, f"{case}: {body.decode()}"
        for case in good("cni"):
            done = world.run(case)
            assert done.returncode == 0, done.stdout
