"""Builds the CNI executables' C program (`cni_plugins/launcher/launcher.c`).

One static file, against musl where Debian's musl-dev is there (`packages.BUILD`): a twentieth of
the size that glibc would give, and it starts sooner. The compiler is the machine's own; every
warning is an error.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import programs

SOURCE = programs.CLONE / "cni_plugins" / "launcher" / "launcher.c"
NAMES = ("netspace", "netspace-ipam")
COMPILER = "gcc"
SOCKET = "cni.sock"
"""Where the executable of `kept` looks for its agent: in its working folder, since the nodes of a
lab share one file system."""
_KEPT = programs.STATE / "launcher"

_WARNINGS = (
    *("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wconversion", "-Wsign-conversion"),
    *("-Wshadow", "-Wcast-qual", "-Wcast-align", "-Wwrite-strings", "-Wpointer-arith"),
    *("-Wstrict-prototypes", "-Wmissing-prototypes", "-Wold-style-definition", "-Wundef"),
    *("-Wformat=2", "-Wvla", "-Wnull-dereference", "-Wduplicated-cond", "-Wlogical-op"),
    *("-Wswitch-enum", "-Wimplicit-fallthrough", "-Wstack-usage=8192"),
)
_LANGUAGE = ("-std=c11", "-D_POSIX_C_SOURCE=200809L")
_SANITIZERS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_STATIC = ("-O2", "-static", "-fno-pie", "-no-pie", "-s", "-fstack-protector-strong")


class BuildError(RuntimeError):
    """The executables could not be built; the text has what the compiler said."""


def build(target: Path, defines: Mapping[str, str] | None = None) -> None:
    """Compile the executable into `target`, over what is there by a rename.

    `defines` are the preprocessor's, for tests: SOCKET_PATH (a C string), WAIT_MS.
    Raises BuildError, programs.ProgramMissing.
    """
    musl = programs.musl()
    if musl is None:
        _compile(target, [*_STATIC, *_macros(defines), str(SOURCE)])
        return
    headers, libraries = musl
    runtime = _output([str(programs.find(COMPILER)), "-print-libgcc-file-name"]).strip()
    start = [str(libraries / name) for name in ("crt1.o", "crti.o")]
    end = [str(libraries / "libc.a"), runtime, str(libraries / "crtn.o")]
    flags = [*_STATIC, "-nostdinc", "-isystem", str(headers), "-nostdlib", *_macros(defines)]
    _compile(target, [*flags, *start, str(SOURCE), *end])


def kept() -> Path:
    """The executable for a lab's nodes, compiled where its source has changed. No complete plugin
    lies beside it, so a call that finds no agent fails. Raises BuildError, programs.ProgramMissing.
    """
    if not _KEPT.exists() or _KEPT.stat().st_mtime < SOURCE.stat().st_mtime:
        build(_KEPT, {"SOCKET_PATH": f'"{SOCKET}"'})
    return _KEPT


def prepare() -> None:
    """Compile `kept` for the lab kernel, which sees the clone read-only; without a compiler
    nothing happens."""
    with contextlib.suppress(BuildError, programs.ProgramMissing, OSError):
        kept()


def build_sanitized(
    target: Path, defines: Mapping[str, str] | None = None, source: Path = SOURCE
) -> None:
    """Compile `source` for tests: it ends with a report at the first address or value that is
    wrong. Raises BuildError, programs.ProgramMissing.
    """
    _compile(target, [*_SANITIZERS, *_macros(defines), f"-I{SOURCE.parent}", str(source)])


def _macros(defines: Mapping[str, str] | None) -> list[str]:
    return [f"-D{name}={value}" for name, value in (defines or {}).items()]


def _compile(target: Path, arguments: Sequence[str]) -> None:
    built = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        command = [str(programs.find(COMPILER)), *_LANGUAGE, *_WARNINGS, "-o", str(built)]
        _output([*command, *arguments])
        built.replace(target)
    finally:
        built.unlink(missing_ok=True)


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{command[0]} failed:\n{done.stderr.strip()}")
    return done.stdout
