"""`netspacectl change`: what people and controllers have changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from netspacectl.app import App
from netspacectl.output import listing
from netspacectl.tree import Noun
from netspacectl.views import CHANGES

if TYPE_CHECKING:
    from ipam_server.client import Client

command = Noun("change", help="Changes that somebody asked for: who, what, before, after.")
PAGE = 500
"""Changes in one question to the server."""


@command.command(
    "list",
    examples=["netspacectl change list", "netspacectl change list --clusters -o json"],
)
@click.option("--clusters", is_flag=True, help="Clusters and fabrics made and deleted instead.")
@click.pass_obj
def list_(app: App, clusters: bool) -> None:
    """List the changes of networks, pools and addresses, oldest first.

    The servers remember as many as their configuration says. The time is what a clock on the wall
    said; the order is that of the revisions.
    """
    lines = listing(app.output, CHANGES)

    async def pages(client: Client, cluster: str | None) -> None:
        after: str | None = None
        while True:
            page = await client.audit(cluster, limit=PAGE, after=after)
            lines.add(page.items)
            after = page.next
            if after is None:
                return

    if clusters:
        app.ask(lambda client: pages(client, None))
    else:
        app.ask_in_cluster(pages)
    lines.close()
