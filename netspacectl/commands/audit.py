"""`netspacectl audit`: whether a cluster's stored state is as it must be, and mending."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from netspacectl import exits
from netspacectl.app import App
from netspacectl.output import dump
from netspacectl.text import printable
from netspacectl.tree import Verb

if TYPE_CHECKING:
    from netspace.upkeep import Inspection, Mended

CLEAR = "\r\x1b[K"
"""Back to the line's beginning, and nothing behind it."""


@click.command(
    "audit",
    cls=Verb,
    examples=["netspacectl audit", "netspacectl audit --repair", "netspacectl audit -o json"],
)
@click.option("--repair", is_flag=True, help="Mend what can be mended safely.")
@click.pass_context
def command(ctx: click.Context, repair: bool) -> None:
    """Check all rules of a cluster's stored state.

    Of each finding: its code, what is wrong, why it matters, how it is mended, the keys. A server
    reads etcd itself for it. What is mended with --repair frees no address and forgets no holder;
    the rest is for a person to decide. On a terminal it shows how far it is.
    The exit status is 0 where nothing is wrong, or left to mend, and 5 where something is.
    """
    app: App = ctx.obj
    mended: Sequence[Mended] = ()
    with _progress() as told:
        if repair:
            answer = app.ask_in_cluster(lambda client, cluster: client.repair(cluster, told))
            mended, found = answer.mended, answer.left
        else:
            found = app.ask_in_cluster(lambda client, cluster: client.inspect(cluster, told))
    if app.output != "table":
        dump(app.output, answer if repair else found)
    if app.output == "table":
        for mark, text in (*_mended(mended), *_found(found)):
            click.echo(f"{f'  {mark:8}' if mark else ''}{printable(text)}")
    ctx.exit(exits.DIFFERS if found.findings else exits.DONE)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Says on one line of a terminal how many keys were read, and takes it away in the end."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    try:
        yield lambda keys: click.echo(f"{CLEAR}{keys:,} keys read", nl=False, err=True)
    finally:
        click.echo(CLEAR, nl=False, err=True)


def _mended(mended: Sequence[Mended]) -> Iterator[tuple[str, str]]:
    for each in mended:
        yield "", f"{'mended' if each.done else 'not mended'}: {each.what}"
        if each.why:
            yield "why", each.why
        yield from (("key", key) for key in each.keys)


def _found(found: Inspection) -> Iterator[tuple[str, str]]:
    for finding in found.findings:
        yield "", f"{finding.code}: {finding.what}"
        yield "why", finding.why
        yield "repair" if finding.safe else "by hand", finding.mend
        yield from (("key", key) for key in finding.keys)
    if found.more:
        yield "", f"and {found.more} more"
    count = len(found.findings) + found.more
    said = f"{count} finding{'s' if count > 1 else ''}" if count else "nothing is wrong"
    yield "", f"cluster {found.cluster}: {said} in {found.keys} keys at revision {found.revision}"
