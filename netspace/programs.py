"""What the commands of our programs share: their configuration, working until told to stop, and how
they end.

Exit status: 0 stopped as asked, 1 it could not listen or failed, 2 the configuration or the command
line is wrong.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click

from netspace.problems import Problem

FAILED: Final = 1
MISCONFIGURED: Final = 2

C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

CHECK: Final = click.option("--check", is_flag=True, help="Check the configuration and end.")


def configured(default: Path | str, told: str = "Configuration file.") -> Callable[[F], F]:
    """The option `--config`, whose value the command gets as `path`."""
    return click.option(
        "--config",
        "path",
        type=click.Path(dir_okay=False, path_type=Path),
        default=default,
        show_default=True,
        help=told,
    )


def configuration(program: str, load: Callable[[], C]) -> C:
    """What `load` reads. The program ends where that is wrong, with a line for every fault."""
    try:
        return load()
    except Problem as problem:
        for fault in problem.errors or (str(problem),):
            click.echo(f"{program}: {fault}", err=True)
        sys.exit(MISCONFIGURED)


def done(
    program: str,
    work: Callable[[], Coroutine[Any, Any, T]],
    *failures: type[Exception],
    status: int = FAILED,
) -> T:
    """The result of the work. The program ends where it raises `Problem` or one of the failures."""
    try:
        return asyncio.run(work())
    except Exception as error:
        if isinstance(error, (Problem, *failures)):
            fail(program, str(error), status)
        raise


def fail(program: str, why: str, status: int = FAILED) -> NoReturn:
    """Ends the program with one line."""
    click.echo(f"{program}: {why}", err=True)
    sys.exit(status)


def told_to_stop() -> asyncio.Event:
    """Is set by SIGTERM and SIGINT, in the running event loop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def until(
    stop: asyncio.Event,
    stopping: Callable[[], object],
    **work: Coroutine[Any, Any, None],
) -> None:
    """Works, each coroutine as a task of its name, until `stop` is set or one of them ends;
    then tells `stopping` and ends the others. Raises what the first one to end raised."""
    tasks = [asyncio.create_task(each, name=name) for name, each in work.items()]
    tasks.append(asyncio.create_task(_wait(stop), name="stop"))
    finished, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    stopping()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in finished:
        task.result()


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()
