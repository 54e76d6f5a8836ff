"""`netspacectl cluster`: the Kubernetes clusters that the server looks after."""

from __future__ import annotations

import click

from netspace.messages import NewCluster
from netspacectl.app import App
from netspacectl.options import existing
from netspacectl.output import say, write, write_list
from netspacectl.tree import Noun
from netspacectl.views import CLUSTERS
from netspacectl.words import label

command = Noun("cluster", help="Kubernetes clusters that the server looks after.")
NAME = label("cluster")


@command.command("create", examples=["netspacectl cluster create east"])
@click.argument("cluster", type=NAME)
@click.pass_obj
def create(app: App, cluster: str) -> None:
    """Create a cluster."""
    write(app.output, app.ask(lambda client: client.create_cluster(NewCluster(name=cluster))))


@command.command("list", examples=["netspacectl cluster list"])
@click.pass_obj
def list_(app: App) -> None:
    """List the clusters."""
    write_list(app.output, CLUSTERS, app.ask(lambda client: client.clusters()))


@command.command("show", examples=["netspacectl cluster show east"])
@existing("cluster")
@click.pass_obj
def show(app: App, cluster: str) -> None:
    """Show a cluster, its leader and how much of it is in use."""
    write(app.output, app.ask(lambda client: client.cluster(cluster)))


@command.command("delete", examples=["netspacectl cluster delete east"])
@existing("cluster")
@click.pass_obj
def delete(app: App, cluster: str) -> None:
    """Delete a cluster without networks."""
    app.ask(lambda client: client.delete_cluster(cluster))
    say(app.output, f"cluster {cluster} deleted")
