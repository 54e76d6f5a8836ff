"""Where things lie in the clone, and the one place that knows how programs are found.

Programs that the machine has are used as they are. What it lacks is unpacked
under `.lab/root` (see `packages`), which is searched after the machine's own
folders; it holds only libraries that the machine does not have, so naming its
library folders to every program changes nothing for the machine's own ones.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

CLONE = Path(__file__).resolve().parent.parent
VENV = CLONE / ".venv"
PYTHON = VENV / "bin" / "python"
STATE = CLONE / ".lab"
ROOT = STATE / "root"

_SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_UNPACKED_PATH = ("usr/sbin", "usr/bin", "sbin", "bin")
_CNI_DIRS = (Path("/opt/cni/bin"), Path("/usr/lib/cni"), ROOT / "usr/lib/cni")
_UML_MODULES = (Path("/usr/lib/uml/modules"), ROOT / "usr/lib/uml/modules")


class ProgramMissing(RuntimeError):
    """A program is neither on the machine nor unpacked into the clone."""

    def __init__(self, name: str) -> None:
        super().__init__(f"program {name!r} is missing; run ./run setup")
        self.name = name


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return `base` (the process's own by default) with every program findable.

    PATH gets the virtual environment first, then what it had, the system's
    sbin folders (an ordinary user's PATH lacks them), and `.lab/root`.
    LD_LIBRARY_PATH and XTABLES_LIBDIR name the unpacked libraries.
    """
    env = dict(os.environ if base is None else base)
    given = [part for part in env.get("PATH", "").split(":") if part]
    unpacked = [str(ROOT / part) for part in _UNPACKED_PATH]
    env["PATH"] = ":".join(dict.fromkeys([str(VENV / "bin"), *given, *_SYSTEM_PATH, *unpacked]))
    libraries, extensions = _unpacked()
    if libraries:
        given = [part for part in env.get("LD_LIBRARY_PATH", "").split(":") if part]
        env["LD_LIBRARY_PATH"] = ":".join(dict.fromkeys([*given, *libraries]))
    if extensions:
        env["XTABLES_LIBDIR"] = extensions
    return env


_found: dict[Path, tuple[list[str], str]] = {}


def _unpacked() -> tuple[list[str], str]:
    """The folders of unpacked libraries, and that of iptables' extensions. Looking for them costs
    a tenth of a second in the lab kernel: once both are there, that is remembered."""
    if ROOT in _found:
        return _found[ROOT]
    libraries = [str(path) for path in sorted(ROOT.glob("usr/lib/*-linux-gnu*"))]
    libraries += [str(path) for path in sorted(ROOT.glob("lib/*-linux-gnu*"))]
    extensions = [str(path) for path in sorted(ROOT.glob("usr/lib/*/xtables"))]
    found = libraries, extensions[-1] if extensions else ""
    if libraries and extensions:
        _found[ROOT] = found
    return found


def lookup(name: str) -> Path | None:
    """Return the program `name`, or None. CNI plugins are looked up by `cni_dir`."""
    found = shutil.which(name, path=environment()["PATH"])
    return Path(found) if found else None


def find(name: str) -> Path:
    """Return the absolute path of the program `name`.

    Raises ProgramMissing.
    """
    found = lookup(name)
    if found is None:
        raise ProgramMissing(name)
    return found


def cni_dir() -> Path | None:
    """Return the folder of the reference CNI plugins, the value for CNI_PATH."""
    for folder in _CNI_DIRS:
        if (folder / "bridge").exists() and (folder / "host-local").exists():
            return folder
    return None


def musl() -> tuple[Path, Path] | None:
    """Return musl's folders of headers and of libraries for this machine's processor."""
    for root in (Path("/"), ROOT):
        name = f"{os.uname().machine}-linux-musl"
        headers, libraries = root / "usr/include" / name, root / "usr/lib" / name
        if (headers / "stdio.h").exists() and (libraries / "libc.a").exists():
            return headers, libraries
    return None


def faketime() -> Path | None:
    """Return the library that gives a program into which it is preloaded another time of day."""
    for root in (Path("/"), ROOT):
        for found in root.glob("usr/lib/*/faketime/libfaketime.so.1"):
            return found
    return None


def charon() -> Path | None:
    """Return the folder that holds strongSwan's charon, its libraries and its plugins, the openssl
    one among them. The folder's place, /usr/lib/ipsec, is compiled in."""
    for root in (Path("/"), ROOT):
        folder = root / "usr/lib/ipsec"
        if (folder / "charon").exists() and (folder / "plugins/libstrongswan-openssl.so").exists():
            return folder
    return None


def uml_modules() -> Path | None:
    """Return the folder that holds the lab kernel's modules, one folder per release."""
    return next((folder for folder in _UML_MODULES if folder.is_dir()), None)
