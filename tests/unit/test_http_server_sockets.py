"""The server's sockets: who may connect, and what is done about a file that is there already."""

from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path

import pytest

from netspace.endpoints import Endpoint
from netspace.http_application import application
from netspace.http_server import HttpServer, Limits, bind_unix
from netspace.http_work import Application
from netspace.problems import Problem


def nothing() -> Application:
    return application((), None, {}, Limits(), lambda method, route, status, seconds, code: None)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_mode_stands_before_anyone_can_connect(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "s"
    with (
        bind_unix(path, mode),
        socket.socket(socket.AF_UNIX) as caller,
        pytest.raises(ConnectionRefusedError),
    ):
        assert mode_of(path) == mode
        caller.connect(str(path))


def test_a_file_left_by_an_ended_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind_unix(path, 0o600).close()
    assert path.exists()
    bind_unix(path, 0o640).close()
    assert mode_of(path) == 0o640


def test_a_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bind_unix(path, 0o600) as first:
        first.listen()
        with pytest.raises(OSError, match="another server"):
            bind_unix(path, 0o600)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(OSError, match="no socket"):
        bind_unix(path, 0o600)
    assert path.read_text() == "mine"


def test_a_socket_is_removed_at_the_end_unless_it_is_anothers_by_now(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "s"
        endpoint = Endpoint.parse(f"unix://{path}")
        first = HttpServer(nothing(), Limits())
        await first.listen(endpoint)
        path.unlink()
        second = HttpServer(nothing(), Limits())
        await second.listen(endpoint)
        await first.stop()
        assert path.exists()
        await second.stop()
        assert not path.exists()

    asyncio.run(run())


def test_what_cannot_be_listened_on_is_a_problem_with_the_reason(tmp_path: Path) -> None:
    async def run() -> None:
        server = HttpServer(nothing(), Limits())
        for path, why in (
            (tmp_path / "none" / "s", "No such file or directory"),
            (tmp_path / ("x" * 120), "too long"),
        ):
            with pytest.raises(Problem, match=why):
                await server.listen(Endpoint.parse(f"unix://{path}"))
        await server.stop()

    asyncio.run(run())
