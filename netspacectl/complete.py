"""Names for the shell's completion, asked from the server; nothing where it does not answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

import click

from netspacectl.app import App

if TYPE_CHECKING:
    from ipam_server.client import Client

PATIENCE: Final = 1.0
"""Seconds somebody waits after pressing Tab."""
Things = Literal["fabrics", "clusters", "networks", "pools", "nodes"]


def names_of(things: Things) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """A completer with the names of these things on the server."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        app = ctx.ensure_object(App)
        app.timeout = PATIENCE
        try:
            names = _ask(app, things)
        except Exception:  # whatever it is, a line in the middle of somebody's typing helps nobody
            return []
        return [name for name in sorted(names) if name.startswith(incomplete)]

    return complete


def _ask(app: App, things: Things) -> list[str]:
    import asyncio

    async def in_cluster(client: Client, cluster: str) -> list[str]:
        async with asyncio.timeout(PATIENCE):
            return [thing.name for thing in await getattr(client, things)(cluster)]

    async def at_all(client: Client) -> list[str]:
        async with asyncio.timeout(PATIENCE):
            return [thing.name for thing in await getattr(client, things)()]

    if things in ("fabrics", "clusters"):
        return app.ask(at_all)
    return app.ask_in_cluster(in_cluster)
