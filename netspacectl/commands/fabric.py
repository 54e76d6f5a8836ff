"""`netspacectl fabric`: physical networks, inside which an address exists once."""

from __future__ import annotations

import click

from netspace.messages import NewFabric
from netspacectl.app import App
from netspacectl.options import existing
from netspacectl.output import say, write, write_list
from netspacectl.tree import Noun
from netspacectl.views import FABRICS
from netspacectl.words import label

command = Noun("fabric", help="Physical networks: inside a fabric an address exists once.")
NAME = label("fabric")


@command.command("create", examples=["netspacectl fabric create rack-7"])
@click.argument("fabric", type=NAME)
@click.pass_obj
def create(app: App, fabric: str) -> None:
    """Create a fabric."""
    write(app.output, app.ask(lambda client: client.create_fabric(NewFabric(name=fabric))))


@command.command("list", examples=["netspacectl fabric list"])
@click.pass_obj
def list_(app: App) -> None:
    """List the fabrics and the networks in them."""
    write_list(app.output, FABRICS, app.ask(lambda client: client.fabrics()))


@command.command("show", examples=["netspacectl fabric show rack-7"])
@existing("fabric")
@click.pass_obj
def show(app: App, fabric: str) -> None:
    """Show a fabric and the address ranges in it."""
    write(app.output, app.ask(lambda client: client.fabric(fabric)))


@command.command("delete", examples=["netspacectl fabric delete rack-7"])
@existing("fabric")
@click.pass_obj
def delete(app: App, fabric: str) -> None:
    """Delete a fabric without networks."""
    app.ask(lambda client: client.delete_fabric(fabric))
    say(app.output, f"fabric {fabric} deleted")
