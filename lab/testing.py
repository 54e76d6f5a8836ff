"""./run test: every test where it can run, one summary at the end.

`tests/unit`, `tests/etcd`, `tests/runtime`, `tests/package` and `tests/kubernetes` run on the
machine. `tests/kernel` and `tests/lab` run there too where root and the kernel allow it, else
together in one pytest inside the lab kernel: starting Python is slow in there. Both sides
run at the same time; what the lab kernel's side says is printed as a whole.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import probe, programs

# In the order in which they run; each says in its conftest what it needs.
ON_ANY_KERNEL = ("tests/unit", "tests/etcd")
NEEDS_NAMESPACES = "tests/kernel"
NEEDS_BONDS = "tests/lab"
NEEDS_RUNTIMES = "tests/runtime"
NEEDS_ROOT = "tests/package"
NEEDS_KUBERNETES = "tests/kubernetes"
_LAB_SECONDS = 1500.0
_NOTHING_COLLECTED = 5


@dataclass(frozen=True)
class Counts:
    """How many tests ended how; an error in a fixture or a collection is a failure."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.passed + other.passed,
            self.failed + other.failed,
            self.skipped + other.skipped,
        )

    def __str__(self) -> str:
        line = f"{self.passed} passed, {self.failed} failed"
        return f"{line}, {self.skipped} skipped" if self.skipped else line

    @property
    def exit_status(self) -> int:
        """1 if anything failed or nothing ran at all."""
        return 1 if self.failed or not self.passed else 0


@dataclass(frozen=True)
class Plan:
    """pytest's arguments for either side; None where nothing is to run there."""

    machine: list[str] | None
    lab: list[str] | None


def plan(arguments: Sequence[str], folders: Iterable[str], kernel: probe.Kernel) -> Plan:
    """Split `arguments` of pytest between the machine and the lab kernel.

    An argument that lies in one of `folders` (`tests/lab/test_x.py::test_y`)
    goes where that folder's tests run, every other argument to both sides. No
    such argument means all of `folders`; a wider one (`tests`) means those in it.
    """
    known = list(folders)
    paths: list[str] = []
    options: list[str] = []
    for argument in arguments:
        path, colons, test = argument.partition("::")
        place = os.path.normpath(path)
        within = [f for f in known if f == place or f.startswith(f"{place}/")]
        if any(place.startswith(f"{folder}/") for folder in known):
            paths.append(f"{place}{colons}{test}")
        elif within:
            paths.extend(within)
        else:
            options.append(argument)
    machine: list[str] = []
    lab: list[str] = []
    for path in paths or known:
        direct = kernel.bonds if path.startswith(NEEDS_BONDS) else kernel.namespaces
        anywhere = not path.startswith((NEEDS_BONDS, NEEDS_NAMESPACES))
        (machine if anywhere or direct else lab).append(path)
    return Plan(
        [*machine, *options] if machine else None,
        [*lab, *options] if lab else None,
    )


def counts_of(junit: str) -> Counts:
    """Count the tests in a JUnit report (pytest's --junitxml)."""
    total = Counts()
    for suite in ElementTree.fromstring(junit).iter("testsuite"):
        number = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
        bad = number["failures"] + number["errors"]
        good = number["tests"] - bad - number["skipped"]
        total += Counts(good, bad, number["skipped"])
    return total


def run(arguments: Sequence[str]) -> int:
    """Run the tests that `arguments` choose; return the exit status."""
    kernel = probe.kernel()
    here = [*ON_ANY_KERNEL, NEEDS_NAMESPACES, NEEDS_BONDS, NEEDS_RUNTIMES, NEEDS_ROOT]
    here.append(NEEDS_KUBERNETES)
    folders = [folder for folder in here if (programs.CLONE / folder).is_dir()]
    chosen = plan(arguments, folders, kernel)
    if chosen.lab:
        print(in_lab_kernel(kernel), flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="test-", dir=programs.STATE) as name:
        total = _run_both(chosen, Path(name))
    print(f"\nall tests, {time.monotonic() - started:.0f} s:\n{total}", flush=True)
    return total.exit_status


def in_lab_kernel(kernel: probe.Kernel) -> str:
    """Return the line that says that, and why, the lab kernel is used."""
    why = "not root here" if not kernel.namespaces else "no bonding or 802.1Q in this kernel"
    if kernel.bonds:
        why = "no ESP in this kernel"
    return f"In the lab kernel ({why}): a Linux that runs as an ordinary process."


def _run_both(chosen: Plan, results: Path) -> Counts:
    pytest = [str(programs.PYTHON), "-m", "pytest", "--continue-on-collection-errors"]
    env = programs.environment()
    total = Counts()
    lab: subprocess.Popen[bytes] | None = None
    machine: subprocess.Popen[bytes] | None = None
    lab_says = results / "lab.txt"
    try:
        if chosen.lab:
            command = [sys.executable, "-m", "lab.kernel", f"--timeout={_LAB_SECONDS}"]
            command += [f"--writable={results}", *pytest, "-p", "no:cacheprovider"]
            command += [f"--junitxml={results / 'lab.xml'}", *chosen.lab]
            with lab_says.open("wb") as file:
                lab = subprocess.Popen(
                    command, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file
                )
        if chosen.machine:
            command = [*pytest, f"--junitxml={results / 'machine.xml'}", *chosen.machine]
            machine = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL)
            total += counts_in(results / "machine.xml", machine.wait())
        if lab:
            status = _follow(lab, lab_says)
            total += counts_in(results / "lab.xml", status)
    finally:
        for process in (machine, lab):
            if process and process.poll() is None:
                process.terminate()
                process.wait()
    return total


def _follow(process: subprocess.Popen[bytes], says: Path) -> int:
    """Print what `process` wrote and writes to the file `says`; return its exit status."""
    with says.open("rb") as file:
        while True:
            ended = process.poll() is not None
            sys.stdout.buffer.write(file.read())
            sys.stdout.buffer.flush()
            if ended:
                return process.returncode
            time.sleep(0.1)


def counts_in(report: Path, status: int) -> Counts:
    """Count what pytest's `report` says; a run that broke down is one failure more.

    `status` is pytest's exit status, or the lab kernel's when that broke down.
    """
    if not report.exists():
        return Counts(failed=1)
    counts = counts_of(report.read_text())
    broken = status not in (0, 1, _NOTHING_COLLECTED) or (status == 1 and not counts.failed)
    return counts + Counts(failed=int(broken))
