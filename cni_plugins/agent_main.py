"""The command `netspace-agent`.

Exit status: 0 all is ready, or the agent stopped as asked; 1 something on this node could not be
made, or no agent answers; 2 the configuration or the command line is wrong; 4 the server could not
be asked (what needs no server is done).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

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
from netspace import logs, programs
from netspace.problems import Problem

PROGRAM = "netspace-agent"
SERVER_AWAY = 4


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(netspace.__version__, prog_name=PROGRAM)
def main() -> None:
    """Look after a node: its bonds, its VLANs and what its pods left behind."""


_config = programs.configured(DEFAULT_NODE_CONFIG, "The node's configuration.")


@main.command("prepare")
@_config
def prepare_command(path: Path) -> None:
    """Make bonds and VLANs ready, report the node, replay pending releases.

    May be repeated at any time: what is there already stays as it is.
    """
    config = _configuration(path)
    logs.setup(config.log_level)
    outcome = programs.done(PROGRAM, lambda: _prepare(config), status=programs.MISCONFIGURED)
    if outcome.failed:
        sys.exit(programs.FAILED)
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
        daemon.run(config, path.absolute())
    except Problem as problem:
        programs.fail(PROGRAM, str(problem))


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
        programs.fail(PROGRAM, f"{problem.detail}: {problem.do}")
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

    if told(programs.done(PROGRAM, look), click.echo):
        sys.exit(programs.FAILED)


main.add_command(install_command)
main.add_command(uninstall_command)


def _configuration(path: Path) -> NodeConfig:
    return programs.configuration(PROGRAM, lambda: node_config.load(path))


async def _prepare(config: NodeConfig) -> Outcome:
    kernel = Kernel()
    async with client_of(config) as client:
        host = host_on(config, client, HostWiring(kernel), os.environ)
        return await prepare(config, kernel, client, host, click.echo)


if __name__ == "__main__":
    main()
