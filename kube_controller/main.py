"""The command `netspace-controller`.

Exit status: 0 stopped as asked, 1 it could not listen or failed, 2 the configuration or the command
line is wrong.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

import netspace
from kube_controller.config import DEFAULT_PATH, ControllerConfig
from netspace import logs, programs
from netspace.config import load

PROGRAM = "netspace-controller"

_configured = programs.configured(DEFAULT_PATH)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(netspace.__version__, prog_name=PROGRAM)
def main() -> None:
    """Bring what a cluster's Kubernetes declares to the address server."""


@main.command("serve")
@_configured
@programs.CHECK
def serve_command(path: Path, check: bool) -> None:
    """Work whenever this controller leads, until told to stop."""
    config = _configuration(path)
    if check:
        click.echo(f"{path}: correct")
        return
    logs.setup(config.log_level)
    programs.done(PROGRAM, lambda: _serve(config))


@main.command("webhook")
@_configured
def webhook_command(path: Path) -> None:
    """Check annotations for Kubernetes' API before it takes them, until told to stop."""
    config = _configuration(path)
    logs.setup(config.log_level)
    programs.done(PROGRAM, lambda: _webhook(config))


def _configuration(path: Path) -> ControllerConfig:
    return programs.configuration(PROGRAM, lambda: load(path, ControllerConfig))


async def _webhook(config: ControllerConfig) -> None:
    from kube_controller.webhook_serving import run

    await run(config, programs.told_to_stop())


async def _serve(config: ControllerConfig) -> None:
    # Imported where it is needed: --help and --check do without.
    from kube_controller.process import run

    await run(config, os.environ, programs.told_to_stop())


if __name__ == "__main__":
    main()
