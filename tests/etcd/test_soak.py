"""A short soak: servers, etcd members, clients and faults, and a server that is caught breaking a
rule."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from lab import probe
from soak import course
from soak.__main__ import explained
from soak.checker import check
from soak.history import History, Setting, load
from soak.links import laid
from soak.verdicts import summary


def soaked(history: History, folder: Path, **how: object) -> tuple[History, list[str]]:
    """Runs it in a process of its own, since a thread that was there before stays outside the
    namespaces; what happened, and what the checker found, with the operations concerned."""
    kept = folder / "history.jsonl"
    process = get_context("spawn").Process(target=_soak, args=(history.setting, folder, kept, how))
    process.start()
    process.join()
    assert process.exitcode == 0, "the soak did not come to its end"
    history = load(kept)
    print("\n".join(course.counts(history)))
    verdicts = check(history.operations, history.looks)
    print(summary(history.operations, verdicts))
    return history, [line for each in verdicts for line in explained(each, history.operations)]


def _soak(setting: Setting, folder: Path, kept: Path, how: dict[str, Any]) -> None:
    history = History(setting)
    try:
        asyncio.run(course.run(history, folder, print, **how))
    finally:
        history.save(kept)


def test_no_address_is_given_twice_lost_or_leaked_while_servers_etcd_and_links_fail(
    tmp_path: Path,
) -> None:
    history, found = soaked(course.new_history(seed=20, minutes=0.4), tmp_path)
    assert found == [], f"the whole history is in {tmp_path}"
    outcomes = Counter((each.kind, each.outcome) for each in history.operations)
    assert outcomes["allocate", "ok"] > 100
    assert outcomes["release", "ok"] > 100
    assert outcomes["report", "ok"] > 10
    assert outcomes["reshape", "ok"] >= 1
    assert len(history.faults) >= 8
    assert len(history.looks) >= 8
    moved = {"flex", "inner", "kept"}
    sizes = {(pool.name, pool.size) for look in history.looks for pool in look.pools}
    assert all(len({size for name, size in sizes if name == each}) > 1 for each in moved)
    assert sum(look.findings is not None for look in history.looks) == 2


def test_a_pulled_cable_loses_what_is_sent_until_it_is_plugged_in_again() -> None:
    if reason := probe.kernel().no_namespaces:
        pytest.skip(f"network namespaces: {reason}")
    before = Path("/proc/thread-self/ns/net").readlink()
    with laid(["s1", "etcd-a"]) as (links, _):
        assert links is not None
        assert course.where(links, "").startswith("in network namespaces of its own")
        address = links.address("etcd-a")
        with links.inside("etcd-a"):
            listening = socket.create_server((address, 0))
        with links.inside("s1"):
            near = socket.create_connection(listening.getsockname(), 5)
        far, (host, _port) = listening.accept()
        assert links.name_of(host) == "s1"
        with listening, near, far:
            links.pull("etcd-a")
            near.send(b"x")
            far.settimeout(0.2)
            with pytest.raises(TimeoutError):
                far.recv(1)
            links.plug()
            far.settimeout(10)
            assert far.recv(1) == b"x"
    assert Path("/proc/thread-self/ns/net").readlink() == before


def test_without_root_it_runs_on_loopback_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "kernel", lambda: probe.Kernel("not root", "not root"))
    with laid(["s1"]) as (links, reason):
        assert links is None
        assert course.where(links, reason).startswith("on loopback, with proxies (not root")


def test_a_server_that_frees_what_was_given_again_is_caught(tmp_path: Path) -> None:
    history = course.new_history(seed=1, minutes=0.1, servers=1, members=1)
    _, found = soaked(history, tmp_path, module="tests.etcd.careless_server", faults=False)
    rules = {line.split(": ")[1] for line in found if not line.startswith(" ")}
    assert rules & {"missing", "held-while-given", "other-answer"}
    assert "lost" in {line.split(": ")[0] for line in found if not line.startswith(" ")}
