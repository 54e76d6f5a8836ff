"""The commands of ./run, where tests go, and how their results are added up."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import __main__ as commands
from lab import lint, programs, testing
from lab.probe import Kernel
from lab.testing import Counts

FOLDERS = ("tests/unit", "tests/etcd", "tests/kernel", "tests/lab")
ORDINARY_USER = Kernel("not root", "not root")
ROOT_WITHOUT_BONDS = Kernel("", "Unknown device type.")
ROOT_WITH_BONDS = Kernel("", "")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [programs.CLONE / "run", *arguments], cwd="/", capture_output=True, text=True
    )


def test_the_help_lists_every_command_from_any_folder() -> None:
    shown = run("help")
    assert shown.returncode == 0
    for name, command in commands.COMMANDS.items():
        assert f"  {name}" in shown.stdout
        assert command.help in shown.stdout
    assert run().stdout == run("--help").stdout == shown.stdout


def test_a_command_that_does_not_exist_is_refused_with_those_that_do() -> None:
    refused = run("dmeo")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert "no command 'dmeo'; there are demo, test, lint" in refused.stderr


@pytest.mark.parametrize(
    ("kernel", "machine", "lab"),
    [
        (ORDINARY_USER, ["tests/unit", "tests/etcd"], ["tests/kernel", "tests/lab"]),
        (ROOT_WITHOUT_BONDS, ["tests/unit", "tests/etcd", "tests/kernel"], ["tests/lab"]),
        (ROOT_WITH_BONDS, list(FOLDERS), None),
    ],
)
def test_tests_run_on_the_machine_where_they_can_else_in_the_lab_kernel(
    kernel: Kernel, machine: list[str], lab: list[str] | None
) -> None:
    assert testing.plan([], FOLDERS, kernel) == testing.Plan(machine, lab)
    assert testing.plan(["tests"], FOLDERS, kernel) == testing.Plan(machine, lab)


def test_named_tests_go_to_the_right_side_alone_with_the_options() -> None:
    for named in ("tests/unit", "tests/unit/test_x.py::test_y[a::b]"):
        plan = testing.plan([f"./{named}", "-k", "name"], FOLDERS, ROOT_WITHOUT_BONDS)
        assert plan == testing.Plan([named, "-k", "name"], None)
    plan = testing.plan(["-x", "tests/lab/test_x.py"], FOLDERS, ROOT_WITHOUT_BONDS)
    assert plan == testing.Plan(None, ["tests/lab/test_x.py", "-x"])
    plan = testing.plan(["tests/lab", "tests/etcd"], FOLDERS, ROOT_WITHOUT_BONDS)
    assert plan == testing.Plan(["tests/etcd"], ["tests/lab"])


def test_options_alone_reach_both_sides() -> None:
    plan = testing.plan(["-k", "bond"], ("tests/unit", "tests/lab"), ORDINARY_USER)
    assert plan == testing.Plan(["tests/unit", "-k", "bond"], ["tests/lab", "-k", "bond"])


REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites name="pytest tests"><testsuite name="pytest" errors="{errors}" failures="{failures}"
skipped="{skipped}" tests="{tests}" time="0.014"></testsuite></testsuites>"""

few = st.integers(0, 1000)


@given(few, few, few, few)
def test_every_test_of_a_report_is_counted_once_and_errors_are_failures(
    passed: int, failures: int, errors: int, skipped: int
) -> None:
    tests = passed + failures + errors + skipped
    report = REPORT.format(tests=tests, failures=failures, errors=errors, skipped=skipped)
    assert testing.counts_of(report) == Counts(passed, failures + errors, skipped)


@given(st.builds(Counts, few, few, few), st.builds(Counts, few, few, few))
def test_the_last_line_adds_both_sides_up(machine: Counts, lab: Counts) -> None:
    total = machine + lab
    line = str(total)
    expected = f"{machine.passed + lab.passed} passed, {machine.failed + lab.failed} failed"
    assert line.startswith(expected)
    assert ("skipped" in line) == (machine.skipped + lab.skipped > 0)
    assert total.exit_status == int(total.failed > 0 or total.passed == 0)


def test_a_run_that_broke_down_is_a_failure_though_no_test_failed(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    assert testing.counts_in(report, status=125) == Counts(failed=1)
    report.write_text(REPORT.format(tests=3, failures=0, errors=0, skipped=0))
    assert testing.counts_in(report, status=0) == Counts(3)
    assert testing.counts_in(report, status=3) == Counts(3, failed=1)
    report.write_text(REPORT.format(tests=0, failures=0, errors=0, skipped=0))
    assert testing.counts_in(report, status=5) == Counts()


def test_shell_scripts_are_known_by_their_first_line(tmp_path: Path) -> None:
    for folder in ("scripts", ".lab/root", ".ci"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "scripts/start").write_text("#!/bin/sh\n")
    (tmp_path / ".ci/run").write_text("#!/usr/bin/env bash\nset -e\n")
    (tmp_path / "tool").write_text("#!/usr/bin/env python3\n")
    (tmp_path / ".lab/root/start").write_text("#!/bin/sh\n")
    assert list(lint.shell_scripts(tmp_path)) == [Path(".ci/run"), Path("scripts/start")]


def test_files_that_are_no_single_room_are_named(tmp_path: Path) -> None:
    (tmp_path / "netspace").mkdir()
    (tmp_path / "netspace/short.py").write_text("\n" * lint.LONG_FILE)
    (tmp_path / "netspace/long.py").write_text("\n" * (lint.LONG_FILE + 1))
    assert list(lint.long_files(tmp_path, ["netspace"])) == [(Path("netspace/long.py"), 401)]
