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
    it changes nothing. With -o json it is written as JSON, which apply reads as well.
    """
    from netspacectl.address_plan import exported, present

    known = app.ask(lambda client: present.read_one_or_all(client, app.settle().cluster))
    dump("json" if app.output == "json" else "yaml", exported.document(known), to)
