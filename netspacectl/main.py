"""The executable: runs a command and turns whatever happens into an exit status and one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from netspace import __version__
from netspace.problems import Problem
from netspacectl import exits
from netspacectl.app import App
from netspacectl.text import printable
from netspacectl.tree import Root, global_options

PROGRAM: Final = "netspacectl"
COMPLETE: Final = "_NETSPACECTL_COMPLETE"
TRACE: Final = "NETSPACECTL_TRACE"

cli = Root(
    PROGRAM,
    params=global_options(environment=True),
    help="Looks after the networks, pools and addresses of Netspace.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")(cli)


def main() -> None:
    """The entry point of the console script."""
    instruction = os.environ.get(COMPLETE)
    if instruction:
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(cli, {"obj": App()}, PROGRAM, COMPLETE, instruction))
    sys.exit(run(sys.argv[1:], App()))


def run(arguments: Sequence[str], app: App) -> int:
    """Runs one command line and gives its exit status; nothing is raised."""
    try:
        status = _run(arguments, app)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except BrokenPipeError:
        # Python would flush once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.PIPE_CLOSED
    return status


def _run(arguments: Sequence[str], app: App) -> int:
    try:
        with cli.make_context(PROGRAM, list(arguments), obj=app) as ctx:
            cli.invoke(ctx)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return exits.USAGE
    except click.UsageError as error:
        where = f": see '{error.ctx.command_path} --help'" if error.ctx else ""
        return _fail(exits.USAGE, printable(error.format_message()).rstrip(".") + where)
    except click.ClickException as error:
        return _fail(exits.REFUSED, printable(error.format_message()))
    except Problem as problem:
        return _fail(exits.status_of_code(problem.code), exits.line_of(problem))
    except BrokenPipeError:
        raise
    except OSError as error:
        return _fail(exits.REFUSED, printable(f"the output cannot be written: {error}"))
    except Exception as error:
        if os.environ.get(TRACE):
            raise
        what = printable(f"{type(error).__name__}: {error}")
        return _fail(exits.REFUSED, f"this should not happen: {what}: run it with {TRACE}=1")
    return exits.DONE


def _fail(status: int, text: str) -> int:
    click.echo(f"{PROGRAM}: {text[:1].lower() + text[1:]}", err=True)
    return status
