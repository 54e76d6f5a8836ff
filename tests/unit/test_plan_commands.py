"""`plan`, `apply` and `export` on the command line: what is asked, shown and answered."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from netspace.messages import ChangePool, ResizePool
from netspace.problems import Problem
from netspacectl import exits
from tests.unit.netspacectl_double import MemoryClient, Terminal, network, pool

Capture = pytest.CaptureFixture[str]
BLUE = """
version: 1
clusters:
  east:
    networks:
      vlan910:
        vlan: 910
        ipv4: 10.91.0.0/24
        ipv6: fd00:91::/64
        gateway4: 10.91.0.1
        gateway6: fd00:91::1
        pools:
          tenant-a: {kind: netspace, size: %d, namespaces: [%s]}
"""
SAME = BLUE % (64, "team-a")
LARGER = BLUE % (80, "team-a, team-b")
READING = ("fabrics", "clusters", "networks", "pools")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """One at a server with cluster east, network vlan910 and pool tenant-a."""
    monkeypatch.delenv("NETSPACE_CLUSTER", raising=False)
    terminal = Terminal(MemoryClient("east"))
    terminal.client.network_table["vlan910"] = network()
    terminal.client.pool_table["tenant-a"] = pool()
    return terminal


def changes(terminal: Terminal) -> list[tuple[Any, ...]]:
    return [asked for asked in terminal.client.asked if asked[0] not in READING]


def file(folder: Path, text: str) -> str:
    path = folder / "plan.yaml"
    path.write_text(text)
    return str(path)


class TestApply:
    def test_a_dry_run_shows_the_difference_and_says_so_by_its_status(
        self, terminal: Terminal, capsys: Capture, tmp_path: Path
    ) -> None:
        assert terminal.run("apply", "-f", file(tmp_path, LARGER), "--dry-run") == exits.DIFFERS
        assert capsys.readouterr().out.splitlines() == [
            "~ pool east/tenant-a",
            "    namespaces: + team-b",
            "~ pool east/tenant-a: grow by 16 addresses",
            "2 to change",
        ]
        assert changes(terminal) == []

    @pytest.mark.parametrize("options", [[], ["--dry-run"], ["--yes"], ["--prune", "--yes"]])
    def test_where_all_is_as_declared_there_is_nothing_to_do(
        self, terminal: Terminal, capsys: Capture, tmp_path: Path, options: list[str]
    ) -> None:
        assert terminal.run("apply", "-f", file(tmp_path, SAME), *options) == 0
        assert capsys.readouterr().out == "nothing to do\n"
        assert changes(terminal) == []

    def test_steps_are_carried_out_on_the_revisions_that_were_read(
        self, terminal: Terminal, capsys: Capture, tmp_path: Path
    ) -> None:
        assert terminal.run("apply", "-f", file(tmp_path, LARGER), "--yes") == 0
        assert changes(terminal) == [
            (
                "change_pool",
                "east",
                "tenant-a",
                ChangePool(revision=13, namespaces=["team-a", "team-b"]),
            ),
            ("grow_pool", "east", "tenant-a", ResizePool(revision=13, size="16")),
        ]
        assert capsys.readouterr().out.splitlines()[-2:] == [
            "done 1/2: ~ pool east/tenant-a",
            "done 2/2: ~ pool east/tenant-a: grow by 16 addresses",
        ]

    @pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("\n", 1), ("", 1)])
    def test_it_asks_before_anything_is_changed(
        self,
        terminal: Terminal,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        answer: str,
        status: int,
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        assert terminal.run("apply", "-f", file(tmp_path, LARGER)) == status
        assert (changes(terminal) == []) is (status == 1)

    def test_it_stops_at_the_first_failure_and_says_what_was_done(
        self,
        terminal: Terminal,
        capsys: Capture,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        async def grow(*_: Any) -> None:
            raise Problem("changed", "pool tenant-a was changed since you read it")

        monkeypatch.setattr(terminal.client, "grow_pool", grow)
        text = LARGER + "          later: {kind: netspace, size: 8}\n"
        assert terminal.run("apply", "-f", file(tmp_path, text), "--yes") == exits.AGAIN
        assert capsys.readouterr().err == (
            "netspacectl: ~ pool east/tenant-a: grow by 16 addresses: pool tenant-a was changed"
            " since you read it; 1 of 3 steps were carried out, the one after it was not:"
            " apply again to go on from there\n"
        )
        assert [asked[0] for asked in changes(terminal)] == ["change_pool"]

    def test_what_was_changed_since_it_was_read_is_not_deleted(
        self,
        terminal: Terminal,
        capsys: Capture,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        class Person(io.StringIO):
            def readline(self, *_: Any) -> str:  # type: ignore[override]
                terminal.client.pool_table["tenant-a"] = pool(revision=14)
                return "yes\n"

        monkeypatch.setattr("sys.stdin", Person())
        text = "version: 1\nclusters: {east: {}}"
        assert terminal.run("apply", "-f", file(tmp_path, text), "--prune") == exits.AGAIN
        assert "pool east/tenant-a was changed since it was read" in capsys.readouterr().err
        assert "delete_pool" not in [asked[0] for asked in terminal.client.asked]

    @pytest.mark.parametrize("options", [["--yes"], ["--dry-run"]])
    def test_where_anything_is_refused_nothing_is_done(
        self, terminal: Terminal, capsys: Capture, tmp_path: Path, options: list[str]
    ) -> None:
        text = LARGER.replace("kind: netspace", "kind: default").replace(
            ", namespaces: [team-a, team-b]", ""
        )
        assert terminal.run("apply", "-f", file(tmp_path, text), *options) == exits.REFUSED
        captured = capsys.readouterr()
        assert captured.out.startswith("! pool east/tenant-a: kind never changes: netspace ->")
        assert captured.err == (
            "netspacectl: 1 of what is declared cannot be had: nothing was changed\n"
        )
        assert changes(terminal) == []

    def test_each_fault_of_a_file_has_a_line(
        self, terminal: Terminal, capsys: Capture, tmp_path: Path
    ) -> None:
        path = file(tmp_path, "version: 1\nclusters: {east: {net: {}, networks: {a: {vlan: 0}}}}")
        assert terminal.run("apply", "-f", path) == exits.USAGE
        assert capsys.readouterr().err.splitlines() == [
            f"{path}: clusters.east.net: there is no such key: use networks",
            f"{path}: clusters.east.networks.a.vlan: expected `int` >= 1",
            f"netspacectl: {path}: 2 faults, nothing was changed",
        ]
        assert terminal.client.asked == []

    @pytest.mark.parametrize(("options", "status"), [(["--yes"], 0), ([], 1)])
    def test_a_plan_from_the_input_cannot_be_asked_about(
        self,
        terminal: Terminal,
        monkeypatch: pytest.MonkeyPatch,
        options: list[str],
        status: int,
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(LARGER.encode())))
        assert terminal.run("apply", "-f", "-", *options) == status
        assert len(changes(terminal)) == (0 if status else 2)

    def test_a_file_that_there_is_not_is_a_usage_error(
        self, terminal: Terminal, capsys: Capture
    ) -> None:
        assert terminal.run("apply", "-f", "/nowhere/plan.yaml") == exits.USAGE
        assert "/nowhere/plan.yaml cannot be read: No such file" in capsys.readouterr().err

    def test_one_cluster_of_a_file_can_be_applied_alone(
        self, terminal: Terminal, capsys: Capture, tmp_path: Path
    ) -> None:
        path = file(tmp_path, SAME + "  west: {}\n")
        assert terminal.run("apply", "-f", path, "--dry-run") == exits.DIFFERS
        capsys.readouterr()
        assert terminal.run("apply", "-f", path, "-c", "east", "--dry-run") == 0
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == (
            "nothing to do\n",
            "only cluster east counts, not west\n",
        )
        assert terminal.run("apply", "-f", path, "-c", "south", "--dry-run") == exits.USAGE

    def test_programs_get_every_step_and_whether_it_was_done(
        self, terminal: Terminal, capsys: Capture, tmp_path: Path
    ) -> None:
        path = file(tmp_path, LARGER)
        assert terminal.run("apply", "-f", path, "--dry-run", "-o", "json") == exits.DIFFERS
        told = json.loads(capsys.readouterr().out)
        assert [step["done"] for step in told["steps"]] == [None, None]
        assert told["steps"][1] == {
            "action": "grow",
            "kind": "pool",
            "cluster": "east",
            "name": "tenant-a",
            "request": {"size": "16"},
            "changed": [],
            "done": None,
        }
        assert terminal.run("apply", "-f", path, "--yes", "-o", "yaml") == 0
        told = yaml.safe_load(capsys.readouterr().out)
        assert [step["done"] for step in told["steps"]] == [True, True]


class TestExport:
    def test_what_is_exported_changes_nothing_when_it_is_applied(
        self, terminal: Terminal, capsys: Capture, tmp_path: Path
    ) -> None:
        assert terminal.run("export") == 0
        text = capsys.readouterr().out
        assert yaml.safe_load(text)["clusters"]["east"]["networks"]["vlan910"]["pools"] == {
            "tenant-a": {
                "kind": "netspace",
                "ranges": ["10.91.0.2-10.91.0.65"],
                "namespaces": ["team-a"],
            }
        }
        assert terminal.run("apply", "-f", file(tmp_path, text), "--dry-run") == 0
        assert terminal.run("export", "-o", "json", "--to", str(tmp_path / "plan.json")) == 0
        assert terminal.run("apply", "-f", str(tmp_path / "plan.json"), "--dry-run") == 0

    def test_a_cluster_that_there_is_not_is_not_found(self, terminal: Terminal) -> None:
        assert terminal.run("export", "-c", "west") == exits.NOT_FOUND
        assert terminal.run("plan", "-c", "west") == exits.NOT_FOUND

    def test_a_file_stays_as_it_was_where_the_server_does_not_answer(
        self, terminal: Terminal, tmp_path: Path
    ) -> None:
        kept = tmp_path / "kept.yaml"
        kept.write_text("as it was")
        terminal.client.problem = Problem("unavailable", "nobody answers")
        assert terminal.run("export", "--to", str(kept)) == exits.AGAIN
        assert kept.read_text() == "as it was"


class TestPlan:
    def test_programs_get_the_messages_with_figures_and_nested_pools(
        self, terminal: Terminal, capsys: Capture
    ) -> None:
        terminal.client.pool_table["db"] = pool(
            name="db", kind="application", parent="tenant-a", ranges=["10.91.0.2-10.91.0.9"]
        )
        assert terminal.run("plan", "-o", "json") == 0
        (east,) = json.loads(capsys.readouterr().out)["clusters"]
        (blue,) = east["networks"]
        assert (blue["free"], blue["largest_free_block"], blue["fragmentation"]) == (
            "189",
            "189",
            0.0,
        )
        assert blue["free_ranges"] == ["10.91.0.66-10.91.0.254"]
        (tenant,) = blue["pools"]
        assert [inner["name"] for inner in tenant["pools"]] == ["db"]

    def test_the_picture_goes_to_the_output_or_to_a_file(
        self, terminal: Terminal, capsys: Capture, tmp_path: Path
    ) -> None:
        assert terminal.run("plan", "-o", "svg") == 0
        shown = capsys.readouterr().out
        assert terminal.run("plan", "-o", "svg", "--to", str(tmp_path / "plan.svg")) == 0
        assert (tmp_path / "plan.svg").read_text() == shown
        assert shown.startswith("<svg ")

    def test_only_a_plan_can_be_drawn(self, terminal: Terminal) -> None:
        assert terminal.run("pool", "list", "-o", "svg") == exits.USAGE

    def test_a_server_without_clusters_has_an_empty_plan(
        self, terminal: Terminal, capsys: Capture
    ) -> None:
        terminal.client.cluster_names = []
        assert terminal.run("plan") == 0
        assert capsys.readouterr().out == "no clusters\n"
