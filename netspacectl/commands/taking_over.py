"""`netspacectl import`: running pods' addresses taken over from another address plugin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from netspace.messages import AddressEntry
from netspace.problems import Problem
from netspacectl import exits
from netspacectl.app import App
from netspacectl.options import naming
from netspacectl.output import write_list
from netspacectl.text import printable
from netspacectl.tree import Noun
from netspacectl.views import Column
from netspacectl.words import NODE

if TYPE_CHECKING:
    from ipam_server.client import Client
    from netspacectl.taking_over.found import Found, Pods
    from netspacectl.taking_over.plan import Row

F = TypeVar("F", bound=Callable[..., Any])
Read = Callable[[bytes, str], "list[Found]"]
INPUT: Final = "-"

command = Noun("import", help="Pods' addresses, taken over from another plugin.")
ROWS: Final[Sequence[Column[Row]]] = (
    Column("ACTION", lambda row: row.action),
    Column("ADDRESS", lambda row: [*row.addresses], wraps=True),
    Column("NETWORK", lambda row: row.network),
    Column("POOL", lambda row: row.pool),
    Column("POD", lambda row: f"{row.namespace}/{row.pod}" if row.pod else None),
    Column("NODE", lambda row: row.node),
    Column("CONTAINER", lambda row: row.container[:13]),
    Column("IFNAME", lambda row: row.ifname),
    Column("WHY", lambda row: row.why, wraps=True),
)


class Gone(msgspec.Struct):
    """An address that was taken over and whose pod is no more."""

    network: str
    addresses: list[str]
    why: str
    note: str
    node: str | None
    done: bool = False


GONE: Final[Sequence[Column[Gone]]] = (
    Column("ADDRESS", lambda each: each.addresses, wraps=True),
    Column("NETWORK", lambda each: each.network),
    Column("NODE", lambda each: each.node),
    Column("NOTE", lambda each: each.note, wraps=True),
    Column("WHY", lambda each: each.why, wraps=True),
    Column("FREED", lambda each: each.done),
)

_file = click.Path(dir_okay=False, allow_dash=True)
_yes = click.option("--yes", is_flag=True, help="Do it. Without it, it is only shown.")
_files = click.option(
    "-f",
    "files",
    multiple=True,
    required=True,
    type=_file,
    metavar="FILE",
    help="What to read, '-' for the input; repeatable.",
)


def _common(function: F) -> F:
    """The options that every source has."""
    for option in (
        click.option(
            "--skip-conflicts",
            is_flag=True,
            help="With --yes: do what can be done; else one conflict keeps all from being done.",
        ),
        _yes,
        click.option(
            "--sandboxes",
            multiple=True,
            type=_file,
            metavar="FILE",
            help="'crictl pods -o json' of a node: whose container is whose; repeatable.",
        ),
        click.option(
            "--pods",
            type=_file,
            metavar="FILE",
            help="'kubectl get pods -A -o json': nodes and UIDs; addresses of pods that it does not"
            " have are left out.",
        ),
        naming("--network", "network", help="The network, where several have an address."),
    ):
        function = option(function)
    return function


@command.command(
    "host-local",
    examples=[
        "netspacectl import host-local /var/lib/cni/networks/vlan910 --node node-1",
        "netspacectl import host-local ./vlan910 --node node-1 --sandboxes node-1.json --yes",
    ],
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--node", required=True, type=NODE, metavar="NODE", help="Whose folder it is.")
@_common
@click.pass_context
def host_local(ctx: click.Context, /, folder: Path, node: str, **options: Any) -> None:
    """Take over what host-local has given on a node.

    FOLDER holds a file for each address, with container id and interface name. Whose pod a
    container is, the node's sandboxes tell.
    """
    from netspacectl.taking_over import sources

    try:
        files = [(path.name, path.read_bytes()) for path in folder.iterdir() if path.is_file()]
    except OSError as error:
        raise click.UsageError(f"{folder} cannot be read: {error.strerror}", ctx) from None
    _take_over(ctx, sources.host_local(files, node), **options)


@command.command(
    "spiderpool",
    examples=[
        "netspacectl import spiderpool -f endpoints.json --sandboxes node-1.json",
        "netspacectl import spiderpool -f - --yes",
    ],
)
@_files
@_common
@click.pass_context
def spiderpool(ctx: click.Context, /, files: Sequence[str], **options: Any) -> None:
    """Take over what Spiderpool has given.

    Reads SpiderEndpoints (kubectl get spiderendpoints -A -o json), and SpiderIPPools for what no
    endpoint has. They do not name containers: the nodes' sandboxes do.
    """
    from netspacectl.taking_over import sources

    _take_over(ctx, _read(ctx, files, sources.spiderpool), **options)


@command.command(
    "whereabouts",
    examples=[
        "netspacectl import whereabouts -f ippools.json --pods pods.json",
        "netspacectl import whereabouts -f - --pods pods.json --yes",
    ],
)
@_files
@_common
@click.pass_context
def whereabouts(ctx: click.Context, /, files: Sequence[str], **options: Any) -> None:
    """Take over what whereabouts has given.

    Reads IPPools (kubectl get ippools.whereabouts.cni.cncf.io -A -o json). They do not name nodes:
    the list of pods does.
    """
    from netspacectl.taking_over import sources

    _take_over(ctx, _read(ctx, files, sources.whereabouts), **options)


@command.command("csv", examples=["netspacectl import csv -f addresses.csv --yes"])
@_files
@_common
@click.pass_context
def csv(ctx: click.Context, /, files: Sequence[str], **options: Any) -> None:
    """Take over what a table says.

    Its first line names the columns, in any order: ipv4, ipv6, namespace, pod, uid, node,
    container, ifname. One of the first two is needed.
    """
    from netspacectl.taking_over import sources

    _take_over(ctx, _read(ctx, files, sources.table), **options)


@command.command(
    "gone",
    examples=[
        "netspacectl import gone --pods -",
        "netspacectl import gone --pods pods.json --yes",
    ],
)
@click.option(
    "--pods", required=True, type=_file, metavar="FILE", help="'kubectl get pods -A -o json'."
)
@_yes
@click.pass_context
def gone(ctx: click.Context, pods: str, yes: bool) -> None:
    """Free what was taken over and whose pod is gone.

    What an attachment holds is freed by its DEL; this is for reservations, and for what no DEL came
    for. The list of pods must be newer than their end, and counts as your word that they are gone.
    """
    app = ctx.ensure_object(App)
    from netspacectl.taking_over import carrying, sources

    known = carrying.by_note(sources.pods(_content(ctx, pods), pods))

    async def asked(client: Client, cluster: str) -> list[Gone]:
        found = []
        async for entry in carrying.imported(client, cluster):
            why = carrying.gone(entry, known)
            if why is None:
                continue
            each = _gone(entry, why)
            if yes:
                await carrying.free(client, cluster, entry)
                each.done = True
            found.append(each)
        return found

    found = app.ask_in_cluster(asked)
    write_list(app.output, GONE, found)
    ctx.exit(exits.DIFFERS if found and not yes else exits.DONE)


def _gone(entry: AddressEntry, why: str) -> Gone:
    both = [text for text in (entry.ipv4, entry.ipv6) if text]
    return Gone(entry.network, both, why, entry.note or "", entry.node)


def _take_over(
    ctx: click.Context,
    found: list[Found],
    *,
    network: str | None,
    pods: str | None,
    sandboxes: Sequence[str],
    yes: bool,
    skip_conflicts: bool,
) -> None:
    from netspacectl.taking_over import carrying, plan, sources
    from netspacectl.taking_over.found import Sandbox, completed

    app = ctx.ensure_object(App)
    listed: Pods | None = None if pods is None else sources.pods(_content(ctx, pods), pods)
    known: list[Sandbox] = []
    for file in sandboxes:
        known += sources.sandboxes(_content(ctx, file), file)
    complete = completed(found, listed, known)
    rows: list[Row] = []

    async def asked(client: Client, cluster: str) -> None:
        there = await carrying.ask(client, cluster, complete, network)
        rows.extend(plan.rows(complete, there))
        if yes and (skip_conflicts or not _conflicts(rows)):
            await carrying.carry_out(client, cluster, rows, there)

    try:
        app.ask_in_cluster(asked)
    except Problem:
        if any(row.done for row in rows):
            click.echo(_counted(rows), err=True)
        raise
    write_list(app.output, ROWS, rows)
    click.echo(_counted(rows), err=app.output != "table")
    if conflicts := _conflicts(rows):
        done = any(row.done for row in rows)
        left = "the others are done" if done else "nothing was changed"
        raise click.ClickException(f"{conflicts} of {len(rows)} cannot be taken over: {left}")
    open_ = any(row.action in ("attach", "reserve") and not row.done for row in rows)
    ctx.exit(exits.DIFFERS if open_ else exits.DONE)


def _conflicts(rows: Sequence[Row]) -> int:
    return sum(row.action == "conflict" for row in rows)


def _counted(rows: Sequence[Row]) -> str:
    parts = []
    for action, words in (("attach", "attached"), ("reserve", "reserved")):
        mine = [row for row in rows if row.action == action]
        done = sum(row.done for row in mine)
        if done:
            parts.append(f"{done} {words}")
        if len(mine) > done:
            parts.append(f"{len(mine) - done} to be {words}")
    for action in ("there", "left out"):
        if count := sum(row.action == action for row in rows):
            parts.append(f"{count} {action}")
    if count := _conflicts(rows):
        parts.append(f"{count} in conflict")
    return ", ".join(parts) or "nothing was found"


def _read(ctx: click.Context, /, files: Sequence[str], read: Read) -> list[Found]:
    return [each for file in files for each in read(_content(ctx, file), printable(file))]


def _content(ctx: click.Context, file: str) -> bytes:
    if file == INPUT:
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{file} cannot be read: {error.strerror}", ctx) from None
