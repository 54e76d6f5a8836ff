"""What the DaemonSet's first container puts onto a node, and takes away again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from cni_plugins import installing, node_config
from cni_plugins.install_main import install_command
from netspace.problems import Problem

SETTINGS = b"cluster: prod\n"


class Node:
    """An image's executables, a node's root, and what was installed there."""

    def __init__(self, folder: Path) -> None:
        self.image, self.root = folder / "image", folder / "host"
        self.conflist = folder / "10-netspace.conflist"
        self.conflist.write_text("{}")
        self.root.mkdir()
        self.build("one")

    def build(self, version: str) -> None:
        (self.image / installing.PLUGIN / "lib").mkdir(parents=True, exist_ok=True)
        (self.image / installing.PLUGIN / "lib" / "code").write_text(version)
        for name in installing.EXECUTABLES:
            (self.image / name).write_text(f"{name} {version}")

    def install(self) -> None:
        installing.install(self.image, self.root, SETTINGS, self.conflist)

    @property
    def bin(self) -> Path:
        return self.root / installing.CNI

    @property
    def plugin(self) -> str:
        return (self.bin / installing.PLUGIN / "lib" / "code").read_text()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_everything_is_in_its_place(node: Node) -> None:
    node.install()
    for name in installing.EXECUTABLES:
        assert (node.bin / name).read_text() == f"{name} one"
        assert os.access(node.bin / name, os.X_OK)
    assert node.plugin == "one"
    assert (node.root / installing.SETTINGS).read_bytes() == SETTINGS
    assert (node.root / installing.LISTS / node.conflist.name).read_text() == "{}"


def test_nothing_half_written_is_left(node: Node) -> None:
    (node.bin / ".netspace-plugin-half").mkdir(parents=True)
    node.install()
    assert not list(node.root.rglob(".*"))


def test_what_is_there_already_is_not_written_again(node: Node) -> None:
    node.install()
    conflist = node.root / installing.LISTS / node.conflist.name
    before = conflist.stat().st_ino, (node.bin / installing.PLUGIN).resolve()
    node.install()
    assert (conflist.stat().st_ino, (node.bin / installing.PLUGIN).resolve()) == before


def test_an_upgrade_leaves_a_running_plugin_its_files(node: Node) -> None:
    node.install()
    running = (node.bin / installing.PLUGIN).resolve()
    node.build("two")
    node.install()
    assert node.plugin == "two"
    assert (running / "lib" / "code").read_text() == "one"
    node.build("three")
    node.install()
    assert node.plugin == "three"
    assert not running.exists()


def test_a_package_on_the_node_is_refused(node: Node) -> None:
    (node.bin / installing.PLUGIN).mkdir(parents=True)
    with pytest.raises(Problem, match="installed on this node by a package"):
        node.install()
    assert not (node.root / installing.LISTS / node.conflist.name).exists()


def test_uninstalling_leaves_configuration_and_other_plugins(node: Node) -> None:
    node.install()
    other, former = node.bin / "bridge", node.root / installing.LISTS / "90-former.conflist"
    other.write_text("bridge")
    former.write_text("{}")
    installing.uninstall(node.root, node.conflist.name)
    assert sorted(node.bin.iterdir()) == [other]
    assert sorted((node.root / installing.LISTS).iterdir()) == [former]
    assert (node.root / installing.SETTINGS).exists()
    installing.uninstall(node.root, node.conflist.name)


def test_a_label_names_the_configuration() -> None:
    assert installing.chosen({}, ["default", "hall-2"]) == "default"
    assert installing.chosen({installing.LABEL: "hall-2"}, ["default", "hall-2"]) == "hall-2"
    with pytest.raises(Problem, match=r"'hall-3', and there is none of that name: default, hall-2"):
        installing.chosen({installing.LABEL: "hall-3"}, ["hall-2", "default"])


def test_the_node_is_named_unless_it_names_itself() -> None:
    path = Path("default.yaml")
    settings = installing.for_node(SETTINGS, "node-1", path)
    assert node_config.parse(settings, path).node == "node-1"
    own = b"cluster: prod\nnode: other\n"
    assert installing.for_node(own, "node-1", path) == own


def test_a_configuration_with_faults_is_not_installed() -> None:
    with pytest.raises(Problem, match=r"hall-2.yaml: clusters: there is no such key"):
        installing.for_node(b"cluster: prod\nclusters: 2\n", "node-1", Path("hall-2.yaml"))


def test_without_the_nodes_name_nothing_is_done(tmp_path: Path) -> None:
    folders = [f"--{name}={tmp_path}" for name in ("root", "from", "executables")]
    done = CliRunner().invoke(install_command, folders, env={"NODE_NAME": ""})
    assert done.exit_code == 2
    assert "spec.nodeName" in done.output
