"""`netspacectl completion`: the script that teaches a shell to complete commands and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from netspacectl.tree import Verb

SHELLS = ("bash", "zsh", "fish")


@click.command(
    "completion",
    cls=Verb,
    examples=[
        "netspacectl completion bash > /etc/bash_completion.d/netspacectl",
        "netspacectl completion zsh > ~/.zfunc/_netspacectl",
        "netspacectl completion fish > ~/.config/fish/completions/netspacectl.fish",
    ],
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print a shell's completion script.

    It completes commands, options and names.
    Names of fabrics, clusters, networks, pools and nodes are asked from the server, for a second at
    most.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    completer = kind(ctx.find_root().command, {}, "netspacectl", "_NETSPACECTL_COMPLETE")
    click.echo(kind.source_template % completer.source_vars())
