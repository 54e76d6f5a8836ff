"""`netspacectl apply`: brings clusters, networks and pools to what files declare."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from netspace.problems import Problem
from netspacectl import exits
from netspacectl.app import App
from netspacectl.output import ask_person, dump
from netspacectl.text import printable
from netspacectl.tree import Verb

if TYPE_CHECKING:
    from netspacectl.address_plan.declared import Declared
    from netspacectl.address_plan.difference import Difference, Step

COLOURS: Final = {"+": "green", "~": "yellow", "-": "red", "!": "bright_red", "=": "bright_black"}


@click.command(
    "apply",
    cls=Verb,
    examples=[
        "netspacectl apply -f plan.yaml --dry-run",
        "netspacectl apply -f plan.yaml --yes",
        "netspacectl apply -f fabrics.yaml -f east.yaml --prune",
    ],
)
@click.option(
    "-f",
    "files",
    multiple=True,
    required=True,
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="A plan file, '-' for the input; repeatable, together they are one plan.",
)
@click.option("--dry-run", is_flag=True, help="Show the difference and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--prune",
    is_flag=True,
    help="Delete networks and pools that the file does not have, in the clusters that it has.",
)
@click.pass_context
def command(
    ctx: click.Context, files: Sequence[str], dry_run: bool, yes: bool, prune: bool
) -> None:
    """Bring clusters, networks and pools to what a file declares.

    The difference is shown first: '+' creates, '~' changes, '-' deletes, '!' cannot be had. Nothing
    is done where anything cannot. Steps are carried out one after the other up to the first that
    fails; applying again goes on from there. What somebody else changes meanwhile is not
    overwritten. With --cluster only that cluster's part of the file counts. Networks and pools that
    Kubernetes looks after are left alone; a file that would change one is refused.

    With --dry-run the exit status is 5 where there is something to do.
    """
    from netspacectl.address_plan import carrying, declared, difference, difference_text, present

    app = ctx.ensure_object(App)
    try:
        wanted = declared.read([declared.Source(*_content(file)) for file in files])
    except Problem as problem:
        for error in problem.errors:
            click.echo(printable(error), err=True)
        raise Problem(problem.code, problem.detail) from None
    cluster = app.settle().cluster
    if cluster is not None:
        wanted = _only(wanted, cluster)

    known = app.ask(lambda client: present.read(client, wanted.clusters))
    found = difference.difference(known, wanted, prune=prune)
    table = app.output == "table"
    if table:
        for mark, line in difference_text.lines(found):
            _line(mark, line)
        click.echo(difference_text.counted(found) or "nothing to do")
    if found.refused or dry_run or not found.steps:
        if not table:
            dump(app.output, difference_text.document(found, None))
        if found.refused:
            raise click.ClickException(
                f"{len(found.refused)} of what is declared cannot be had: nothing was changed"
            )
        ctx.exit(exits.DIFFERS if found.steps else exits.DONE)
    if not yes and ("-" in files or not ask_person("Carry it out?")):
        raise click.ClickException("nothing was changed: nobody said yes, and --yes was not given")
    done: list[Step] = []

    def tell(step: Step) -> None:
        done.append(step)
        if table:
            click.echo(f"done {len(done)}/{len(found.steps)}: {_words(step)}")

    try:
        app.ask(lambda client: carrying.carry_out(client, found.steps, tell))
    except Problem as problem:
        raise _stopped(problem, found, len(done)) from None
    finally:
        if not table:
            dump(app.output, difference_text.document(found, len(done)))


def _stopped(problem: Problem, found: Difference, done: int) -> Problem:
    """The problem of a step with what was done before and what was not."""
    left = len(found.steps) - done - 1
    before = f"{done} of {len(found.steps)} steps were carried out"
    after = f"the {left} after it were not" if left > 1 else "the one after it was not"
    state = f"{before}, {after}" if left else before
    return Problem(
        problem.code,
        f"{_words(found.steps[done])}: {problem}; {state}",
        do="apply again to go on from there",
        retry_after=problem.retry_after,
        errors=problem.errors,
    )


def _words(step: Step) -> str:
    from netspacectl.address_plan.difference_text import MARKS, headline

    return f"{MARKS[step.action]} {headline(step)}"


def _only(wanted: Declared, cluster: str) -> Declared:
    from netspacectl.address_plan.declared import Declared

    if cluster not in wanted.clusters:
        raise click.UsageError(
            f"the file declares nothing for cluster {cluster}", click.get_current_context()
        )
    others = [name for name in wanted.clusters if name != cluster]
    if others:
        click.echo(f"only cluster {cluster} counts, not {', '.join(others[:5])}", err=True)
    return Declared(wanted.fabrics, {cluster: wanted.clusters[cluster]})


def _content(file: str) -> tuple[str, bytes]:
    """A file's name and what stands in it."""
    if file == "-":
        return "<input>", sys.stdin.buffer.read()
    try:
        return printable(file), Path(file).read_bytes()
    except OSError as error:
        raise click.UsageError(
            f"{file} cannot be read: {error.strerror}", click.get_current_context()
        ) from None


def _line(mark: str, line: str) -> None:
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    click.echo(click.style(line, fg=COLOURS[mark]) if coloured else line)
