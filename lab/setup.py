"""Bring what a clone needs: the virtual environment and the system programs.

Everything lands in the clone (`.venv`, `.lab`); nothing is installed on the
machine. A second run looks at stamps and files and is done at once.
"""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab import packages, programs
from lab.packages import Package, SetupError

# Renewed when one of these changes: what is declared and what is built.
_DECLARED = ("setup.cfg", "pyproject.toml")
_STAMP = programs.VENV / "netspace-setup.json"
_SHIM_SOURCE = programs.CLONE / "lab" / "xstate.c"
SHIM = programs.STATE / "xstate.so"
OUR_PACKAGES = (
    "netspace",
    "hostnet",
    "statestore",
    "ipam_server",
    "cni_plugins",
    "federation",
    "netspacectl",
    "lab",
    "bench",
    "tests",
)


def say(text: str) -> None:
    """Tell the person in front of the terminal what takes long."""
    print(text, file=sys.stderr, flush=True)


def ensure(wanted: Sequence[Package] = packages.COMMON) -> None:
    """Bring the virtual environment and the programs of `wanted`. Raises SetupError."""
    try:
        programs.STATE.mkdir(exist_ok=True)
        with _alone():
            _ensure_venv()
            packages.bring(wanted, say)
            if any(package.name == "tcc" for package in wanted):
                _ensure_shim()
    except PermissionError as error:
        raise SetupError(
            f"{error.filename} belongs to somebody else (was ./run used by another user here?); "
            "remove .venv and .lab, or use a clone of your own"
        ) from error


def compile_sources() -> None:
    """Compile our modules where they changed: the lab kernel sees the clone read-only."""
    for name in OUR_PACKAGES:
        compileall.compile_dir(programs.CLONE / name, quiet=2)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let one process set up at a time."""
    with (programs.STATE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another ./run is setting up; waiting for it ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fingerprint() -> dict[str, str]:
    found = {
        name: hashlib.sha256((programs.CLONE / name).read_bytes()).hexdigest() for name in _DECLARED
    }
    # A virtual environment holds absolute paths: a copied clone needs a new one.
    return found | {"clone": str(programs.CLONE), "python": sys.version}


def _ensure_venv() -> None:
    wanted = _fingerprint()
    if programs.PYTHON.exists() and _STAMP.exists() and json.loads(_STAMP.read_text()) == wanted:
        return
    usable = _STAMP.exists() and all(
        json.loads(_STAMP.read_text()).get(key) == wanted[key] for key in ("clone", "python")
    )
    if not usable or not programs.PYTHON.exists():
        say("Making the virtual environment .venv ...")
        shutil.rmtree(programs.VENV, ignore_errors=True)
        _make_venv()
    say("Installing what the project needs into .venv (a minute or two the first time) ...")
    _python("-m", "pip", "install", "--quiet", "--editable", ".[dev]")
    _STAMP.write_text(json.dumps(wanted))
    compile_sources()


def _make_venv() -> None:
    # The interpreter itself and not a virtual environment's around it.
    python = getattr(sys, "_base_executable", None) or sys.executable
    if importlib.util.find_spec("ensurepip") and _ensurepip_works(python):
        _checked([python, "-m", "venv", str(programs.VENV)])
        return
    # Debian keeps ensurepip in a package of its own; a wheel of pip installs itself.
    _checked([python, "-m", "venv", "--without-pip", str(programs.VENV)])
    packages.unpack(["python3-pip-whl"], say)
    wheels = sorted(programs.ROOT.glob("usr/share/python-wheels/pip-*.whl"))
    if not wheels:
        raise SetupError("no wheel of pip in Debian's python3-pip-whl; install python3-venv")
    _python(str(wheels[-1] / "pip"), "install", "--quiet", "--no-index", str(wheels[-1]))


def _ensurepip_works(python: str) -> bool:
    probe = [python, "-c", "import ensurepip; ensurepip.version()"]
    return subprocess.run(probe, capture_output=True).returncode == 0


def _python(*arguments: str) -> None:
    _checked([str(programs.PYTHON), *arguments])


def _checked(command: Sequence[str]) -> None:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONPATH")}
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    done = subprocess.run(
        command,
        cwd=programs.CLONE,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        said = done.stdout.strip().splitlines()
        errors = [line for line in said if line.startswith("ERROR")] or said[-15:]
        raise SetupError(
            "\n".join([f"{' '.join(command)} failed:", *errors])
            + "\nIs the package index that pip uses reachable?"
        )


def _ensure_shim() -> None:
    """Build the preloaded library that lets the lab kernel start on every CPU."""
    if SHIM.exists() and SHIM.stat().st_mtime >= _SHIM_SOURCE.stat().st_mtime:
        return
    tcc = programs.find("tcc")
    support = sorted(programs.ROOT.glob("usr/lib/*/tcc"))
    flags = ["-B", str(support[0])] if support else []
    built = SHIM.with_suffix(".new")
    subprocess.run(
        [tcc, *flags, "-shared", "-nostdlib", "-o", built, _SHIM_SOURCE],
        check=True,
        env=programs.environment(),
    )
    Path(built).replace(SHIM)
