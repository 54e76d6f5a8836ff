"""`netspace-federation`: `serve`, the cluster's federation server; `agent` and `charon`, on nodes.

Each command is imported when it is named: a node needs nothing of the server, nor the server of it.
"""

from __future__ import annotations

import importlib
from typing import Final, cast

import click

import netspace

COMMANDS: Final = {
    "serve": "federation.server.main",
    "agent": "federation.node.main",
    "charon": "federation.node.charon",
}
"""Where each command is; the module calls it `command`."""


class _Program(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return cast(click.Command, importlib.import_module(COMMANDS[cmd_name]).command)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(netspace.__version__, prog_name="netspace-federation")
def main() -> None:
    """Join the pods of several clusters."""


if __name__ == "__main__":
    main()
