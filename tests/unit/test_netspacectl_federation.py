"""What `netspacectl federation` asks the federation server for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from netspace.messages.federating import FederationDetails, JoinFederation, Local
from netspacectl import app
from netspacectl.app import App
from netspacectl.commands.federation import join
from netspacectl.main import run
from tests.unit.kube_federation_world import details


class Server:
    """Is in no federation, and notes how it is asked to join one."""

    def __init__(self) -> None:
        self.asked: list[JoinFederation] = []

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def join(self, cluster: str, join: JoinFederation) -> FederationDetails:
        assert cluster == "east"
        self.asked.append(join)
        return details(founder="west")

    async def federations(self, cluster: str) -> list[FederationDetails]:
        return []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, ...]]:
    """The servers of each question, with no settings but those of the test."""
    for name in ("SERVER", "CLUSTER", "FEDERATION_SERVER"):
        monkeypatch.delenv(f"NETSPACE_{name}", raising=False)
    monkeypatch.setattr(app, "config_files", lambda: (tmp_path / "ctl.yaml",))
    return []


def listed(asked: list[tuple[str, ...]], *arguments: str) -> int:
    def connect(servers: Sequence[str], *_: object) -> Server:
        asked.append(tuple(servers))
        return Server()

    whole = ["-c", "east", *arguments]
    return run(whole, App(connect_federation=connect))  # type: ignore[arg-type]


LIST = ("federation", "list")
IPAM, FEDERATION = ("--server", "http://127.0.0.1:1"), ("--federation-server", "http://127.0.0.1:2")


@pytest.mark.parametrize("arguments", [(*IPAM, *LIST), (*LIST, *IPAM)], ids=["before", "after"])
@pytest.mark.parametrize("environment", [{}, {"NETSPACE_FEDERATION_SERVER": "http://127.0.0.1:3"}])
def test_a_server_that_federations_are_not_asked_at_is_refused(
    asked: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    environment: dict[str, str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert listed(asked, *arguments) == 2
    error = capsys.readouterr().err
    assert "--server http://127.0.0.1:1" in error and "--federation-server" in error
    assert asked == []


def test_a_server_beside_the_federations_is_for_other_commands(
    asked: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert listed(asked, *IPAM, *LIST, *FEDERATION) == 0
    monkeypatch.setenv("NETSPACE_SERVER", "http://127.0.0.1:1")
    assert listed(asked, *LIST) == 0
    monkeypatch.delenv("NETSPACE_SERVER")
    (tmp_path / "ctl.yaml").write_text("server: http://127.0.0.1:1\n")
    assert listed(asked, *LIST) == 0
    assert asked == [("http://127.0.0.1:2",), *[(app.DEFAULT_FEDERATION_SERVER,)] * 2]


@pytest.mark.parametrize(
    ("options", "name"), [([], None), (["--name", "prod"], "prod")], ids=["any", "named"]
)
def test_joining_asks_for_the_federation_that_is_named(
    options: list[str], name: str | None
) -> None:
    server = Server()
    asking = App(connect_federation=lambda *_: server)  # type: ignore[arg-type]
    asking.whom = type(asking.whom)(cluster="east")
    arguments = ["-", *options, "--range", "10.8.0.0/16"]
    result = CliRunner().invoke(join, arguments, obj=asking, input="nsf1.abcdef\n")
    assert result.exit_code == 0, result.output
    local = Local(ranges=["10.8.0.0/16"])
    assert server.asked == [JoinFederation(token="nsf1.abcdef", name=name, local=local)]
