"""Kubernetes' own programs, where the machine has them for tests."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from lab import programs

VARIABLE = "NETSPACE_TEST_KUBERNETES"
"""Names the folder with `bin/` or `bin.tar.xz`, `up.sh` and `down.sh`."""

_KEPT = programs.STATE / "kubernetes"


def missing() -> str:
    """Why there is no Kubernetes for tests, or nothing."""
    named = os.environ.get(VARIABLE)
    if not named:
        return f"needs a real Kubernetes: {VARIABLE} names no folder of one"
    folder = Path(named)
    if not (folder / "bin").is_dir() and not (folder / "bin.tar.xz").is_file():
        return f"needs a real Kubernetes: {VARIABLE}={named} has neither bin/ nor bin.tar.xz"
    if programs.lookup("etcd") is None:
        return "needs etcd: ./run setup brings it"
    return ""


def folder() -> Path:
    """Where kube-apiserver, kubectl and the others lie; an archive is unpacked into the clone once,
    and again where it has changed."""
    given = Path(os.environ[VARIABLE])
    if (given / "bin").is_dir():
        return given / "bin"
    archive = given / "bin.tar.xz"
    seen = archive.stat()
    kept = _KEPT / f"{seen.st_size}-{int(seen.st_mtime)}"
    _KEPT.mkdir(parents=True, exist_ok=True)
    with (_KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.is_dir():
            for older in _KEPT.iterdir():
                if older.is_dir():
                    shutil.rmtree(older)
            fresh = Path(tempfile.mkdtemp(dir=_KEPT))
            fresh.chmod(0o755)
            subprocess.run(["tar", "-C", str(fresh), "-xJf", str(archive)], check=True)
            fresh.rename(kept)
    return kept
