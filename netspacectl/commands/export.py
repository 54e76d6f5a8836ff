"""`netspacectl export`: what there is, as a file that `apply` reads."""

from __future__ import annotations

import click

from netspacectl.app import App
from netspacectl.output import dump, into_file
from netspacectl.tree import Verb


@click.command(
    "export",
    cls=Verb,
    examples=[
        "netspacectl export > plan.yaml",
        "netspacectl export --cluster east --to east.yaml",
        "netspacectl export -o json",
    ],
)
@into_file
@click.pass_obj
def command(app: App, to: str | None) -> None:
    """Write the plan file of what there is.

    All clusters, or with --cluster one of them; pools with their ranges. Applied to the same server
    it changes nothing. With -o json it is written as JSON, which apply reads as well. Networks and
    pools that Kubernetes looks after stand in its objects: they are left out, and named on stderr,
    unless pools of people's lie in them.
    """
    from netspacectl.address_plan import exported, present

    known = app.ask(lambda client: present.read_one_or_all(client, app.settle().cluster))
    others = exported.left_out(known)
    if others:
        shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        click.echo(f"left out, since Kubernetes looks after it: {shown}", err=True)
    dump("json" if app.output == "json" else "yaml", exported.document(known), to)
