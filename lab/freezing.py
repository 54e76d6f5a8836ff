"""Freezes the programs: folders with an executable for each program and all that it needs.

PyInstaller follows the imports (`packaging/folder.spec`). The folders need no Python, and have
nothing of the machine that built them: symbols for debuggers are stripped, and paths of the
interpreter's own place, which it has compiled in, are replaced by as many bytes.
"""

from __future__ import annotations

import configparser
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab import programs

FOLDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "netspace-plugin": ("netspace", "netspace-ipam"),
    "netspace": (
        *("netspace-agent", "netspace-server", "netspace-controller", "netspace-federation"),
        "netspacectl",
    ),
}
"""The programs of each folder; they share its libraries."""

LIBRARIES: Final = "lib"
"""Where they are in a folder."""

SPEC: Final = programs.CLONE / "packaging" / "folder.spec"

_PLACE: Final = b"/usr/lib"
_ELF: Final = b"\x7fELF"


class FreezeError(RuntimeError):
    """A folder could not be made; has the end of what PyInstaller said."""


def freeze(into: Path, epoch: int) -> None:
    """Make every folder of `FOLDERS` in `into`; `epoch`: seconds, the time files say they are of.

    Raises FreezeError.
    """
    modules = entry_points()
    interpreter = _interpreter()
    work = into / "work"
    started: list[tuple[str, Path, subprocess.Popen[bytes]]] = []
    for folder, names in FOLDERS.items():
        place = work / folder
        place.mkdir(parents=True)
        scripts = [_script(place, name, modules[name]) for name in names]
        # Beside the scripts it is found before the interpreter's own, which is full of paths.
        (place / f"{interpreter.settings}.py").write_text(f"build_time_vars = {interpreter.kept}\n")
        log = place / "log"
        started.append((folder, log, _pyinstaller(into, place, log, epoch, folder, scripts)))
    try:
        for folder, log, process in started:
            if process.wait():
                said = log.read_text(errors="replace")[-2000:]
                raise FreezeError(f"PyInstaller could not make {folder}:\n{said}")
    finally:
        for _, _, process in started:
            if process.poll() is None:
                process.terminate()
                process.wait()
    for folder in FOLDERS:
        for library in libraries(into / folder):
            _strip(library)
            library.write_bytes(without_prefix(library.read_bytes(), interpreter.prefix))


def libraries(folder: Path) -> Iterator[Path]:
    """Yield the shared libraries of a frozen folder."""
    for path in sorted((folder / LIBRARIES).rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(len(_ELF)) == _ELF:
                    yield path


def without_prefix(data: bytes, prefix: bytes) -> bytes:
    """Return `data` with a path in place of `prefix` that is as long and no machine's own.

    The last part of it stays: the linker lets other strings, as Python's version, be the end of
    this one. A prefix of the system's (/usr, /usr/local) says nothing about a machine.
    """
    folder = prefix.rpartition(b"/")[0]
    if len(folder) < len(_PLACE):
        return data
    return data.replace(prefix, _PLACE.ljust(len(folder), b"/") + prefix[len(folder) :])


@dataclass(frozen=True)
class _Interpreter:
    """The one that the virtual environment was made with: its place, the module with the settings
    it was built with, and those of them that are needed and no paths."""

    prefix: bytes
    settings: str
    kept: dict[str, int | str]


def _interpreter() -> _Interpreter:
    asked = (
        "import json, sys, sysconfig\n"
        "kept = {name: value for name, value in sysconfig.get_config_vars().items()"
        " if isinstance(value, int) or name == 'TZPATH'}\n"
        "print(json.dumps([sys.base_prefix, sysconfig._get_sysconfigdata_name(), kept]))"
    )
    done = subprocess.run([str(programs.PYTHON), "-c", asked], check=True, capture_output=True)
    prefix, settings, kept = json.loads(done.stdout)
    return _Interpreter(prefix.encode(), settings, kept)


def entry_points() -> dict[str, str]:
    """Return what setup.cfg declares: program → module:function."""
    declared = configparser.ConfigParser()
    declared.read(programs.CLONE / "setup.cfg")
    lines = declared.get("options.entry_points", "console_scripts").split("\n")
    return {line.split(" = ")[0]: line.split(" = ")[1] for line in lines if line}


def _script(place: Path, name: str, entry: str) -> Path:
    module, _, function = entry.partition(":")
    path = place / f"run_{name}.py"
    path.write_text(f"from {module} import {function}\n{function}()\n")
    return path


def _pyinstaller(
    into: Path, place: Path, log: Path, epoch: int, folder: str, scripts: list[Path]
) -> subprocess.Popen[bytes]:
    command = [str(programs.PYTHON), "-m", "PyInstaller", "--noconfirm", "--log-level=WARN"]
    command += [f"--distpath={into}", f"--workpath={place}", str(SPEC), "--", folder]
    env = os.environ | {
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SOURCE_DATE_EPOCH": str(epoch),
        "PYINSTALLER_CONFIG_DIR": str(place / "cache"),
    }
    with log.open("wb") as file:
        return subprocess.Popen(
            [*command, *map(str, scripts)],
            # Not beside the scripts: PyInstaller itself needs the interpreter's own modules.
            cwd=into,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def _strip(library: Path) -> None:
    subprocess.run([str(programs.find("strip")), "--strip-unneeded", str(library)], check=True)
