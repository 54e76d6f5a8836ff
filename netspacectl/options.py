"""Arguments and options that name a thing the server knows, completed from the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from netspace.messages import Owner
from netspacectl.complete import Things, names_of
from netspacectl.words import NODE, Type, label

F = TypeVar("F", bound=Callable[..., Any])


def existing(noun: str) -> Callable[[F], F]:
    """The argument that names one of the things there are."""
    return click.argument(noun, type=_type(noun), shell_complete=names_of(_things(noun)))


def naming(option: str, noun: str, **attributes: Any) -> Callable[[F], F]:
    """An option that names one of the things there are."""
    return click.option(
        option,
        type=_type(noun),
        metavar=noun.upper(),
        shell_complete=names_of(_things(noun)),
        **attributes,
    )


to_owner = click.option(
    "--to",
    "owner",
    type=click.Choice(("kubernetes", "people")),
    required=True,
    help="Who looks after it from now on: its Kubernetes object, or people by netspacectl.",
)


def owner_of(word: str) -> Owner | None:
    """An owner as the API has it."""
    return "kubernetes" if word == "kubernetes" else None


def _type(noun: str) -> Type:
    return NODE if noun == "node" else label(noun)


def _things(noun: str) -> Things:
    things: dict[str, Things] = {
        "fabric": "fabrics",
        "cluster": "clusters",
        "network": "networks",
        "pool": "pools",
        "node": "nodes",
    }
    return things[noun]
