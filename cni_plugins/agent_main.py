"""The command `netspace-agent`.

Exit status: 0 all is ready, or the agent stopped as asked; 1 something on this node could not be
made, or no agent answers; 2 the configuration or the command line is wrong; 4 the server could not
be asked (what needs no server is done).
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import NoReturn

import click
import msgspec

import netspace
from cni_plugins import node_config
from cni_plugins.agent import prepare
from cni_plugins.hosts import client_of, host_on
from cni_plugins.install_main import install_command, uninstall_command
from cni_plugins.netconf import DEFAULT_NODE_CONFIG
from cni_plugins.node_config import NodeConfig
from cni_plugins.reporting import Outcome
from cni_plugins.wiring import HostWiring
from hostnet import Kernel
from netspace import logs
from netspace.problems import Problem

FAILED = 1
MISCONFIGURED = 2
SERVER_AWAY = 4


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(netspace.__version__, prog_name="netspace-agent")
def main() -> None:
    """Look after a node: its bonds, its VLANs and what its pods left behind."""


_config = click.option(
    "--config",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=DEFAULT_NODE_CONFIG,
    show_default=True,
    help="The node's configuration.",
)


@main.command("prepare")
@_config
def prepare_command(path: Path) -> None:
    """Make bonds and VLANs ready, report the node, replay pending releases.

    May be repeated at any time: what is there already stays as it is.
    """
    config = _configuration(path)
    logs.setup(config.log_level)
    try:
        outcome = asyncio.run(_prepare(config))
    except Problem as problem:
        _fail(MISCONFIGURED, str(problem))
    if outcome.failed:
        sys.exit(FAILED)
    if outcome.server_away:
        sys.exit(SERVER_AWAY)


@main.command("serve")
@_config
def serve_command(path: Path) -> None:
    """Serve the CNI executables, keep the node ready, report, until told to stop.

    Where systemd hands a socket over, that one is served.
    """
    config = _configuration(path)
    logs.setup(config.log_level)
    from cni_plugins import daemon

    try:
        asyncio.run(daemon.serve(config, path.absolute()))
    except Problem as problem:
        _fail(FAILED, str(problem))


@main.command("status")
@_config
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def status_command(path: Path, as_json: bool) -> None:
    """Show what the running agent does and did, and whether its server is ready.

    Exit status 1 where no agent runs.
    """
    from cni_plugins import agent_status

    socket = _configuration(path).agent.socket
    try:
        answer = agent_status.ask(Path(socket), "status")
    except Problem as problem:
        _fail(FAILED, f"{problem.detail}: {problem.do}")
    if as_json:
        click.echo(answer)
        return
    for line in agent_status.lines_of(msgspec.json.decode(answer, type=agent_status.AgentStatus)):
        click.echo(line)


@main.command("diagnose")
@_config
def diagnose_command(path: Path) -> None:
    """Look at kernel, bonds, VLANs, gateways, settings, server and certificate.

    Changes nothing. Every finding says what to do; exit status 1 where one is a fault.
    """
    config = _configuration(path)
    logs.setup("error")
    from cni_plugins import diagnosis
    from cni_plugins.findings import Finding, told

    async def look() -> list[Finding]:
        kernel = Kernel()
        async with client_of(config) as client:
            host = host_on(config, client, HostWiring(kernel), os.environ)
            return await diagnosis.diagnose(config, kernel, client, host)

    try:
        found = asyncio.run(look())
    except Problem as problem:
        _fail(FAILED, str(problem))
    if told(found, click.echo):
        sys.exit(FAILED)


main.add_command(install_command)
main.add_command(uninstall_command)


def _configuration(path: Path) -> NodeConfig:
    try:
        return node_config.load(path)
    except Problem as problem:
        for fault in problem.errors:
            click.echo(f"netspace-agent: {fault}", err=True)
        sys.exit(MISCONFIGURED)


def _fail(status: int, why: str) -> NoReturn:
    click.echo(f"netspace-agent: {why}", err=True)
    sys.exit(status)


async def _prepare(config: NodeConfig) -> Outcome:
    kernel = Kernel()
    async with client_of(config) as client:
        host = host_on(config, client, HostWiring(kernel), os.environ)
        return await prepare(config, kernel, client, host, click.echo)


if __name__ == "__main__":
    main()
