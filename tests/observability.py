"""What packaging/observability and docs/metrics.md say, read for tests."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

from lab import programs

FOLDER = programs.CLONE / "packaging" / "observability"
METRICS_PAGE = programs.CLONE / "docs" / "metrics.md"

_ROW = re.compile(r"^\| `(netspace_\w+)` \| (\w+) \|([^|]*)\| [^|]+ \|$", re.MULTILINE)
_SELECTOR = re.compile(r"\b(netspace_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")


@dataclass(frozen=True)
class Query:
    """A query in PromQL, and where it stands."""

    where: str
    expression: str

    @property
    def selectors(self) -> list[tuple[str, set[str]]]:
        """Each metric, with the labels that it is chosen by."""
        return [
            (name, set(_MATCHER.findall(matchers)))
            for name, matchers in _SELECTOR.findall(self.expression)
        ]


def documented() -> dict[str, tuple[str, set[str]]]:
    """Type and labels of every metric on the page."""
    return {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in _ROW.findall(METRICS_PAGE.read_text())
    }


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries() -> list[Query]:
    """Of the dashboard, with its variables filled in, and of the rules."""
    found = []
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$cluster", "east").replace("$__rate_interval", "5m")
            assert "$" not in query, query
            found.append(Query(panel["title"], query))
    return [
        *found,
        *(Query(rule.get("alert", "a record"), rule["expr"]) for rule in rules()),
    ]
