"""./run lint: what the tools say about code, types, layers and shell scripts."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lab import programs

# Distribution packages first, then what serves development.
PYTHON_FOLDERS = (
    "netspace",
    "hostnet",
    "statestore",
    "ipam_server",
    "cni_plugins",
    "federation",
    "kube_controller",
    "netspacectl",
    "lab",
    "bench",
    "soak",
    "tests",
)
LONG_FILE = 400
_SHEBANGS = (b"#!/bin/sh", b"#!/bin/bash", b"#!/usr/bin/env bash", b"#!/usr/bin/env sh")
_NOT_OURS = (".git", ".lab", ".venv", "build", "dist")


def run() -> int:
    """Run every check, the slow one beside the others; return the exit status."""
    present = [name for name in PYTHON_FOLDERS if (programs.CLONE / name).is_dir()]
    binaries = programs.VENV / "bin"
    scripts = [str(path) for path in shell_scripts(programs.CLONE)]
    checks = {
        "mypy": [str(binaries / "mypy"), *present],
        "ruff check": [str(binaries / "ruff"), "check", "."],
        "ruff format": [str(binaries / "ruff"), "format", "--check", "."],
        "import-linter": [str(binaries / "lint-imports")],
        "shellcheck": [str(programs.find("shellcheck")), *scripts],
    }
    started = time.monotonic()
    running = {
        name: subprocess.Popen(
            command,
            cwd=programs.CLONE,
            env=programs.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for name, command in checks.items()
    }
    failed = 0
    for name, process in running.items():
        output, _ = process.communicate()
        failed += process.returncode != 0
        print(f"{name}: {'failed' if process.returncode else 'ok'}", flush=True)
        if process.returncode:
            sys.stdout.buffer.write(output)
            sys.stdout.buffer.flush()
    for path, lines in long_files(programs.CLONE, present):
        print(f"warning: {path} has {lines} lines; a file is one room")
    print(f"lint: {failed} of {len(checks)} failed, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


def shell_scripts(clone: Path) -> Iterator[Path]:
    """Yield the shell scripts of a clone, known by their first line."""
    for path in sorted(clone.rglob("*")):
        parts = path.relative_to(clone).parts
        if parts[0] in _NOT_OURS or path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as file:
            if file.readline().strip() in _SHEBANGS:
                yield path.relative_to(clone)


def long_files(clone: Path, folders: list[str]) -> Iterator[tuple[Path, int]]:
    """Yield the Python files over LONG_FILE lines, with their length."""
    for folder in folders:
        for path in sorted((clone / folder).rglob("*.py")):
            lines = path.read_bytes().count(b"\n")
            if lines > LONG_FILE:
                yield path.relative_to(clone), lines
