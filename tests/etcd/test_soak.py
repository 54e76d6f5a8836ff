"""A short soak: servers, etcd members, clients and faults, and a server that is caught breaking a
rule."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from soak import course
from soak.__main__ import explained
from soak.checker import check
from soak.history import History
from soak.verdicts import summary


def soaked(history: History, folder: Path, **how: object) -> list[str]:
    """Runs it; what the checker found, with the operations concerned."""
    kept = folder / "history.jsonl"
    try:
        asyncio.run(course.run(history, folder, print, **how))  # type: ignore[arg-type]
    finally:
        history.save(kept)
        print("\n".join(course.counts(history)))
    verdicts = check(history.operations, history.looks)
    print(summary(history.operations, verdicts))
    return [line for verdict in verdicts for line in explained(verdict, history.operations)]


def test_no_address_is_given_twice_lost_or_leaked_while_servers_etcd_and_links_fail(
    tmp_path: Path,
) -> None:
    history = course.new_history(seed=20, minutes=0.75)
    assert soaked(history, tmp_path) == [], f"the whole history is in {tmp_path}"
    outcomes = Counter((each.kind, each.outcome) for each in history.operations)
    assert outcomes["allocate", "ok"] > 300
    assert outcomes["release", "ok"] > 300
    assert len(history.faults) >= 10
    assert len(history.looks) >= 8


def test_a_server_that_frees_what_was_given_again_is_caught(tmp_path: Path) -> None:
    history = course.new_history(seed=1, minutes=0.1, servers=1, members=1)
    found = soaked(history, tmp_path, module="tests.etcd.careless_server", faults=False)
    rules = {line.split(": ")[1] for line in found if not line.startswith(" ")}
    assert rules & {"missing", "held-while-given", "other-answer"}
    assert "lost" in {line.split(": ")[0] for line in found if not line.startswith(" ")}
