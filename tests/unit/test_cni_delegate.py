"""Calling another IPAM plugin: what it gets, what is taken from it, what becomes of its faults."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from cni_plugins import delegate
from cni_plugins.protocol import CniError, Invocation, parse

RESULT = {"cniVersion": "1.0.0", "ips": [{"address": "10.5.0.5/24", "gateway": "10.5.0.1"}]}
CONFIG = {"cniVersion": "1.0.0", "name": "net", "type": "netspace", "ipam": {"type": "other"}}


class Plugin:
    """An executable of this script in a folder of CNI_PATH."""

    def __init__(self, folder: Path, script: str) -> None:
        self.folder = folder
        (folder / "other").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "other").chmod(0o755)

    def invocation(self) -> Invocation:
        environ = {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": "/var/run/netns/pod",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": f"/nonexistent:{self.folder}",
        }
        return parse(environ, json.dumps(CONFIG).encode())

    def run(self, command: str = "ADD", **environ: str) -> bytes:
        return asyncio.run(delegate.run(self.invocation(), "other", command, environ))

    def error(self) -> CniError:
        with pytest.raises(CniError) as caught:
            asyncio.run(delegate.add(self.invocation(), "other", {}))
        return caught.value


def test_it_gets_the_whole_configuration_and_our_environment_with_another_command(
    tmp_path: Path,
) -> None:
    plugin = Plugin(tmp_path, f"cat > {tmp_path}/stdin; env > {tmp_path}/env; pwd; true")
    assert plugin.run("DEL", CNI_COMMAND="ADD", CNI_IFNAME="eth0", CNI_ARGS="A=1") == b"/\n"
    assert json.loads((tmp_path / "stdin").read_text()) == CONFIG
    environ = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert {key: environ[key] for key in environ if key.startswith("CNI_")} == {
        "CNI_COMMAND": "DEL",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "A=1",
    }


@pytest.mark.parametrize(
    ("ours", "its"),
    [
        ({"LD_LIBRARY_PATH": "/x"}, {"LD_LIBRARY_PATH": "/x"}),
        ({"LD_LIBRARY_PATH": "/b", "LD_LIBRARY_PATH_ORIG": "/x"}, {"LD_LIBRARY_PATH": "/x"}),
        ({"LD_LIBRARY_PATH": "/b", "_PYI_ARCHIVE_FILE": "/a"}, {}),
    ],
)
def test_a_bundles_library_path_is_not_passed_on(ours: dict[str, str], its: dict[str, str]) -> None:
    assert delegate.child_environment(ours, "ADD") == {**its, "CNI_COMMAND": "ADD"}


def test_its_addresses_are_read(tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, f"echo '{json.dumps(RESULT)}'; echo log >&2")
    result = asyncio.run(delegate.add(plugin.invocation(), "other", {}))
    assert [(ip.address, ip.gateway) for ip in result.ips] == [("10.5.0.5/24", "10.5.0.1")]


def test_it_is_not_waited_for_once_it_ended_whatever_it_left_running(tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, f"sleep 20 & echo '{json.dumps(RESULT)}'")
    begun = time.monotonic()
    asyncio.run(delegate.add(plugin.invocation(), "other", {}))
    assert time.monotonic() - begun < 15


def test_its_own_error_is_passed_on(tmp_path: Path) -> None:
    said = {"code": 102, "msg": "no addresses", "details": "in range"}
    error = Plugin(tmp_path, f"echo '{json.dumps(said)}'; exit 1").error()
    assert (error.code, error.details) == (102, "in range")
    assert "no addresses" in error.msg


@pytest.mark.parametrize("output", ["", "panic: x", "{}", '{"code": "x", "msg": 1}', "[1"])
def test_failing_without_an_error_object_is_error_5(tmp_path: Path, output: str) -> None:
    assert Plugin(tmp_path, f"echo '{output}'; exit 3").error().code == 5


@pytest.mark.parametrize(
    "answer",
    ["", "x", "[]", "{}", '{"cniVersion": "1.0.0"}', '{"cniVersion": "1.0.0", "ips": [{}]}'],
)
def test_an_answer_that_is_no_ipam_result_is_error_6(tmp_path: Path, answer: str) -> None:
    assert Plugin(tmp_path, f"echo '{answer}'").error().code == 6


def test_one_that_does_not_end_is_killed_and_error_11(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delegate, "TIMEOUT", 2)
    plugin = Plugin(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    assert plugin.error().code == 11
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_one_that_cannot_be_executed_is_not_found(tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, "true")
    (tmp_path / "other").chmod(0o644)
    error = plugin.error()
    assert (error.code, "other" in error.msg) == (7, True)
    (tmp_path / "other").unlink()
    (tmp_path / "other").mkdir()
    assert plugin.error().code == 7


def test_a_cancelled_call_leaves_no_process(tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60")

    async def cancelled() -> Any:
        task = asyncio.ensure_future(delegate.run(plugin.invocation(), "other", "ADD", {}))
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
