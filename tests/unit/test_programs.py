"""How our programs begin, are told to stop, and end."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from netspace import programs
from netspace.problems import Problem


@click.command()
@programs.configured("/etc/a.yaml")
@programs.CHECK
def command(path: Path, check: bool) -> None:
    click.echo(f"{path} {check}")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [([], "/etc/a.yaml False"), (["--check", "--config", "b.yaml"], "b.yaml True")],
)
def test_a_program_is_told_where_its_configuration_is(arguments: list[str], told: str) -> None:
    assert CliRunner().invoke(command, arguments).output == f"{told}\n"


@pytest.mark.parametrize("faults", [("a: port is 0", "a: no node"), ("a: no node",), ()])
def test_every_fault_of_a_configuration_is_a_line_and_the_status_is_2(
    faults: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    def load() -> None:
        raise Problem("invalid", "a is wrong", do="correct it", errors=faults)

    with pytest.raises(SystemExit) as ended:
        programs.configuration("netspace-x", load)
    assert ended.value.code == 2
    wanted = faults or ("a is wrong: correct it",)
    assert capsys.readouterr().err.splitlines() == [f"netspace-x: {fault}" for fault in wanted]


async def _raise(error: Exception) -> int:
    raise error


@pytest.mark.parametrize("error", [Problem("unavailable", "no server answers"), KeyError("it")])
def test_what_is_expected_to_fail_is_one_line_and_the_status_is_1(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        programs.done("netspace-x", lambda: _raise(error), KeyError)
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"netspace-x: {error}\n"


def test_what_nobody_expected_is_raised() -> None:
    with pytest.raises(ValueError, match="odd"):
        programs.done("netspace-x", lambda: _raise(ValueError("odd")))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_work(number: signal.Signals) -> None:
    said: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            said.append("ended")

    async def run() -> None:
        stop = programs.told_to_stop()
        asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), number)
        await programs.until(stop, lambda: said.append("stopping"), work=work())

    asyncio.run(run())
    assert said == ["stopping", "ended"]


def test_work_that_fails_ends_the_other_and_is_raised() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async def fails() -> None:
        raise Problem("in-use", "the port is taken")

    async def run() -> None:
        await programs.until(asyncio.Event(), lambda: None, work=work(), fails=fails())

    with pytest.raises(Problem, match="the port is taken"):
        asyncio.run(run())
    assert ended.is_set()
