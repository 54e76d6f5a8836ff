"""Programs that wait for what to do to the firewall, in a namespace of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostnet import KernelError, Net, anonymous_netns, run_in
from hostnet import firewall as fw
from hostnet.firewall import BACK_ENDS, Firewall
from hostnet.netns import Netns
from hostnet.warm import WarmRestores
from lab import programs


@pytest.fixture
def netns() -> Iterator[Netns]:
    with anonymous_netns() as made:
        yield made


@pytest.fixture(params=BACK_ENDS)
def pair(request: pytest.FixtureRequest, netns: Netns) -> list[Firewall]:
    """One back end's of both families."""
    found = []
    for family, name in ((4, "iptables"), (6, "ip6tables")):
        words = [fw._program(f"{name}-{request.param}-{verb}") for verb in ("save", "restore")]
        if not all(words):
            pytest.skip("not installed")
        found.append(Firewall(family, request.param, *(each or "" for each in words)))  # type: ignore[arg-type]
    try:
        run_in(netns, lambda net: feed(net, found, 0))
    except KernelError as error:
        pytest.skip(str(error))
    return found


def feed(net: Net, pair: list[Firewall], value: int) -> None:
    """Another program changes both families' chain."""
    for each in pair:
        fw.restore(net, each, text(value))


def text(value: int) -> str:
    rule = f"-A NETSPACE-TRIAL -j MARK --set-xmark {value:#x}/0xff"
    return f"*mangle\n:NETSPACE-TRIAL - [0:0]\n{rule}\nCOMMIT\n"


def marks(netns: Netns, pair: list[Firewall]) -> list[list[str] | None]:
    def read(net: Net) -> list[list[str] | None]:
        found = [fw.read_firewall(net, each) for each in pair]
        return [present.rules("mangle", "NETSPACE-TRIAL") for present in found]

    return run_in(netns, read)


def rule(value: int) -> list[str]:
    return [f"-j MARK --set-xmark {value:#x}/0xff"]


def test_what_waits_holds_nothing_and_does_what_it_is_given_later(
    netns: Netns, pair: list[Firewall]
) -> None:
    warm = WarmRestores()
    run_in(netns, lambda _: warm.prepare(pair))
    assert set(warm.waiting) == set(pair)
    # Others change the same chain meanwhile; the one that waited does not bring the old back.
    run_in(netns, lambda net: feed(net, pair, 1))
    assert marks(netns, pair) == [rule(1)] * 2
    run_in(netns, lambda net: warm.restore(net, {each: text(2) for each in pair}))
    assert marks(netns, pair) == [rule(2)] * 2
    assert warm.waiting == {}
    run_in(netns, lambda net: warm.restore(net, {each: text(3) for each in pair}))
    assert marks(netns, pair) == [rule(3)] * 2, "also where none waited"


def test_one_that_died_is_replaced(netns: Netns, pair: list[Firewall]) -> None:
    warm = WarmRestores()
    run_in(netns, lambda _: warm.prepare(pair))
    killed = set(warm.waiting.values())
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    run_in(netns, lambda net: warm.restore(net, {each: text(4) for each in pair}))
    assert marks(netns, pair) == [rule(4)] * 2
    run_in(netns, lambda _: warm.prepare(pair))
    fresh = warm.waiting[pair[0]]
    os.kill(fresh, signal.SIGKILL)
    os.waitid(os.P_PID, fresh, os.WEXITED | os.WNOWAIT)
    run_in(netns, lambda _: warm.prepare(pair))
    assert fresh not in warm.waiting.values() and len(warm.waiting) == 2
    warm.close()


def test_a_text_that_is_refused_is_told_and_changes_nothing(
    netns: Netns, pair: list[Firewall]
) -> None:
    warm = WarmRestores()
    run_in(netns, lambda _: warm.prepare(pair))
    wrong = text(5).replace("COMMIT", "-A NETSPACE-TRIAL -j NO-SUCH-TARGET\nCOMMIT")
    with pytest.raises(KernelError, match="change the rules by"):
        run_in(netns, lambda net: warm.restore(net, {pair[0]: wrong}))
    assert marks(netns, pair) == [rule(0)] * 2
    warm.close()


def test_what_waits_for_a_firewall_that_is_not_used_any_more_is_ended(
    netns: Netns, pair: list[Firewall]
) -> None:
    warm = WarmRestores()
    run_in(netns, lambda _: warm.prepare(pair))
    pids = warm.waiting
    run_in(netns, lambda _: warm.prepare(pair[:1]))
    assert set(warm.waiting) == {pair[0]}
    assert not alive(pids[pair[1]])
    warm.close()
    assert not alive(pids[pair[0]])


def test_what_waits_ends_with_its_maker_however_that_ends(
    netns: Netns, pair: list[Firewall]
) -> None:
    program = (
        "import sys, time\n"
        "from hostnet.firewall import Firewall\n"
        "from hostnet.warm import WarmRestores\n"
        f"warm = WarmRestores()\nwarm.prepare([{pair[0]!r}])\n"
        "print(*warm.waiting.values(), flush=True)\ntime.sleep(60)\n"
    )
    command = [sys.executable, "-c", program]
    maker = run_in(
        netns,
        lambda _: subprocess.Popen(
            command,
            cwd=programs.CLONE,
            env=programs.environment(),
            stdout=subprocess.PIPE,
            text=True,
        ),
    )
    with maker:
        assert maker.stdout is not None
        pid = int(maker.stdout.readline())
        assert alive(pid)
        maker.kill()
    deadline = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert marks(netns, pair) == [rule(0)] * 2


def alive(pid: int) -> bool:
    """Whether it runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
