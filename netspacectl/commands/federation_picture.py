"""`netspacectl federation picture`: the cluster's federations, drawn."""

from __future__ import annotations

import click

from netspacectl.app import App
from netspacectl.output import into_file, save
from netspacectl.tree import Verb


@click.command(
    "picture",
    cls=Verb,
    outputs=("svg",),
    examples=[
        "netspacectl federation picture --to federation.svg",
        "netspacectl federation picture --federation-server unix:///run/netspace/federation.sock"
        " --to federation.svg",
    ],
)
@into_file
@click.pass_obj
def picture(app: App, to: str | None) -> None:
    """Draw the cluster's federations as an SVG picture.

    This cluster stands on the left, the other members on the right, each with its gateways, and a
    line between them for every tunnel: what is well, uncertain or down is told by colours, by the
    way it is drawn, and by words below.
    """
    from netspacectl.federation_picture import svg

    status = app.ask_federation(lambda client, cluster: client.status(cluster))
    save(svg(status), to)
