"""Opening network namespaces, and running jobs in them."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from hostnet import (
    Kernel,
    LinkMissing,
    Net,
    Netns,
    NetnsError,
    NetnsMissing,
    NotANetns,
    OutOfMemory,
    OwnNetns,
    anonymous_netns,
    create_netns,
    delete_netns,
    find_link,
    get_link,
    link_index,
    list_links,
    open_netns,
    run_between,
    run_in,
    set_up,
)
from tests.wires import namespaces

OWN = Path("/proc/self/ns/net")


@pytest.fixture
def netns() -> Iterator[Netns]:
    with anonymous_netns() as made:
        yield made


@pytest.fixture
def named(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "pod")
    create_netns(path).close()
    yield path
    delete_netns(path)


def test_a_named_namespace_is_opened_by_its_path(named: str) -> None:
    with open_netns(named) as one, open_netns(named) as other, anonymous_netns() as third:
        assert one.identity == other.identity
        assert one.identity != third.identity


def test_a_namespace_is_opened_by_a_process_in_it(netns: Netns) -> None:
    with open_netns(f"/proc/{os.getpid()}/fd/{netns.fd}") as opened:
        assert opened.identity == netns.identity


def test_a_path_that_is_gone_is_said_to_be_missing(tmp_path: Path) -> None:
    for path in (str(tmp_path / "gone"), "/proc/4194304/ns/net", "", f"{OWN}/deeper"):
        with pytest.raises(NetnsMissing):
            open_netns(path)


def test_what_is_no_network_namespace_is_refused(tmp_path: Path) -> None:
    plain, pipe = tmp_path / "plain", tmp_path / "pipe"
    plain.touch()
    os.mkfifo(pipe)
    for path in (plain, tmp_path, pipe, Path("/proc/self/ns/mnt"), Path("/dev/null")):
        with pytest.raises(NotANetns, match="not a network namespace"):
            open_netns(str(path))


def test_a_process_that_may_open_no_more_files_is_not_told_that_it_is_gone(named: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as open_files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        open_files.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with suppress(OSError):
            for _ in range(100):
                open_files.callback(os.close, os.dup(0))
        for look in (lambda: open_netns(named), lambda: link_index("lo")):
            with pytest.raises(OutOfMemory, match="open files"):
                look()


def test_the_own_namespace_is_refused_unless_it_is_wanted() -> None:
    with pytest.raises(OwnNetns):
        open_netns(str(OWN))
    with open_netns(str(OWN), allow_own=True) as own:
        assert own.identity[1] == OWN.stat().st_ino


def test_no_file_is_left_open_by_a_refusal() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (str(OWN), "/proc/self/ns/mnt", "/dev/null"):
        with pytest.raises(NetnsError):
            open_netns(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_children_do_not_inherit_a_namespace(netns: Netns) -> None:
    assert not os.get_inheritable(netns.fd)


def test_a_name_is_made_once_and_taken_away_any_number_of_times(tmp_path: Path) -> None:
    path = str(tmp_path / "folder" / "pod")
    with create_netns(path) as netns:
        with pytest.raises(NetnsError, match="taken"):
            create_netns(path)
        assert delete_netns(path)
        assert not delete_netns(path)
        assert [link.name for link in run_in(netns, list_links)] == ["lo"]


def test_a_job_leaves_its_caller_where_it_was(netns: Netns) -> None:
    here = OWN.stat().st_ino
    inside = run_in(netns, lambda _: Path("/proc/thread-self/ns/net").stat().st_ino)
    assert inside == netns.identity[1] != here
    assert Path("/proc/thread-self/ns/net").stat().st_ino == here


def test_without_a_namespace_a_job_runs_in_the_processs_own() -> None:
    assert (
        run_in(None, lambda _: Path("/proc/thread-self/ns/net").stat().st_ino) == OWN.stat().st_ino
    )


def test_a_job_between_has_a_socket_on_either_side() -> None:
    with namespaces(2) as (host, pod):
        run_in(host, lambda net: set_up(net, get_link(net, "lo")))

        def look(home: Net, there: Net) -> tuple[bool, bool]:
            return get_link(home, "lo").up, get_link(there, "lo").up

        assert run_in(host, lambda _: run_between(pod, look)) == (True, False)


def test_a_jobs_thread_ends_with_it(netns: Netns) -> None:
    thread = Path(f"/proc/self/task/{run_in(netns, lambda _: threading.get_native_id())}")
    deadline = time.monotonic() + 5
    while thread.exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_what_a_job_raises_reaches_its_caller(netns: Netns) -> None:
    with pytest.raises(LinkMissing, match="cannot find the link eth7: there is none"):
        run_in(netns, lambda net: get_link(net, "eth7"))


def test_sixty_four_jobs_at_once_see_their_own_namespace_each() -> None:
    barrier = threading.Barrier(64, timeout=30)

    async def all_at_once(made: list[Netns]) -> list[tuple[int, list[str]]]:
        kernel = Kernel()

        def job(net: Net) -> tuple[int, list[str]]:
            barrier.wait()
            names = [link.name for link in list_links(net)]
            return Path("/proc/thread-self/ns/net").stat().st_ino, names

        return await asyncio.gather(*(kernel.run(netns, job) for netns in made))

    with namespaces(64) as made:
        seen = asyncio.run(all_at_once(made))
        assert seen == [(netns.identity[1], ["lo"]) for netns in made]


def test_a_cancelled_caller_waits_for_the_end_of_its_job(netns: Netns) -> None:
    ended = []
    begun, cancelled = threading.Event(), threading.Event()

    def slow(net: Net) -> None:
        begun.set()
        assert cancelled.wait(20)
        set_up(net, get_link(net, "lo"))
        ended.append(True)

    async def cancel() -> None:
        task = asyncio.create_task(Kernel().run(netns, slow))
        assert await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        asyncio.get_running_loop().call_later(0.1, cancelled.set)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended

    asyncio.run(cancel())


def test_an_observer_sees_every_change_and_can_make_the_job_fail(netns: Netns) -> None:
    steps: list[str] = []

    def fail(step: str) -> None:
        steps.append(step)
        raise RuntimeError("after the step")

    async def run() -> None:
        await Kernel(fail).run(netns, lambda net: set_up(net, get_link(net, "lo")))

    with pytest.raises(RuntimeError, match="after the step"):
        asyncio.run(run())
    assert steps == ["link set"]
    assert run_in(netns, lambda net: get_link(net, "lo").up)


def test_a_closed_namespace_is_an_error_of_its_own_kind() -> None:
    netns = anonymous_netns()
    netns.close()
    netns.close()
    with pytest.raises(NetnsError):
        run_in(netns, lambda net: find_link(net, "lo"))


def test_the_netlink_library_is_imported_with_the_first_socket_and_stays_whole() -> None:
    program = (
        "import sys, hostnet; assert 'pyroute2' not in sys.modules; "
        "hostnet.load(); assert 'pyroute2.ndb.main' not in sys.modules; "
        "import pyroute2; pyroute2.NDB; pyroute2.IPRoute().close(); "
        "hostnet.run_in(None, lambda net: hostnet.get_link(net, 'lo'))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
