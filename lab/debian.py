"""A small Debian without Python, of files alone: what the packages are installed into by the tests,
and what the container image stands on.

debootstrap makes it once, in `.lab`; every test that changes it has a copy. Needs root: the files
belong to the users that the packages say.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from lab import programs

SUITE: Final = "bookworm"
INCLUDED: Final = (
    *("iptables", "ipset"),
    *("strongswan-charon", "strongswan-swanctl", "libstrongswan-standard-plugins"),
)
"""What is installed besides: what the package recommends and suggests."""
_KEPT: Final = programs.STATE / "debian"


class DebianError(RuntimeError):
    """The system could not be made; has the end of what debootstrap said."""


def base() -> Path:
    """Return the root of the system that is copied; a minute the first time. Raises DebianError."""
    kept = _KEPT / "-".join((SUITE, *INCLUDED))
    if not kept.exists():
        _KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="new-", dir=_KEPT) as name:
            root = Path(name) / "root"
            _debootstrap(root)
            for folder in ("var/cache/apt", "var/lib/apt/lists"):
                shutil.rmtree(root / folder)
                (root / folder).mkdir()
            root.rename(kept)
    return kept


def copy(to: Path) -> None:
    """Make another system of the same files at `to`."""
    subprocess.run(["cp", "-a", "--reflink=auto", str(base()), str(to)], check=True)


def inside(root: Path, *command: str) -> list[str]:
    """Return the command line that runs `command` with `root` as its root, and its own /proc."""
    script = 'mount -t proc proc "$1/proc" && root=$1 && shift && exec chroot "$root" "$@"'
    own = ["unshare", "--mount", "--propagation=private", "--", "sh", "-c", script, "sh"]
    return [*own, str(root), *command]


def _debootstrap(root: Path) -> None:
    program = programs.find("debootstrap")
    env = programs.environment()
    scripts = programs.ROOT / "usr/share/debootstrap"
    if program.is_relative_to(programs.ROOT):
        env["DEBOOTSTRAP_DIR"] = str(scripts)
    done = subprocess.run(
        [
            str(program),
            "--variant=minbase",
            f"--include={','.join(INCLUDED)}",
            SUITE,
            str(root),
        ],
        env=env | {"LC_ALL": "C", "HOME": os.fspath(root.parent)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise DebianError(f"debootstrap failed: {done.stdout.strip()[-1000:]}")
