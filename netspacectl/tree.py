"""The tree of commands: the options that every command has, examples in the help, late imports."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import click
from click.core import ParameterSource

from netspacectl.app import DEFAULT_SERVER, OUTPUTS, App, Output
from netspacectl.complete import names_of
from netspacectl.words import ServerUrl, label

EXAMPLE_WIDTH: Final = 86
NOUNS: Final = (
    "fabric",
    "cluster",
    "network",
    "pool",
    "namespace",
    "address",
    "node",
    "plan",
    "apply",
    "export",
    "status",
    "change",
    "audit",
    "reclaim",
    "federation",
    "import",
    "certs",
    "completion",
)


_MODULES: Final = {"import": "taking_over"}
"""Where the noun cannot be the module's name."""


def folded(line: str) -> list[str]:
    """A command line as a shell reads it, broken before options where it is long."""
    lines = [""]
    for part in re.split(r" (?=--?[a-z])", line):
        if not lines[-1]:
            lines[-1] = part
        elif len(lines[-1]) + 1 + len(part) <= EXAMPLE_WIDTH:
            lines[-1] += f" {part}"
        else:
            lines[-1] += " \\"
            lines.append(f"    {part}")
    return lines


def _keep_servers(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> None:
    app = ctx.ensure_object(App)
    if value:
        app.whom = replace(app.whom, servers=value)
        if typed(ctx, param):
            app.typed |= {"server"}


def typed(ctx: click.Context, param: click.Parameter) -> bool:
    """Whether an option's value stands on the command line, and not in the environment."""
    return ctx.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE


def _keep_cluster(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    app = ctx.ensure_object(App)
    if value is not None:
        app.whom = replace(app.whom, cluster=value)


def _keep_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    app = ctx.ensure_object(App)
    if value is not None:
        match param.name:
            case "global_ca":
                app.whom = replace(app.whom, ca=value)
            case "global_cert":
                app.whom = replace(app.whom, cert=value)
            case _:
                app.whom = replace(app.whom, key=value)


def _keep_output(ctx: click.Context, _: click.Parameter, value: Output | None) -> None:
    app = ctx.ensure_object(App)
    if value is not None:
        app.output = value


def global_options(
    *, environment: bool, outputs: Sequence[Output] = OUTPUTS
) -> list[click.Parameter]:
    """`--server`, `--cluster`, the files for https, `--output`: taken before the noun and after the
    verb alike, and the later one counts. Only the earlier ones read the environment: it never
    overrules a word."""
    return [
        click.Option(
            ["--server", "global_server"],
            multiple=True,
            type=ServerUrl(),
            envvar="NETSPACE_SERVER" if environment else None,
            callback=_keep_servers,
            expose_value=False,
            help=f"Where a server listens; repeatable, tried in turn.  [default: {DEFAULT_SERVER}]",
        ),
        click.Option(
            ["--cluster", "-c", "global_cluster"],
            type=label("cluster"),
            metavar="CLUSTER",
            envvar="NETSPACE_CLUSTER" if environment else None,
            callback=_keep_cluster,
            expose_value=False,
            shell_complete=names_of("clusters"),
            help="The cluster.  [default: the only one there is]",
        ),
        *(
            click.Option(
                [f"--{name}", f"global_{name}"],
                type=click.Path(dir_okay=False, path_type=Path),
                metavar="FILE",
                envvar=f"NETSPACE_{name.upper()}" if environment else None,
                callback=_keep_file,
                expose_value=False,
                help=meaning,
            )
            for name, meaning in (
                ("ca", "For https: the certificate of the authority."),
                ("cert", "For https: the certificate to show."),
                ("key", "For https: its key."),
            )
        ),
        *([_output(outputs)] if len(outputs) > 1 else []),
    ]


def _output(outputs: Sequence[Output]) -> click.Option:
    return click.Option(
        ["--output", "-o", "global_output"],
        type=click.Choice(outputs),
        callback=_keep_output,
        expose_value=False,
        help="A table for people; json or yaml, the API's messages, for programs"
        + ("; svg, a picture" if "svg" in outputs else "")
        + ".  [default: table]",
    )


class Verb(click.Command):
    """A command that does something. `examples` are full command lines, shown by `--help` and in
    the reference; `outputs` what it can answer in, and no option where that is one thing."""

    def __init__(
        self,
        *args: Any,
        examples: Sequence[str] = (),
        outputs: Sequence[Output] = OUTPUTS,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.outputs = tuple(outputs)
        self.params += global_options(environment=False, outputs=outputs)
        if examples:
            lines = [f"  {line}" for example in examples for line in folded(example)]
            self.epilog = "\n".join(["\b", "Examples:", *lines])


class Noun(click.Group):
    """A kind of thing and what can be done with it."""

    command_class = Verb

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, but an unknown verb is answered with the verbs there are."""
        if args and not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            known = ", ".join(self.list_commands(ctx))
            if args[0].startswith("-"):
                raise click.NoSuchOption(args[0], ctx=ctx)
            raise click.UsageError(f"there is no command {args[0][:60]!r}: use {known}", ctx)
        return super().resolve_command(ctx, args)


class Root(Noun):
    """The nouns, each in a module of `netspacectl.commands` that is imported when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in NOUNS:
            return None
        name = _MODULES.get(cmd_name, cmd_name)
        module = importlib.import_module(f"netspacectl.commands.{name}")
        return cast(click.Command, module.command)
