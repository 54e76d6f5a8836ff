"""Whom the federation server's two doors let in, and what the page for people says of it."""

from __future__ import annotations

import re
from pathlib import Path

from federation.server import api, door
from netspace.callers import Role

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
SECTION = PAGE.partition("\n## Federation servers\n")[2].partition("\n## ")[0]
TABLES = [
    dict(re.findall(r"(?m)^\| `((?:GET|POST|PUT|PATCH|DELETE) [^`]+)` \| ([^|]+) \|", part))
    for part in SECTION.split("At the second door")
]


def test_the_page_shows_whom_the_first_door_lets_in() -> None:
    assert TABLES[0] == {
        f"{route.method} {route.path.removeprefix('/v1')}": route.who.words()
        for route in api.ROUTES
    }


def test_the_page_shows_whom_the_second_door_lets_in() -> None:
    assert TABLES[1] == {
        f"{route.method} {route.path.removeprefix('/v1')}": (
            "anybody" if route.who.roles is None else "members"
        )
        for route in door.ROUTES
    }


def test_nobody_but_members_is_named_at_the_second_door() -> None:
    members: frozenset[Role] = frozenset({"member"})
    assert {route.who.roles for route in door.ROUTES} == {None, members}


def test_nodes_speak_for_themselves_alone() -> None:
    named = [
        route
        for route in api.ROUTES
        if "{node}" in route.path and "node" in (route.who.roles or ())
    ]
    assert len(named) == 4
    assert {route.who.node for route in named} == {"path"}
