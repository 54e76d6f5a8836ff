"""The demo as a user sees it: its checks pass, it can be left standing, it leaves nothing."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from cni_plugins import agent_status
from lab import launcher, place, programs, topology

DEMO = [sys.executable, "-u", "-m", "lab.demo"]


@pytest.fixture(autouse=True)
def nothing_before_and_after() -> Iterator[None]:
    assert place.left() == [], "a demo stands already; ./run demo --end ends it"
    yield
    place.end()


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *arguments], cwd=programs.CLONE, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=400, check=False,
    )  # fmt: skip


def test_every_check_passes_and_a_kept_lab_can_be_looked_at_and_ended() -> None:
    done = demo("--keep")
    print(done.stdout)
    last = done.stdout.splitlines()[-1]
    found = re.fullmatch(r"demo: (\d+) checks passed, 0 failed", last)
    assert done.returncode == 0
    assert found is not None
    assert int(found[1]) >= 29

    for node in place.NODES:
        status = json.loads(agent_status.ask(place.FOLDER / node / launcher.SOCKET, "status"))
        assert status["calls"]["ADD"]["done"] >= 3, "the executables did not ask the agent"
        assert status["attachments"] == 1

    pods = [name for name in topology.standing() if name.startswith(topology.netns("pod-"))]
    assert len(pods) == 2
    (ping,) = re.findall(r"\./run lab (ip netns exec .* ping .*)", done.stdout)
    subprocess.run(ping.split(), check=True, env=programs.environment(), stdout=subprocess.DEVNULL)
    (listing,) = re.findall(r"\./run lab (netspacectl .* address list)", done.stdout)
    said = subprocess.run(
        listing.split(), check=True, env=programs.environment(), stdout=subprocess.PIPE, text=True
    ).stdout
    assert "web-1" in said
    assert "web-2" in said

    again = demo()
    assert again.returncode == 1
    assert "./run demo --end" in again.stdout

    assert demo("--end").returncode == 0
    assert place.left() == []


def test_an_interrupted_demo_leaves_nothing() -> None:
    with subprocess.Popen(
        DEMO, cwd=programs.CLONE, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "netspacectl apply" in line:
                break
        assert place.left() != []
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert "interrupted" in process.stdout.read()
        assert process.wait(30) == 130
    assert place.left() == []


def test_without_a_compiler_the_complete_plugins_are_run_and_it_is_said_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> None:
        raise programs.ProgramMissing(launcher.COMPILER)

    monkeypatch.setattr(launcher, "kept", missing)
    executables, why = place.executables()
    assert executables == {name: programs.VENV / "bin" / name for name in launcher.NAMES}
    assert "'gcc' is missing" in why


def test_an_option_that_is_not_understood_is_refused() -> None:
    done = demo("--fast")
    assert done.returncode == 2
    assert "--keep" in done.stdout
