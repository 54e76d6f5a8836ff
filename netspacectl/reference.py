"""Writes `docs/cli.md` from the commands themselves: `python -m netspacectl.reference`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from netspacectl import exits
from netspacectl.app import OUTPUTS
from netspacectl.main import PROGRAM, cli
from netspacectl.tree import Verb, folded, global_options

PAGE: Final = Path(__file__).parent.parent / "docs" / "cli.md"
HEAD: Final = """\
# netspacectl

The command line of Netspace: it asks the IPAM server and changes nothing by itself. A command is a
noun and a verb: `netspacectl pool list`. This page is made from the commands
(`python -m netspacectl.reference`), and so is every command's `--help`.

## Options of every command

They stand before the noun or after the verb; the later one counts. `netspacectl federation` asks a
federation server, which `--federation-server` names, and refuses `--server` without it.
"""
MIDDLE: Final = """\
| environment | stands for |
| --- | --- |
| `NETSPACE_SERVER` | `--server`; several servers are separated by spaces |
| `NETSPACE_FEDERATION_SERVER` | `--federation-server`, in the same way |
| `NETSPACE_CLUSTER` | `--cluster` |
| `NETSPACE_CA`, `NETSPACE_CERT`, `NETSPACE_KEY` | `--ca`, `--cert`, `--key` |
| `NO_COLOR` | tables without colours |
| `NETSPACECTL_TRACE` | set to anything: an error of the program itself shows its Python trace |

What neither says is read from `~/.config/netspace/ctl.yaml` or, where that is not there, from
`/etc/netspace/ctl.yaml`; [conf/ctl.yaml](../conf/ctl.yaml) is an example.

## Output

Tables are for people. Into a pipe or a file they are as wide as they have to be, without colours
and without anything cut off. On a terminal too narrow for a table every thing is shown by lines of
its own. Errors, and the question before a release, go to stderr.

`-o json` and `-o yaml` give the API's messages as they are: sizes and slots are decimal strings,
since they pass 2^53, and durations are seconds. Lists are arrays, without the API's wrapping; long
ones are written while they come in, so an array that is not closed was cut off by an error, which
the exit status tells too.

Durations are written `30s`, `5m`, `2h`, `1h30m` or `7d`; a bare number is seconds. Addresses in an
option called `--range`, `--exclude` or `--include` are one address (`10.91.0.5`), the first and the
last (`10.91.0.5-10.91.0.9`) or a subnet (`10.91.0.0/28`), of either family.

## Exit statuses

An error is one line on stderr: what, which, why, and what to do.
"""
SHELLS: Final = """\
## Shell completion

Commands, options and the names of fabrics, clusters, networks, pools and nodes are completed. Names
are asked from the server, for a second at most; where it does not answer, none are offered. See
[netspacectl completion](#netspacectl-completion).
"""


def page() -> str:
    """The whole page, in Markdown."""
    lines = [HEAD, *_options(global_options(environment=False)), "", MIDDLE]
    lines += ["| status | means |", "| --- | --- |"]
    lines += [f"| {status} | {meaning} |" for status, meaning in exits.MEANINGS.items()]
    lines += ["", SHELLS]
    with click.Context(cli, info_name=PROGRAM) as root:
        for ctx in _walk(root):
            lines += _section(ctx)
    return "\n".join(lines).rstrip() + "\n"


def _walk(ctx: click.Context) -> Iterator[click.Context]:
    group = ctx.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        inner = click.Context(command, parent=ctx, info_name=name)
        yield inner
        if isinstance(command, click.Group):
            yield from _walk(inner)


def _section(ctx: click.Context) -> Iterator[str]:
    command = ctx.command
    level = "##" if ctx.parent is not None and ctx.parent.parent is None else "###"
    yield f"{level} {ctx.command_path}"
    yield ""
    yield inspect.cleandoc(command.help or "")
    yield ""
    if not isinstance(command, Verb):
        return
    ours = {option.name for option in global_options(environment=False)}
    arguments = [
        str(param.make_metavar(ctx))
        for param in command.params
        if isinstance(param, click.Argument)
    ]
    if command.outputs != OUTPUTS:
        ours.discard("global_output")
    options = [param for param in command.params if param.name not in ours]
    listed = list(_options(options))
    yield f"`{' '.join([ctx.command_path, *arguments, *(['[OPTIONS]'] if listed else [])])}`"
    yield ""
    if listed:
        yield from listed
        yield ""
    yield "```console"
    for example in command.examples:
        first, *rest = folded(example)
        yield f"$ {first}"
        yield from rest
    yield "```"
    yield ""


def _options(params: list[click.Parameter]) -> Iterator[str]:
    options = [param for param in params if isinstance(param, click.Option)]
    if not options:
        return
    with click.Context(cli) as ctx:
        yield "| option | meaning |"
        yield "| --- | --- |"
        for option in options:
            record = option.get_help_record(ctx)
            assert record is not None
            words, meaning = (" ".join(text.split()).replace("|", r"\|") for text in record)
            yield f"| `{words}` | {meaning} |"


if __name__ == "__main__":
    PAGE.write_text(page())
