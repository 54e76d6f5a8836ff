"""`netspacectl node`: the nodes, as they report themselves or hold addresses."""

from __future__ import annotations

import click

from netspacectl.app import App
from netspacectl.options import existing
from netspacectl.output import say, write, write_list
from netspacectl.tree import Noun
from netspacectl.views import NODES

command = Noun("node", help="Nodes: what they report of their links, what they hold.")


@command.command("list", examples=["netspacectl node list"])
@click.pass_obj
def list_(app: App) -> None:
    """List nodes that reported or hold addresses."""
    write_list(app.output, NODES, app.ask_in_cluster(lambda client, cluster: client.nodes(cluster)))


@command.command("show", examples=["netspacectl node show node-1"])
@existing("node")
@click.pass_obj
def show(app: App, node: str) -> None:
    """Show a node with its bonds and VLANs."""
    write(app.output, app.ask_in_cluster(lambda client, cluster: client.node(cluster, node)))


@command.command("unfence", examples=["netspacectl node unfence node-1"])
@existing("node")
@click.pass_obj
def unfence(app: App, node: str) -> None:
    """End what Kubernetes has said of a node as fenced.

    A node is fenced while its Node object is deleted or tainted out-of-service. What its pods held
    is then freed by Kubernetes' word, said twice. A node that reports, or asks for an address, ends
    that by itself; the cluster's controller says it anew as long as it finds the node fenced.
    """
    app.ask_in_cluster(lambda client, cluster: client.unfence(cluster, node))
    say(app.output, f"node {node} is not fenced")


@command.command("delete", examples=["netspacectl node delete node-1"])
@existing("node")
@click.pass_obj
def delete(app: App, node: str) -> None:
    """Forget a node that is gone for good.

    Its own addresses, those of its vmacs, are free then. Addresses that its pods hold are to be
    released first.
    """
    app.ask_in_cluster(lambda client, cluster: client.forget_node(cluster, node))
    say(app.output, f"node {node} deleted")
