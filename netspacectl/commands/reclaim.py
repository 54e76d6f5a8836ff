"""`netspacectl reclaim`: addresses whose pods a witness misses, freed where that is proved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from netspacectl.app import App
from netspacectl.output import dump, write_list
from netspacectl.text import cell, duration
from netspacectl.tree import Verb
from netspacectl.views import Column

if TYPE_CHECKING:
    from netspace.upkeep import Candidate

COLUMNS: Sequence[Column[Candidate]] = (
    Column("ADDRESS", lambda each: [text for text in (each.ipv4, each.ipv6) if text], wraps=True),
    Column("NETWORK", lambda each: each.network),
    Column("POD", lambda each: _pod(each)),
    Column("NODE", lambda each: each.node),
    Column("WITNESS", lambda each: each.witness),
    Column("MISSED FOR", lambda each: duration(round(each.since, 1)), right=True),
    Column("LAST REPORT", lambda each: duration(round(each.last, 1)), right=True),
    Column("LACKS", lambda each: each.lacks or "nothing: the next round frees it", wraps=True),
)


@click.command(
    "reclaim",
    cls=Verb,
    examples=["netspacectl reclaim --dry-run", "netspacectl reclaim"],
)
@click.option("--dry-run", is_flag=True, help="Only show the candidates.")
@click.pass_obj
def command(app: App, dry_run: bool) -> None:
    """Free addresses whose pods are proved gone, now.

    The leader does so by itself every few seconds. A proof takes two reports of the pod's node, a
    grace period apart, that miss the interface, and none between them that has it. A node that is
    silent proves nothing: `netspacectl address release` takes your word for it. Of a node that is
    fenced (its Node object deleted, or tainted out-of-service) Kubernetes is the witness instead:
    twice, a grace period apart, it must say that the pod is gone, and the node must stay silent.
    Candidates are addresses that the last report of a witness missed.
    """
    if dry_run:
        answer = app.ask_in_cluster(lambda client, cluster: client.reclaimable(cluster))
    else:
        answer = app.ask_in_cluster(lambda client, cluster: client.reclaim(cluster))
    if app.output != "table":
        dump(app.output, answer)
        return
    for each in answer.freed:
        address = each.ipv4 or each.ipv6
        click.echo(f"reclaimed {cell(address)} of pod {_pod(each)} on node {cell(each.node)}")
    if answer.left:
        write_list(app.output, COLUMNS, answer.left)
    else:
        click.echo("no candidates: every witness's last report has all that pods hold")


def _pod(each: Candidate) -> str:
    if not each.pod:
        return cell(each.container)
    return cell(f"{each.namespace}/{each.pod}" if each.namespace else each.pod)
