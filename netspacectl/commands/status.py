"""`netspacectl status`: the server, its clusters and their leaders, the members of etcd."""

from __future__ import annotations

import click

from netspace.problems import Problem
from netspacectl.app import App
from netspacectl.output import write
from netspacectl.tree import Verb


@click.command("status", cls=Verb, examples=["netspacectl status", "netspacectl status -o json"])
@click.pass_obj
def command(app: App) -> None:
    """Show the servers, their clusters and etcd.

    Of each cluster its leader and use, of each server its role and how many revisions it is behind,
    of etcd each member.
    The exit status is 4 where the server answers but is not ready.
    """
    status = app.ask(lambda client: client.status())
    write(app.output, status)
    if not status.ready:
        raise Problem(
            "unavailable",
            f"server {status.server} is not ready",
            do="look at the clusters' leaders and the members of etcd above",
        )
