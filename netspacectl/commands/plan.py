"""`netspacectl plan`: the address plan of all clusters, as a table, for programs, as a picture."""

from __future__ import annotations

import click

from netspacectl.app import OUTPUTS, App
from netspacectl.output import dump, into_file, save
from netspacectl.tree import Verb


@click.command(
    "plan",
    cls=Verb,
    outputs=(*OUTPUTS, "svg"),
    examples=[
        "netspacectl plan",
        "netspacectl plan --cluster east -o json",
        "netspacectl plan -o svg --to plan.svg",
    ],
)
@into_file
@click.pass_obj
def command(app: App, to: str | None) -> None:
    """Show the whole address plan: clusters, networks, pools.

    All clusters, or with --cluster one of them. Below each network stand its pools, nested ones
    below their parent, and last its total pool: what is left to carve from, its largest block, and
    how fragmented it is (1 - largest block / free: 0 % is one piece). What Kubernetes looks after
    is marked so. -o svg draws it as a picture.
    """
    from netspacectl.address_plan import figures, present

    known = app.ask(lambda client: present.read_one_or_all(client, app.settle().cluster))
    plan = figures.of(known)
    if app.output == "svg":
        from netspacectl.address_plan import picture

        save(picture.svg(plan), to)
    elif app.output == "table":
        from netspacectl.address_plan import figures_text

        save("\n".join(figures_text.lines(plan)) + "\n", to)
    else:
        dump(app.output, figures.document(plan), to)
