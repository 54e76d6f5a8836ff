"""What lies where on a machine with the packages: one tree, of which both packages are made.

/opt/cni/bin/netspace, netspace-ipam    the CNI executables, which hand calls to the agent
/opt/cni/bin/netspace-plugin/           the complete plugin, for when no agent runs
/usr/lib/netspace/                      all other programs, with their libraries
/usr/sbin, /usr/bin                     links to them
/usr/lib/systemd/system/                their units
/etc/netspace, /etc/cni/net.d           configuration, as in `conf/`
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

from lab import freezing, launcher, programs

CNI: Final = Path("opt/cni/bin")
LIBRARY: Final = Path("usr/lib/netspace")
DOCUMENTS: Final = Path("usr/share/doc/netspace")
PACKAGING: Final = programs.CLONE / "packaging"

LINKS: Final = {
    "usr/sbin/netspace-agent": "../lib/netspace/netspace-agent",
    "usr/sbin/netspace-server": "../lib/netspace/netspace-server",
    "usr/sbin/netspace-controller": "../lib/netspace/netspace-controller",
    "usr/sbin/netspace-federation": "../lib/netspace/netspace-federation",
    "usr/bin/netspacectl": "../lib/netspace/netspacectl",
}
SETTINGS: Final = {
    "etc/netspace/node.yaml": "node.yaml",
    "etc/netspace/server.yaml": "server.yaml",
    "etc/netspace/ctl.yaml": "ctl.yaml",
    "etc/netspace/federation-server.yaml": "federation-server.yaml",
    "etc/netspace/federation-agent.yaml": "federation-agent.yaml",
    "etc/cni/net.d/10-netspace.conflist": "10-netspace.conflist",
}
"""Configuration, and the file of `conf/` it is made of."""

EXAMPLES: Final[Mapping[str, Collection[str]]] = {
    "node.yaml": ("node", "bonds"),
    "server.yaml": ("name",),
    "ctl.yaml": ("server", "cluster", "ca", "cert", "key", "federation"),
    "federation-server.yaml": ("name",),
    "federation-agent.yaml": ("node",),
}
"""Keys whose values in `conf/` are an example's: on a machine they come as comments."""

_KEY: Final = re.compile(r"(?P<key>[a-z_]+):")
_LICENCE: Final = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS)", re.IGNORECASE)


def stage(frozen: Path, root: Path, epoch: int) -> None:
    """Lay out everything below `root` from the folders that `freezing.freeze` made in `frozen`.

    `epoch`: seconds, the time of every file. Raises launcher.BuildError, programs.ProgramMissing.
    """
    (root / CNI).mkdir(parents=True)
    for name in launcher.NAMES:
        launcher.build(root / CNI / name)
    shutil.copytree(frozen / "netspace-plugin", root / CNI / "netspace-plugin", symlinks=True)
    shutil.copytree(frozen / "netspace", root / LIBRARY, symlinks=True)
    for link, target in LINKS.items():
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).symlink_to(target)
    for place, name in SETTINGS.items():
        text = (programs.CLONE / "conf" / name).read_text()
        _write(root / place, without_examples(text, EXAMPLES.get(name, ())))
    for unit in sorted((PACKAGING / "systemd").iterdir()):
        _write(root / "usr/lib/systemd/system" / unit.name, unit.read_text())
    _write(root / "usr/share/bash-completion/completions/netspacectl", _completion())
    _write(root / DOCUMENTS / "copyright", (programs.CLONE / "LICENSE").read_text())
    _write(root / DOCUMENTS / "install.md", (programs.CLONE / "docs/install.md").read_text())
    for name, text in _licences():
        _write(root / DOCUMENTS / "licences" / name, text)
    _settle(root, epoch)


def without_examples(text: str, keys: Collection[str]) -> str:
    """Return YAML `text` with the blocks of the top-level `keys` as comments."""
    lines: list[str] = []
    commented = False
    for line in text.splitlines():
        if found := _KEY.match(line):
            commented = found["key"] in keys
        elif not line.startswith((" ", "-")):
            commented = False
        lines.append(f"# {line}" if commented and line else line)
    return "\n".join(lines) + "\n"


def files(root: Path) -> Iterator[Path]:
    """Yield the files and links below `root`, relative to it, in an order of their own."""
    found = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    yield from sorted(path.relative_to(root) for path in found)


def newest_glibc(root: Path) -> str:
    """Return the version of glibc that the programs need, as in "2.36"."""
    found = {(2, 0)}
    for path in files(root):
        data = b"" if (root / path).is_symlink() else (root / path).read_bytes()
        if data.startswith(b"\x7fELF"):
            wanted = re.findall(rb"\0GLIBC_(\d+)\.(\d+)", data)
            found.update((int(major), int(minor)) for major, minor in wanted)
    major, minor = max(found)
    return f"{major}.{minor}"


def _completion() -> str:
    done = subprocess.run(
        [str(programs.VENV / "bin" / "netspacectl"), "completion", "bash"],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() + "\n"


def _licences() -> Iterator[tuple[str, str]]:
    """Yield the licences of what is frozen with our programs: name of a file and text."""
    [packages] = programs.VENV.glob("lib/python3*/site-packages")
    present = {_plain(found.name): found for found in metadata.distributions(path=[str(packages)])}
    wanted = ["netspace"]
    seen = set(wanted)
    for name in wanted:
        for line in present[name].requires or ():
            required = _plain(re.split(r"[^A-Za-z0-9._-]", line)[0])
            if "extra ==" not in line and required in present and required not in seen:
                seen.add(required)
                wanted.append(required)
    for name in sorted(seen - {"netspace"}):
        for file in present[name].files or ():
            if ".dist-info" in file.parts[0] and _LICENCE.match(file.name):
                yield f"{name}/{file.name}", file.read_text(encoding="utf-8")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _settle(root: Path, epoch: int) -> None:
    """Give everything modes and times that do not depend on who built it."""
    executables = {root / CNI / name for name in launcher.NAMES}
    executables |= {root / CNI / "netspace-plugin" / name for name in launcher.NAMES}
    executables |= {root / LIBRARY / name for name in freezing.FOLDERS["netspace"]}
    for folder, _, names in os.walk(root):
        for path in (Path(folder), *(Path(folder, name) for name in names)):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path in executables else 0o644)
            os.utime(path, (epoch, epoch), follow_symlinks=False)
