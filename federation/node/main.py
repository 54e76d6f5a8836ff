"""`netspace-federation agent`: the node's agent, and what it is asked.

Exit status: 0 stopped as asked, or all is well; 1 it could not listen or failed, no agent answers,
something is wrong or a hop fails; 2 the configuration or the command line is wrong.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import msgspec

from federation.node.config import DEFAULT_PATH, FederationAgentConfig
from netspace import logs, programs
from netspace.config import load
from netspace.http_client import HttpClient
from netspace.messages.federation import FoundFault
from netspace.messages.federation_node import (
    Diagnosis,
    FederationAgentStatus,
    Verification,
    VerifyPath,
)
from netspace.problems import Problem

PROGRAM = "netspace-federation"
ANSWER_TIME = 30.0


@click.group("agent", invoke_without_command=True)
@programs.configured(DEFAULT_PATH)
@programs.CHECK
@click.pass_context
def command(context: click.Context, path: Path, check: bool) -> None:
    """Keep this node's tunnels, routes and rules as its federations want them, until told to stop.

    Stopping leaves them as they are: `leave` takes them away.
    """
    config = _configuration(path)
    context.obj = config
    if check:
        click.echo(f"{path}: correct")
        context.exit()
    if context.invoked_subcommand is not None:
        logs.setup("error")
        return
    logs.setup(config.log_level)
    programs.done(PROGRAM, lambda: _serve(config))


@command.command("status")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def status_command(config: FederationAgentConfig, as_json: bool) -> None:
    """Show this node's federations, paths and findings."""
    answer = _asked(config, "GET", "/v1/status")
    if as_json:
        click.echo(answer)
        return
    status = msgspec.json.decode(answer, type=FederationAgentStatus)
    from federation.node.telling import lines_of

    for line in lines_of(status):
        click.echo(line)


@command.command("diagnose")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def diagnose_command(config: FederationAgentConfig, as_json: bool) -> None:
    """Say what is wrong and what to do. Exit status 1 where something is a fault."""
    answer = _asked(config, "GET", "/v1/diagnosis")
    found = msgspec.json.decode(answer, type=Diagnosis).findings
    if as_json:
        click.echo(answer)
    else:
        for each in found:
            click.echo(_line(each))
        if not found:
            click.echo("nothing is wrong")
    if any(each.verdict == "fault" for each in found):
        sys.exit(programs.FAILED)


@command.command("verify")
@click.argument("federation")
@click.argument("cluster")
@click.argument("node", required=False)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def verify_command(
    config: FederationAgentConfig, federation: str, cluster: str, node: str | None, as_json: bool
) -> None:
    """Send real traffic over the paths to a cluster, or to one node of it, and name the hop that
    fails. Exit status 1 where one does."""
    body = msgspec.json.encode(VerifyPath(federation=federation, cluster=cluster, node=node))
    answer = _asked(config, "POST", "/v1/verification", body)
    found = msgspec.json.decode(answer, type=Verification)
    if as_json:
        click.echo(answer)
    else:
        for path in found.paths:
            click.echo(f"{path.node}: {f'FAILS at {path.fails}' if path.fails else 'ok'}")
            for hop in path.hops:
                do = f" -> {hop.do}" if hop.do else ""
                click.echo(f"  {'ok' if hop.ok else 'FAIL':5}{hop.name}: {hop.found}{do}")
    if any(path.fails for path in found.paths):
        sys.exit(programs.FAILED)


@command.command("leave")
@click.option(
    "--timeout", type=click.FloatRange(1, 600), default=60.0, show_default=True, help="Seconds."
)
@click.pass_obj
def leave_command(config: FederationAgentConfig, timeout: float) -> None:
    """Take all that is of federations off this node. The agent must have been stopped."""
    from federation.node.process import leave

    left = programs.done(PROGRAM, lambda: leave(config, os.environ, timeout))
    for line in left:
        click.echo(f"{PROGRAM}: {line}", err=True)
    if left:
        sys.exit(programs.FAILED)


def _line(each: FoundFault) -> str:
    return f"{each.verdict.upper():8}{each.subject}: {each.found} -> {each.do}"


def _asked(config: FederationAgentConfig, method: str, target: str, body: bytes = b"") -> bytes:
    async def ask() -> bytes:
        client = HttpClient([f"unix://{config.socket}"], ANSWER_TIME)
        try:
            return await client.request(method, target, body, repeat=True)
        except Problem as problem:
            if problem.code != "unavailable":
                raise
            why = f"no agent answers at {config.socket}"
            raise Problem("unavailable", why, do="start it, and ask as root") from None
        finally:
            await client.close()

    return programs.done(PROGRAM, ask)


async def _serve(config: FederationAgentConfig) -> None:
    # Imported where it is needed: --help, --check and questions do without.
    from federation.node.process import run

    await run(config, os.environ, programs.told_to_stop())


def _configuration(path: Path) -> FederationAgentConfig:
    return programs.configuration(PROGRAM, lambda: load(path, FederationAgentConfig))
