"""The command `netspace-agent`.

Exit status: 0 all is ready, 1 something on this node could not be made, 2 the configuration or the
command line is wrong, 4 the server could not be asked (what needs no server is done).
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

import netspace
from cni_plugins import node_config
from cni_plugins.agent import Outcome, prepare
from cni_plugins.attachment import Host
from cni_plugins.netconf import DEFAULT_NODE_CONFIG
from cni_plugins.node_config import NodeConfig
from cni_plugins.records import Records
from cni_plugins.wiring import HostWiring
from hostnet import Kernel
from ipam_server.client import Client
from netspace import logs
from netspace.problems import Problem

FAILED = 1
MISCONFIGURED = 2
SERVER_AWAY = 4


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(netspace.__version__, prog_name="netspace-agent")
def main() -> None:
    """Look after a node: its bonds, its VLANs and what its pods left behind."""


@main.command("prepare")
@click.option(
    "--config",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=DEFAULT_NODE_CONFIG,
    show_default=True,
    help="The node's configuration.",
)
def prepare_command(path: Path) -> None:
    """Make bonds and VLANs ready, report the node, replay pending releases.

    May be repeated at any time: what is there already stays as it is.
    """
    try:
        config = node_config.load(path)
    except Problem as problem:
        for fault in problem.errors:
            click.echo(f"netspace-agent: {fault}", err=True)
        sys.exit(MISCONFIGURED)
    logs.setup(config.log_level)
    try:
        outcome = asyncio.run(_prepare(config))
    except Problem as problem:
        click.echo(f"netspace-agent: {problem}", err=True)
        sys.exit(MISCONFIGURED)
    if outcome.failed:
        sys.exit(FAILED)
    if outcome.server_away:
        sys.exit(SERVER_AWAY)


async def _prepare(config: NodeConfig) -> Outcome:
    kernel = Kernel()
    async with Client(
        config.server.endpoints, config.server.timeout, config.server.tls()
    ) as client:
        host = Host(
            cluster=config.cluster,
            node=config.node_name,
            records=Records(Path(config.state_dir)),
            client=client,
            wiring=HostWiring(kernel),
            environ=dict(os.environ),
        )
        return await prepare(config, kernel, client, host, click.echo)


if __name__ == "__main__":
    main()
