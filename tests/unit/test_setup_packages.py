"""What apt says it would add, and where the programs that were unpacked are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import packages, programs

SIMULATION = """\
Reading package lists...
NOTE: This is only a simulation!
The following NEW packages will be installed:
  ipset libipset13
Inst libc6 [2.36-9+deb12u9] (2.36-9+deb12u10 Debian:12.11/stable [amd64])
Inst libipset13 (7.17-1 Debian:12.11/stable [amd64])
Inst ipset (7.17-1 Debian:12.11/stable [amd64]) []
Inst iputils-ping (3:20221126-1+deb12u1 Debian:12.11/stable, Debian-Security:12 [amd64])
Conf libipset13 (7.17-1 Debian:12.11/stable [amd64])
Conf ipset (7.17-1 Debian:12.11/stable [amd64])
"""


def test_what_is_new_is_unpacked_and_what_would_be_upgraded_is_left_alone() -> None:
    assert packages.new_packages(SIMULATION) == {
        "libipset13": "7.17-1",
        "ipset": "7.17-1",
        "iputils-ping": "3:20221126-1+deb12u1",
    }


def test_only_packages_whose_programs_cannot_be_found_are_missing() -> None:
    present = packages.Package("here", lambda: True)
    absent = packages.Package("gone", lambda: False)
    assert packages.missing([present, absent]) == ["gone"]


def test_nothing_is_asked_of_apt_when_nothing_is_missing() -> None:
    said: list[str] = []
    packages.bring([packages.Package("here", lambda: True)], said.append)
    assert said == []


def test_a_system_without_apt_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(packages.SetupError, match=r"not Debian or Ubuntu: ipset, tcc .*Install"):
        packages.unpack(["ipset", "tcc"], lambda text: None)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An unpacked root with a program, a library and iptables' extensions."""
    place = tmp_path / "root"
    for folder in ("usr/sbin", "usr/bin", "usr/lib/x86_64-linux-gnu/xtables"):
        (place / folder).mkdir(parents=True)
    for program in ("usr/sbin/netspace-tried", "usr/bin/sh"):
        (place / program).write_text("#!/bin/sh\n")
        (place / program).chmod(0o755)
    monkeypatch.setattr(programs, "ROOT", place)
    return place


def test_an_unpacked_program_is_found_with_its_libraries(root: Path) -> None:
    assert programs.find("netspace-tried") == root / "usr/sbin/netspace-tried"
    env = programs.environment({"PATH": "/bin"})
    assert env["LD_LIBRARY_PATH"] == str(root / "usr/lib/x86_64-linux-gnu")
    assert env["XTABLES_LIBDIR"] == str(root / "usr/lib/x86_64-linux-gnu/xtables")


def test_a_program_of_the_machine_is_used_as_it_is(root: Path) -> None:
    assert programs.find("sh") != root / "usr/bin/sh"


def test_a_program_that_is_nowhere_is_an_error_that_says_what_to_do(root: Path) -> None:
    with pytest.raises(programs.ProgramMissing, match=r"'no-such-program'.*\./run setup"):
        programs.find("no-such-program")


def test_asking_for_the_environment_twice_changes_nothing_more(root: Path) -> None:
    once = programs.environment({"PATH": "/opt/x:/bin", "LD_LIBRARY_PATH": "/opt/lib"})
    assert programs.environment(once) == once
    assert once["PATH"].split(":")[:2] == [str(programs.VENV / "bin"), "/opt/x"]
    assert once["LD_LIBRARY_PATH"].split(":")[0] == "/opt/lib"


def test_a_link_to_the_machines_root_is_turned_into_the_unpacked_one(root: Path) -> None:
    (root / "usr/sbin/modprobe").symlink_to("/usr/bin/sh")
    (root / "usr/sbin/elsewhere").symlink_to("/etc/hostname")
    packages.turn_links_inwards(root)
    assert (root / "usr/sbin/modprobe").resolve() == root / "usr/bin/sh"
    assert (root / "usr/sbin/elsewhere").readlink() == Path("/etc/hostname")
