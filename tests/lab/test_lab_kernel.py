"""The kernel that lab tests run on has what they need, and leaves the machine alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

in_lab_kernel = pytest.mark.skipif(
    "NETSPACE_LAB_KERNEL" not in os.environ, reason="about the lab kernel; this one has bonds"
)


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"kernel-{os.getpid()}"
    ip("netns", "add", name)
    yield name
    ip("netns", "delete", name)


def test_a_bond_of_two_cards_carries_a_vlan_and_a_macvlan(netns: str) -> None:
    for card in ("eth0", "eth1"):
        ip("-n", netns, "link", "add", card, "type", "veth", "peer", "name", f"{card}-peer")
    ip("-n", netns, "link", "add", "bond0", "type", "bond", "mode", "active-backup")
    for card in ("eth0", "eth1"):
        ip("-n", netns, "link", "set", card, "master", "bond0")
    ip(
        "-n",
        netns,
        "link",
        "add",
        "link",
        "bond0",
        "name",
        "bond0.910",
        "type",
        "vlan",
        "id",
        "910",
    )
    ip("-n", netns, "link", "add", "link", "bond0.910", "name", "pod0", "type", "macvlan")
    shown = ip("-n", netns, "-d", "link", "show")
    assert "bond mode active-backup" in shown
    assert "vlan protocol 802.1Q id 910" in shown
    assert "pod0@bond0.910" in shown


def test_loading_the_bonding_module_makes_no_bond_of_its_own(netns: str) -> None:
    ip("-n", netns, "link", "add", "bond7", "type", "bond")
    for place in ([], ["-n", netns]):
        assert "bond0" not in ip(*place, "-brief", "link")


@in_lab_kernel
def test_loopback_is_up() -> None:
    assert "127.0.0.1/8" in ip("address", "show", "lo")
    assert "::1/128" in ip("address", "show", "lo")


@in_lab_kernel
def test_the_root_is_read_only_and_what_must_be_writable_is_not_the_machines() -> None:
    with pytest.raises(OSError):
        Path("/usr/netspace-was-here").touch()
    for folder in ("/run", "/tmp", "/var/lib", "/var/tmp", "/dev/shm"):
        place = Path(folder)
        (place / "written").touch()
        (place / "written").unlink()
        kinds = [
            line.split()[2]
            for line in Path("/proc/mounts").read_text().splitlines()
            if line.split()[1] == folder
        ]
        assert kinds[-1] == "tmpfs"


@in_lab_kernel
def test_random_numbers_do_not_keep_anybody_waiting() -> None:
    assert len(os.getrandom(256, os.GRND_NONBLOCK)) == 256


@in_lab_kernel
def test_what_starts_the_kernel_is_not_inherited_by_what_runs_in_it() -> None:
    assert "LD_PRELOAD" not in os.environ
    assert "xstate" not in Path(f"/proc/{os.getpid()}/maps").read_text()
    assert sys.flags.isolated == 0
