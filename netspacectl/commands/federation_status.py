"""`netspacectl federation status`: how a cluster's federations are."""

from __future__ import annotations

import click

from netspace.problems import Problem
from netspacectl import exits
from netspacectl.app import App
from netspacectl.output import dump
from netspacectl.text import aligned, printable
from netspacectl.tree import Verb
from netspacectl.words import FEDERATION


@click.command(
    "status",
    cls=Verb,
    examples=[
        "netspacectl federation status",
        "netspacectl federation status prod --paths",
        "netspacectl federation status -o json",
    ],
)
@click.argument("federation", type=FEDERATION, required=False)
@click.option("--paths", is_flag=True, help="Show every path, not only the worst twenty.")
@click.pass_context
def status(ctx: click.Context, federation: str | None, paths: bool) -> None:
    """Show how the federations are.

    Members, gateways, tunnels, nodes and paths, by the leader's word. GATEWAYS are those available
    of those there are, TUNNELS those up of those wanted. Under GATEWAY stands which nodes of this
    cluster are gateways in any federation, by its layout there. Loss and round trip are as the
    nodes measure them all the time.
    The exit status is 0 where all is well, 5 where something is wrong, 4 where the servers are not
    ready.
    """
    from netspacectl import federation_views as views

    app: App = ctx.obj
    whole = app.ask_federation(lambda client, cluster: client.status(cluster))
    found = views.only(whole, federation)
    if federation is not None and not found.federations:
        raise Problem(
            "not-found",
            f"cluster {whole.cluster} is in no federation {federation}",
            do="look what there is with 'netspacectl federation list'",
        )
    if app.output == "table":
        from netspacectl.tables import Table

        rows = views.path_rows(found)
        shown = rows if paths else rows[: views.PATHS]
        for text in aligned(views.head(found)):
            click.echo(text)
        for lines in (
            Table(views.MEMBERS).lines(views.member_rows(found)),
            Table(views.NODES).lines(found.nodes),
            Table(views.PATH_ROWS).lines(shown),
        ):
            click.echo("")
            for line in lines:
                click.echo(line)
        if len(rows) > len(shown):
            click.echo(f"and {len(rows) - len(shown)} more paths: ask with --paths")
        for fault in views.faults(found):
            click.echo(f"FAULT  {printable(fault)}")
    else:
        dump(app.output, found)
    if not found.ready:
        ctx.exit(exits.AGAIN)
    ctx.exit(exits.DIFFERS if views.ill(found) else exits.DONE)
