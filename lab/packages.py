"""Debian packages, unpacked into the clone and never installed.

Installing `etcd-server` would start a service, and an ordinary user cannot
install anything. So apt resolves what is missing against the machine's own
dpkg status and sources, with state, lists and cache of its own under
`.lab/apt`, and `dpkg-deb -x` unpacks it under `.lab/root`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import programs

_APT = programs.STATE / "apt"
_UNPACKED = programs.STATE / "packages.json"
# Stands while packages are being unpacked: a root left half done is begun anew.
_UNPACKING = programs.STATE / "unpacking"

_HOOKS = (
    "APT::Update::Pre-Invoke",
    "APT::Update::Post-Invoke",
    "APT::Update::Post-Invoke-Success",
    "DPkg::Pre-Install-Pkgs",
)
_INST = re.compile(r"^Inst (?P<name>\S+) (?P<old>\[[^\]]*\] )?\((?P<version>\S+) ")


class SetupError(RuntimeError):
    """Something that is needed could not be brought; the text says what to do."""


@dataclass(frozen=True)
class Package:
    """A Debian package and how to see whether the machine already has what is in it."""

    name: str
    present: Callable[[], bool]


def _program(name: str, *wanted: str) -> Package:
    return Package(name, lambda: all(programs.lookup(program) for program in wanted))


COMMON = (
    _program("iproute2", "ip", "bridge", "tc"),
    _program("iputils-ping", "ping"),
    _program("iptables", "iptables-legacy-restore", "ip6tables-legacy-restore"),
    _program("ipset", "ipset"),
    _program("etcd-server", "etcd"),
    _program("etcd-client", "etcdctl"),
    Package("containernetworking-plugins", lambda: programs.cni_dir() is not None),
)
LAB_KERNEL = (
    Package(
        "user-mode-linux",
        lambda: bool(programs.lookup("linux.uml")) and programs.uml_modules() is not None,
    ),
    _program("kmod", "modprobe"),
    _program("tcc", "tcc"),
)
LINT = (_program("shellcheck", "shellcheck"),)
BENCH = (_program("wrk", "wrk"),)
CLOCK = (Package("libfaketime", lambda: programs.faketime() is not None),)
BUILD = (Package("musl-dev", lambda: programs.musl() is not None),)
METRICS = (_program("prometheus", "promtool"),)
IPSEC = (
    Package("strongswan-charon", lambda: programs.charon() is not None),
    Package("libstrongswan-standard-plugins", lambda: programs.charon() is not None),
    _program("strongswan-swanctl", "swanctl"),
)
RUNTIMES = (
    _program("containerd", "containerd", "containerd-shim-runc-v2", "ctr"),
    _program("runc", "runc"),
    _program("podman", "podman", "conmon"),
)
KUBERNETES = (_program("busybox-static", "busybox"), _program("conntrack", "conntrack"))
PACKAGE = (
    _program("debootstrap", "debootstrap"),
    _program("systemd", "systemd-analyze"),
)


def new_packages(simulation: str) -> dict[str, str]:
    """Return name → version of what `apt-get -s install` would add.

    Upgrades of packages that the machine has are left out: an unpacked libc
    beside the machine's own would break both.
    """
    found: dict[str, str] = {}
    for line in simulation.splitlines():
        match = _INST.match(line)
        if match and match["old"] is None:
            found[match["name"]] = match["version"]
    return found


def missing(wanted: Iterable[Package]) -> list[str]:
    """Return the names of the packages of `wanted` whose programs cannot be found."""
    if _UNPACKING.exists():
        shutil.rmtree(programs.ROOT, ignore_errors=True)
        _UNPACKED.unlink(missing_ok=True)
        _UNPACKING.unlink()
    return [package.name for package in wanted if not package.present()]


def bring(wanted: Sequence[Package], say: Callable[[str], None]) -> None:
    """Unpack what is missing of `wanted`, with the libraries the machine lacks.

    Raises SetupError: no apt on this system, no network, unknown package.
    """
    names = missing(wanted)
    if not names:
        return
    unpack(names, say)
    if left := missing(wanted):
        raise SetupError(
            f"unpacked, but its programs are still not found: {', '.join(left)}; "
            f"remove {programs.ROOT} and run ./run setup again"
        )


def unpack(names: Sequence[str], say: Callable[[str], None]) -> None:
    """Download the packages `names` and what they need, and unpack them. Raises SetupError."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise SetupError(
            "missing on this system, which is not Debian or Ubuntu: "
            f"{', '.join(names)} (named as Debian names the packages). "
            "Install their programs so that they are found in PATH, and run again."
        )
    say(f"Unpacking into the clone, nothing is installed: {', '.join(names)}")
    _configure_apt()
    if not _have_lists():
        _update(say)
    try:
        simulation = _apt("-s", "install", *names)
    except SetupError:
        _update(say)
        simulation = _apt("-s", "install", *names)
    done: dict[str, str] = json.loads(_UNPACKED.read_text()) if _UNPACKED.exists() else {}
    todo = {n: v for n, v in new_packages(simulation).items() if done.get(n) != v}
    # A package that the system has, while its program was removed by hand.
    for name in names:
        todo.setdefault(name, "")
    archives = _APT / "archives"
    shutil.rmtree(archives, ignore_errors=True)
    archives.mkdir(parents=True)
    exact = [f"{name}={version}" if version else name for name, version in todo.items()]
    try:
        _apt("download", *exact, cwd=archives)
    except SetupError:
        _update(say)
        _apt("download", *todo, cwd=archives)
    _UNPACKING.touch()
    programs.ROOT.mkdir(exist_ok=True)
    for archive in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", archive, programs.ROOT], check=True)
    turn_links_inwards(programs.ROOT)
    _UNPACKED.write_text(json.dumps(done | todo, indent=1, sort_keys=True) + "\n")
    _UNPACKING.unlink()
    shutil.rmtree(archives)


def turn_links_inwards(root: Path) -> None:
    """Make the absolute links of the packages (modprobe → /bin/kmod) point into `root`."""
    for folder, folders, files in os.walk(root):
        for path in (Path(folder, name) for name in (*folders, *files)):
            if not path.is_symlink() or not (target := path.readlink()).is_absolute():
                continue
            within = root / target.relative_to("/")
            if within.exists():
                path.unlink()
                path.symlink_to(os.path.relpath(within, folder))


def _configure_apt() -> None:
    """Write an apt configuration that touches nothing outside `.lab/apt`.

    The machine's own settings (proxies, certificates) stay, but for its hooks:
    an ordinary user cannot run them, and root should not on our account.
    """
    parts = _APT / "conf.d"
    shutil.rmtree(parts, ignore_errors=True)
    for folder in (parts, _APT / "state", _APT / "lists" / "partial", _APT / "cache"):
        folder.mkdir(parents=True, exist_ok=True)
    for source in sorted(Path("/etc/apt/apt.conf.d").glob("*")):
        if source.is_file() and os.access(source, os.R_OK):
            shutil.copyfile(source, parts / source.name)
    (parts / "zz-netspace").write_text("".join(f"#clear {hook};\n" for hook in _HOOKS))
    settings = {
        "Dir::State": _APT / "state",
        "Dir::State::lists": _APT / "lists",
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": _APT / "cache",
        "Dir::Etc::parts": parts,
        "Debug::NoLocking": "true",
        "APT::Sandbox::User": "root",
        "APT::Get::AutomaticRemove": "false",
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    lines = [f'{name} "{value}";\n' for name, value in settings.items()]
    (_APT / "apt.conf").write_text("".join(lines))


def _update(say: Callable[[str], None]) -> None:
    """Fetch the lists; one source among several that does not answer is no error."""
    say("Fetching the package lists (into the clone) ...")
    _apt("update")
    if not _have_lists():
        raise SetupError(
            "apt-get update fetched no package list. "
            "Is the network, or the mirror named in /etc/apt, reachable?"
        )


def _have_lists() -> bool:
    return any((_APT / "lists").glob("*_Packages*"))


def _apt(*arguments: str, cwd: Path | None = None) -> str:
    """Run apt-get with the clone's configuration and return what it says. Raises SetupError."""
    # The command line comes last and so wins over the machine's parts.
    command = ["apt-get", "-q", "-y", "-o", "APT::Install-Recommends=false", *arguments]
    env = os.environ | {
        "APT_CONFIG": str(_APT / "apt.conf"),
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        command,
        cwd=cwd or programs.STATE,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        problems = [s for s in done.stderr.splitlines() if s.startswith(("E:", "Err"))]
        reason = "; ".join(problems[:3]) or done.stderr.strip() or done.stdout.strip()[-300:]
        raise SetupError(
            f"apt-get {arguments[0]} failed: {reason}. "
            "Is the network, or the mirror named in /etc/apt, reachable?"
        )
    return done.stdout
