"""The command `netspace-controller`.

Exit status: 0 stopped as asked, 1 it could not listen or failed, 2 the configuration or the command
line is wrong.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import click

import netspace
from kube_controller.config import DEFAULT_PATH, ControllerConfig
from netspace import logs
from netspace.config import load
from netspace.problems import Problem

log = logging.getLogger(__name__)

FAILED = 1
MISCONFIGURED = 2


_configured = click.option(
    "--config",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=DEFAULT_PATH,
    show_default=True,
    help="Configuration file.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(netspace.__version__, prog_name="netspace-controller")
def main() -> None:
    """Bring what a cluster's Kubernetes declares to the address server."""


@main.command("serve")
@_configured
@click.option("--check", is_flag=True, help="Check the configuration and end.")
def serve_command(path: Path, check: bool) -> None:
    """Work whenever this controller leads, until told to stop."""
    config = _configuration(path)
    if check:
        click.echo(f"{path}: correct")
        return
    logs.setup(config.log_level)
    try:
        asyncio.run(_serve(config))
    except Problem as problem:
        click.echo(f"netspace-controller: {problem}", err=True)
        sys.exit(FAILED)


@main.command("webhook")
@_configured
def webhook_command(path: Path) -> None:
    """Check annotations for Kubernetes' API before it takes them, until told to stop."""
    config = _configuration(path)
    logs.setup(config.log_level)
    try:
        asyncio.run(_webhook(config))
    except Problem as problem:
        click.echo(f"netspace-controller: {problem}", err=True)
        sys.exit(FAILED)


def _configuration(path: Path) -> ControllerConfig:
    try:
        return load(path, ControllerConfig)
    except Problem as problem:
        for fault in problem.errors:
            click.echo(f"netspace-controller: {fault}", err=True)
        sys.exit(MISCONFIGURED)


async def _webhook(config: ControllerConfig) -> None:
    from kube_controller.webhook_serving import run

    await run(config, _told_to_stop())


def _told_to_stop() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _serve(config: ControllerConfig) -> None:
    # Imported where it is needed: --help and --check do without.
    from kube_controller.process import run

    await run(config, os.environ, _told_to_stop())


if __name__ == "__main__":
    main()
