"""./run package: a Debian package and a tarball of everything, the same from the same sources.

Both are made of one tree (`package_tree`). What was built is kept in `.lab/package` under the hash
of all that it was made of, for the tests and for whoever asks again.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import fcntl
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab import freezing, launcher, package_tree, programs

KEPT: Final = programs.STATE / "package"

_SOURCES: Final = (
    *("netspace", "hostnet", "statestore", "ipam_server", "cni_plugins", "kube_controller"),
    *("federation", "netspacectl"),
    *("packaging/debian", "packaging/systemd", "packaging/folder.spec", "packaging/install.sh"),
    *("packaging/started.py", "conf", "setup.cfg", "LICENSE", "docs/install.md"),
    *("lab/freezing.py", "lab/launcher.py", "lab/package.py", "lab/package_tree.py"),
)
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_SCRIPTS: Final = ("postinst", "prerm", "postrm")
_NO_COMMIT: Final = 315532800
"""1980, before which zip files know no time."""


@dataclass(frozen=True)
class Built:
    """Where the two packages are, and the tree they were made of."""

    folder: Path

    @property
    def deb(self) -> Path:
        return self.folder / f"netspace_{version()}_{architecture()}.deb"

    @property
    def tarball(self) -> Path:
        return self.folder / f"netspace-{version()}-linux-{architecture()}.tar.gz"

    @property
    def root(self) -> Path:
        return self.folder / "root"


def run(arguments: Sequence[str]) -> int:
    """Build what is not built yet and put it where `--out` says (dist); the exit status."""
    parser = argparse.ArgumentParser(prog="./run package")
    parser.add_argument("--out", type=Path, default=programs.CLONE / "dist", metavar="DIR")
    out: Path = parser.parse_args(arguments).out
    try:
        packages = build()
    except (freezing.FreezeError, launcher.BuildError) as error:
        print(f"./run package: {error}", file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    for file in (packages.deb, packages.tarball):
        shutil.copyfile(file, out / file.name)
        print(f"{out / file.name}  {file.stat().st_size / 2**20:.1f} MiB")
    return 0


def build() -> Built:
    """Return the packages of the sources as they are now; a minute where they are new.

    Raises freezing.FreezeError, launcher.BuildError, programs.ProgramMissing.
    """
    with built() as packages:
        return packages


@contextlib.contextmanager
def built() -> Iterator[Built]:
    """Build as `build` does; nobody replaces what was built as long as the context is open."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        epoch = source_date()
        place = KEPT / fingerprint(epoch)
        if not place.exists():
            for old in KEPT.iterdir():
                if old.is_dir():
                    shutil.rmtree(old)
            print("Building the packages (a minute) ...", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="new-", dir=KEPT) as name:
                _build(Path(name), epoch)
                (Path(name) / "built").rename(place)
        yield Built(place)


def version() -> str:
    declared = configparser.ConfigParser()
    declared.read(programs.CLONE / "setup.cfg")
    return declared.get("metadata", "version")


def architecture() -> str:
    """Return the machine's architecture as Debian names it."""
    machine = os.uname().machine
    return _ARCHITECTURES.get(machine, machine)


def source_date() -> int:
    """Return the time the packages are of: SOURCE_DATE_EPOCH, else the last commit's."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    with contextlib.suppress(OSError):
        asked = ["git", "-C", str(programs.CLONE), "log", "-1", "--format=%ct"]
        done = subprocess.run(asked, capture_output=True, text=True)
        if done.returncode == 0:
            return int(done.stdout)
    return _NO_COMMIT


def fingerprint(epoch: int) -> str:
    """Return a name for all that the packages are made of."""
    digest = hashlib.sha256(f"{epoch} {sys.version}".encode())
    for installed in sorted(programs.VENV.glob("lib/python3*/site-packages/*.dist-info")):
        digest.update(installed.name.encode())
    for path in _sources():
        digest.update(f"\n{path.relative_to(programs.CLONE)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _sources() -> Iterator[Path]:
    for name in _SOURCES:
        path = programs.CLONE / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                yield file


def _build(place: Path, epoch: int) -> None:
    frozen = place / "frozen"
    frozen.mkdir()
    freezing.freeze(frozen, epoch)
    made = Built(place / "built")
    package_tree.stage(frozen, made.root, epoch)
    write_deb(made.root, made.deb, version(), epoch)
    write_tarball(made.root, made.tarball, epoch)


def write_deb(root: Path, deb: Path, number: str, epoch: int) -> None:
    """Write a Debian package of the tree `root`; `number`: its version."""
    with tempfile.TemporaryDirectory(dir=deb.parent) as name:
        tree = Path(name) / "tree"
        shutil.copytree(root, tree, symlinks=True, copy_function=_link)
        control = tree / "DEBIAN"
        control.mkdir(mode=0o755)
        (control / "control").write_text(_control(root, number))
        (control / "conffiles").write_text("".join(f"/{x}\n" for x in package_tree.SETTINGS))
        (control / "md5sums").write_text(_sums(root))
        for script in _SCRIPTS:
            shutil.copyfile(package_tree.PACKAGING / "debian" / script, control / script)
            (control / script).chmod(0o755)
        # Hard links: the times that files have are the tree's already.
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zzstd", "-z12", "--build", str(tree), str(deb)],
            check=True,
            env=os.environ | {"SOURCE_DATE_EPOCH": str(epoch)},
            stdout=subprocess.DEVNULL,
        )


def _link(source: str, target: str) -> None:
    os.link(source, target, follow_symlinks=False)


def _control(root: Path, number: str) -> str:
    size = sum((root / path).lstat().st_size for path in package_tree.files(root))
    return (
        "Package: netspace\n"
        f"Version: {number}\n"
        f"Architecture: {architecture()}\n"
        "Maintainer: Netspace\n"
        f"Installed-Size: {-(-size // 1024)}\n"
        f"Depends: libc6 (>= {package_tree.newest_glibc(root)}), init-system-helpers (>= 1.54~)\n"
        "Recommends: iptables, ipset\n"
        # Not recommended: strongSwan brings a charon of its own, which takes IKE's ports.
        "Suggests: strongswan-charon, strongswan-swanctl, libstrongswan-standard-plugins\n"
        "Section: net\n"
        "Priority: optional\n"
        "Description: addresses and interfaces on the data centre's own VLANs for Kubernetes pods\n"
        " The node's agent and CNI executables, the IPAM server, what joins clusters to\n"
        " federations, and the command line netspacectl, each with all that it needs.\n"
    )


def _sums(root: Path) -> str:
    lines = []
    for path in package_tree.files(root):
        if not (root / path).is_symlink():
            digest = hashlib.md5((root / path).read_bytes(), usedforsecurity=False).hexdigest()
            lines.append(f"{digest}  {path}\n")
    return "".join(lines)


def write_tarball(root: Path, tarball: Path, epoch: int) -> None:
    """Write the tree `root` and `install.sh` into one folder of a tarball."""
    top = tarball.name.removesuffix(".tar.gz")

    def settled(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mtime = epoch
        return entry

    with (
        tarball.open("wb") as file,
        gzip.GzipFile("", "wb", 6, file, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        archive.add(package_tree.PACKAGING / "install.sh", f"{top}/install.sh", filter=settled)
        archive.add(root, f"{top}/root", filter=settled)
