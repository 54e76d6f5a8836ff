"""What is in the packages: the same from the same, nothing of the machine that built them, units
that systemd takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PyInstaller.archive.readers import CArchiveReader, ZlibArchiveReader

from lab import freezing, launcher, package, package_tree, programs
from lab.package import Built

SYSTEMD = programs.CLONE / "packaging" / "systemd"
FROZEN = [
    *(package_tree.CNI / "netspace-plugin" / name for name in freezing.FOLDERS["netspace-plugin"]),
    *(package_tree.LIBRARY / name for name in freezing.FOLDERS["netspace"]),
]


def paths_of_this_machine() -> list[bytes]:
    found = {str(programs.CLONE), str(Path.home()), os.path.realpath(sys.base_prefix)}
    return [path.encode() for path in found if not path.startswith("/usr") and path != "/root"]


def test_no_file_has_a_path_of_the_machine_that_built_it(built: Built) -> None:
    for path in package_tree.files(built.root):
        if not (built.root / path).is_symlink():
            data = (built.root / path).read_bytes()
            assert not [found for found in paths_of_this_machine() if found in data], path


@pytest.mark.parametrize("program", FROZEN, ids=lambda path: path.name)
def test_no_module_has_a_path_of_the_machine_that_built_it(built: Built, program: Path) -> None:
    archive = CArchiveReader(str(built.root / program))
    modules = archive.open_embedded_archive("PYZ.pyz")
    assert isinstance(modules, ZlibArchiveReader)
    for name in modules.toc:
        data = modules.extract(name, raw=True) or b""
        assert not [found for found in paths_of_this_machine() if found in data], name


@pytest.mark.parametrize("program", FROZEN[:2], ids=lambda path: path.name)
def test_the_plugin_has_neither_the_servers_nor_the_tests_modules(
    built: Built, program: Path
) -> None:
    modules = CArchiveReader(str(built.root / program)).open_embedded_archive("PYZ.pyz")
    found = {name.split(".")[0] for name in modules.toc}
    assert not found & {"grpc", "pyetcd", "statestore", "pytest", "hypothesis", "lab", "rich"}


def test_the_packages_are_the_same_from_the_same_tree(built: Built, tmp_path: Path) -> None:
    epoch = int(built.root.stat().st_mtime)
    again = Built(tmp_path)
    package.write_deb(built.root, again.deb, package.version(), epoch)
    package.write_tarball(built.root, again.tarball, epoch)
    assert again.deb.read_bytes() == built.deb.read_bytes()
    assert again.tarball.read_bytes() == built.tarball.read_bytes()


def test_the_launchers_find_the_complete_plugin_beside_them(built: Built) -> None:
    for name in launcher.NAMES:
        for path in (name, f"netspace-plugin/{name}"):
            assert os.access(built.root / package_tree.CNI / path, os.X_OK)


def test_the_owners_are_the_super_user(built: Built) -> None:
    listed = subprocess.run(
        ["dpkg-deb", "--contents", built.deb], check=True, capture_output=True, text=True
    )
    assert {line.split()[1] for line in listed.stdout.splitlines()} == {"root/root"}


def test_systemd_takes_the_units(built: Built, tmp_path: Path) -> None:
    # Where the programs would be on the machine; systemd looks whether they can be executed.
    for unit in SYSTEMD.iterdir():
        text = unit.read_text().replace("/usr/sbin/", f"{built.root}/usr/sbin/")
        (tmp_path / unit.name).write_text(text.replace("Documentation=", "#"))
    checked = subprocess.run(
        ["systemd-analyze", "verify", *sorted(tmp_path.iterdir())],
        env=programs.environment() | {"SYSTEMD_LOG_LEVEL": "warning"},
        capture_output=True,
        text=True,
    )
    ours = [line for line in checked.stderr.splitlines() if "netspace" in line]
    assert (checked.returncode, ours) == (0, [])


def test_the_units_start_what_is_installed(built: Built) -> None:
    for unit in SYSTEMD.glob("*.service"):
        [program] = re.findall(r"(?m)^ExecStart=(\S+)", unit.read_text())
        assert (built.root / program[1:]).resolve().is_file()
