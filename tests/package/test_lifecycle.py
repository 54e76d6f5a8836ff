"""Installing, upgrading, removing: what is there afterwards, and what goes on meanwhile."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import package, package_tree
from lab.package import Built
from tests.package.system import System

EXECUTABLE = "opt/cni/bin/netspace-plugin/netspace"
CONFLIST = "etc/cni/net.d/10-netspace.conflist"
ENABLED = "var/lib/systemd/deb-systemd-helper-enabled/"
"""Where Debian remembers which units an admin left enabled; it forgets with a purge."""
STUB = "#!/bin/sh\necho the next version\n"


@pytest.fixture(scope="module")
def next_root(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of a next version: other executables, a changed and a missing file."""
    root = tmp_path_factory.mktemp("next") / "root"
    shutil.copytree(built.root, root, symlinks=True)
    for path in (EXECUTABLE, "usr/lib/netspace/netspacectl"):
        (root / path).write_text(STUB)
    (root / "usr/share/doc/netspace/copyright").unlink()
    return root


@pytest.fixture
def system(make_system: Callable[[], System]) -> Iterator[System]:
    made = make_system()
    yield made
    shutil.rmtree(made.root)


def started(system: System) -> subprocess.Popen[bytes]:
    """A complete plugin that waits for its standard input, with almost all of its modules still
    to be imported."""
    environ = {
        "CNI_COMMAND": "CHECK",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
    }
    process = system.start("/opt/cni/bin/netspace", environ=environ)
    assert process.stdin is not None
    process.stdin.write(b'{"cniVersion": "1.0.0",')
    process.stdin.flush()
    return process


def assert_goes_on(process: subprocess.Popen[bytes]) -> None:
    """It answers as the version that was started, with its own modules."""
    rest = b' "name": "net", "type": "netspace", "ipam": {"type": "netspace-ipam"}}'
    output, errors = process.communicate(rest, 60)
    answer = json.loads(output)
    # Its configuration names no cluster that is there: what matters is that it got so far.
    assert process.returncode == 1
    assert answer["code"] < 200, (answer, errors)
    assert b"Traceback" not in errors


def test_the_package_comes_is_upgraded_in_use_and_goes_without_a_trace(
    built: Built, next_root: Path, system: System, tmp_path: Path
) -> None:
    before = system.files()
    system.install(built.deb)
    wants = "etc/systemd/system/sockets.target.wants/netspace-agent.socket"
    assert (system.root / wants).is_symlink()
    agent = "etc/systemd/system/multi-user.target.wants/netspace-agent.service"
    assert (system.root / agent).is_symlink()
    for other in ("server", "federation", "federation-agent"):
        assert not (system.root / agent).with_name(f"netspace-{other}.service").is_symlink()
    assert system.run("dpkg", "--verify", "netspace") == ("", "")

    (system.root / "etc/netspace/node.yaml").write_text("cluster: mine\n")
    running = started(system)
    later = tmp_path / "next.deb"
    package.write_deb(next_root, later, "9.0", 1)
    system.install(later)
    assert system.run("netspacectl", "--version")[0] == "the next version\n"
    assert (system.root / "etc/netspace/node.yaml").read_text() == "cluster: mine\n"
    assert not (system.root / "usr/share/doc/netspace/copyright").exists()
    assert_goes_on(running)

    state = system.root / "var/lib/netspace"
    (state / "attachments").mkdir(parents=True, exist_ok=True)
    system.run("dpkg", "--remove", "netspace")
    left = {path for path in system.files() - before if (system.root / path).is_file()}
    assert {path for path in left if not path.startswith(ENABLED)} == set(package_tree.SETTINGS)
    assert (state / "attachments").exists()

    system.run("dpkg", "--purge", "netspace")
    assert system.files() - before <= {"etc/cni", "opt/cni", "etc/systemd"}


def unpacked(tarball: Path, to: Path) -> Path:
    with tarfile.open(tarball) as archive:
        archive.extractall(to, filter="tar")
    [folder] = to.iterdir()
    return folder


def install(folder: Path, system: System, *words: str) -> None:
    """Run the tarball's install.sh on the system itself, from a folder of its own."""
    place = system.root / "tmp/unpacked"
    shutil.copytree(folder, place, symlinks=True, dirs_exist_ok=True)
    system.run("sh", "/tmp/unpacked/install.sh", *words)
    shutil.rmtree(place)


def test_the_tarball_does_the_same_with_a_script(
    built: Built, next_root: Path, system: System, folder: Path
) -> None:
    before = system.files()
    first = unpacked(built.tarball, folder / "first")
    install(first, system)
    assert {str(path) for path in package_tree.files(built.root)} <= system.files()
    (system.root / "etc/netspace/node.yaml").write_text("cluster: mine\n")

    running = started(system)
    later = folder / built.tarball.name
    package.write_tarball(next_root, later, 1)
    install(unpacked(later, folder / "later"), system)
    assert system.run("netspacectl", "--version")[0] == "the next version\n"
    assert (system.root / "etc/netspace/node.yaml").read_text() == "cluster: mine\n"
    assert (system.root / "etc/netspace/node.yaml.dist").exists()
    assert not (system.root / "usr/share/doc/netspace/copyright").exists()
    assert_goes_on(running)

    install(first, system, "--remove")
    left = {path for path in system.files() - before if (system.root / path).is_file()}
    assert left == {*package_tree.SETTINGS, "etc/netspace/node.yaml.dist"}
    install(first, system, "--purge")
    left = {path for path in system.files() - before if (system.root / path).is_file()}
    assert left == set()


def test_the_script_installs_below_another_root(built: Built, folder: Path) -> None:
    first = unpacked(built.tarball, folder / "first")
    root = folder / "root"
    root.mkdir()
    subprocess.run(["sh", first / "install.sh", "--root", root], check=True)
    assert (root / CONFLIST).read_bytes() == (built.root / CONFLIST).read_bytes()
    subprocess.run(["sh", first / "install.sh", "--purge", "--root", root], check=True)
    assert [path for path in root.rglob("*") if not path.is_dir()] == []
