"""`netspace-agent install` and `uninstall`: what the DaemonSet's first container runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final
from urllib.parse import quote

import click
import msgspec

from cni_plugins import installing, node_config
from netspace.kube_access import from_service_account
from netspace.kube_api import ApiError, KubeApi
from netspace.problems import Problem

NODE: Final = "NODE_NAME"
"""The variable with the name that Kubernetes has for the node."""
CONFLIST: Final = "10-netspace.conflist"

_root = click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default="/host",
    show_default=True,
    help="Where the node's opt/cni/bin, etc/cni/net.d and etc/netspace are.",
)


class _Metadata(msgspec.Struct):
    labels: dict[str, str] | None = None


class _Node(msgspec.Struct):
    metadata: _Metadata


@click.command("install")
@_root
@click.option(
    "--from",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default="/etc/netspace-node",
    show_default=True,
    help="Where the configurations are, NAME.yaml, and the conflist.",
)
@click.option(
    "--executables",
    "source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default="/opt/cni/bin",
    show_default=True,
    help="Where the executables are.",
)
def install_command(root: Path, folder: Path, source: Path) -> None:
    """Put executables, configuration and conflist onto the node.

    For the container of a DaemonSet. The node's label ipam.netspace.io/config names its
    configuration; without it that is `default`.
    """
    node = os.environ.get(NODE, "")
    if not node:
        raise click.UsageError(f"{NODE} is not set: it is to be the pod's spec.nodeName")
    there = installing.configurations(folder)
    try:
        name = installing.chosen(asyncio.run(_labels(node)), sorted(there))
        settings = installing.for_node(there[name].read_bytes(), node, there[name])
        installing.install(source, root, settings, folder / CONFLIST)
        config = node_config.parse(settings, there[name])
    except (Problem, OSError) as problem:
        raise click.ClickException(str(problem)) from None
    click.echo(
        f"{node}: installed, with the configuration {name}, for the cluster {config.cluster}"
    )


@click.command("uninstall")
@_root
def uninstall_command(root: Path) -> None:
    """Take executables and conflist from the node.

    Configuration, certificates and attachment records stay.
    """
    try:
        installing.uninstall(root, CONFLIST)
    except OSError as error:
        raise click.ClickException(str(error)) from None
    click.echo("removed")


async def _labels(node: str) -> dict[str, str]:
    folder = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    api = KubeApi(lambda: from_service_account(folder, None, os.environ), 10.0)
    try:
        found = await api.get(f"/api/v1/nodes/{quote(node, '')}", _Node)
    except ApiError as error:
        raise Problem(
            "unavailable",
            f"the labels of node {node} are not to be had: {error.why}",
            do="see whether the node reaches Kubernetes' API, and what the service account may",
        ) from None
    finally:
        await api.close()
    return found.metadata.labels or {}
