"""What the agent is put together from: turns, hosts, pauses, sockets, what systemd is told."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins import sockets
from cni_plugins.daemon import environment
from cni_plugins.hosts import MOST, Hosts
from cni_plugins.protocol import CniError
from cni_plugins.rounds import LONGEST_PAUSE, Backoff
from cni_plugins.slots import Slots
from netspace.problems import Problem
from tests.unit.cni_doubles import MemoryWiring

# Turns


@given(
    st.integers(1, 4),
    st.integers(0, 6),
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=20),
)
def test_turns_are_bounded_in_order_and_none_is_lost(
    at_once: int, waiting: int, calls: list[tuple[int, bool]]
) -> None:
    """`calls`: how long each works, in turns of the loop, and whether it is cancelled early."""
    slots, began, refused = Slots(), list[int](), list[int]()
    most = 0

    async def one(number: int, work: int) -> None:
        nonlocal most
        try:
            async with slots.one(at_once, waiting):
                began.append(number)
                most = max(most, slots.busy)
                assert slots.waiting <= waiting
                for _ in range(work):
                    await asyncio.sleep(0)
        except CniError as error:
            assert error.code == 11
            refused.append(number)

    async def all_of_them() -> None:
        tasks = []
        for number, (work, cancelled) in enumerate(calls):
            tasks.append(asyncio.ensure_future(one(number, work)))
            await asyncio.sleep(0)
            if cancelled:
                tasks[-1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(all_of_them())
    assert most <= at_once
    assert began == sorted(began)
    assert (slots.busy, slots.waiting) == (0, 0)
    lost = {number for number, (_, cancelled) in enumerate(calls) if not cancelled}
    assert lost <= {*began, *refused}


# Hosts


def written(path: Path, cluster: str) -> str:
    path.write_text(f"cluster: {cluster}\nnode: n\n")
    return str(path)


def test_a_host_is_kept_as_long_as_its_file_stays_as_it_is(tmp_path: Path) -> None:
    async def test() -> None:
        hosts, path = Hosts(MemoryWiring(), {"A": "b"}), tmp_path / "node.yaml"
        with hosts.using(written(path, "one")) as first, hosts.using(str(path)) as second:
            assert first is second
            assert (first.host.cluster, first.host.environ) == ("one", {"A": "b"})
            with hosts.using(written(path, "other")) as third:
                assert (third.host.cluster, first.host.cluster) == ("other", "one")
        hosts.reload()
        with hosts.using(str(path)) as fourth:
            assert fourth is not third
        await hosts.close()

    asyncio.run(test())


def test_only_so_many_hosts_are_kept(tmp_path: Path) -> None:
    async def test() -> None:
        hosts = Hosts(MemoryWiring(), {})
        paths = [written(tmp_path / f"{number}.yaml", "c") for number in range(MOST + 3)]
        kept = {}
        for path in paths:
            with hosts.using(path) as kept[path]:
                pass
        with hosts.using(paths[-1]) as last, hosts.using(paths[0]) as first:
            assert last is kept[paths[-1]]
            assert first is not kept[paths[0]]
        await hosts.close()

    asyncio.run(test())


def test_a_file_that_is_missing_is_a_fault_until_it_is_there(tmp_path: Path) -> None:
    async def test() -> None:
        hosts, path = Hosts(MemoryWiring(), {}), tmp_path / "node.yaml"
        with pytest.raises(Problem, match="cannot be read"), hosts.using(str(path)):
            pass
        with hosts.using(written(path, "c")) as kept:
            assert kept.config.cluster == "c"
        await hosts.close()

    asyncio.run(test())


# Pauses


@given(st.integers(0, 30), st.integers())
def test_pauses_grow_to_a_bound_and_begin_anew(failures: int, seed: int) -> None:
    backoff = Backoff(random.Random(seed))
    pauses = [backoff.pause() for _ in range(failures)]
    assert all(0 < pause <= LONGEST_PAUSE for pause in pauses)
    assert all(later >= earlier / 2 for earlier, later in itertools.pairwise(pauses))
    backoff.reset()
    assert backoff.pause() <= 0.5


# Sockets


def test_the_socket_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "run" / "cni.sock"
    before = os.umask(0)
    try:
        listener, handed_over = sockets.listener(path)
    finally:
        os.umask(before)
    with listener:
        assert (path.stat().st_mode & 0o777, handed_over) == (0o600, False)
        assert [entry.name for entry in path.parent.iterdir()] == ["cni.sock"]
        with pytest.raises(Problem, match="another agent listens there"):
            sockets.listener(path)
    sockets.listener(path)[0].close()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cni.sock").write_text("precious")
    with pytest.raises(Problem, match="no socket"):
        sockets.listener(tmp_path / "cni.sock")
    assert (tmp_path / "cni.sock").read_text() == "precious"


@pytest.mark.parametrize(
    "told", [{"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {"LISTEN_FDS": "x"}, {"LISTEN_PID": "y"}]
)
def test_a_socket_that_was_meant_for_another_process_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, str]
) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    listener, handed_over = sockets.listener(tmp_path / "cni.sock")
    listener.close()
    assert not handed_over
    assert "LISTEN_FDS" not in os.environ


def test_the_kernel_says_who_connects() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert sockets.uid_of_peer(one) == os.geteuid()


def test_systemd_is_told_where_it_listens_and_nobody_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    sockets.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    sockets.notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("")  # an abstract name that the kernel chooses
        name = "@" + systemd.getsockname()[1:].decode()
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        sockets.notify("READY=1", "STATUS=x")
        systemd.settimeout(5)
        assert systemd.recv(100) == b"READY=1\nSTATUS=x"


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_signs_of_life_come_twice_as_often_as_systemd_wants_them(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], seconds: float | None
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert sockets.watchdog_interval() == seconds


def test_other_ipam_plugins_get_the_environment_without_what_is_not_theirs() -> None:
    given = {"PATH": "/bin", "CNI_COMMAND": "ADD", "LISTEN_FDS": "1", "NOTIFY_SOCKET": "/n"}
    assert environment(given) == {"PATH": "/bin"}
