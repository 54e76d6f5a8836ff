"""`netspacectl namespace`: what Kubernetes namespaces choose by default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from netspacectl.app import App
from netspacectl.output import write_list
from netspacectl.tree import Noun
from netspacectl.views import Column

if TYPE_CHECKING:
    from netspace.kubernetes import NamespaceDefault

command = Noun("namespace", help="Namespaces: what their pods choose by default.")

COLUMNS: Sequence[Column[NamespaceDefault]] = (
    Column("NAMESPACE", lambda each: each.namespace),
    Column("NETSPACE", lambda each: each.selection.netspace),
    Column("APPLICATION", lambda each: each.selection.application),
    Column("FAMILIES", lambda each: list(each.selection.families)),
)


@command.command("list", examples=["netspacectl namespace list"])
@click.pass_obj
def list_(app: App) -> None:
    """List the namespaces that choose a pool or families for their pods.

    They do so by the annotations of the Namespace objects, which the cluster's controller brings
    here. A pod's own annotations come before its namespace's, these before the node's
    configuration, that before the default pool.
    """
    found = app.ask_in_cluster(lambda client, cluster: client.namespaces(cluster))
    write_list(app.output, COLUMNS, found)
