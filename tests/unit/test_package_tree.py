"""The configuration that is installed: the examples of conf/, less what only they can know."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cni_plugins import node_config
from ipam_server.config import ServerConfig
from lab import freezing, package, package_tree, programs
from lab.package_tree import EXAMPLES, without_examples
from netspace.config import load

CONF = programs.CLONE / "conf"


def installed(name: str) -> str:
    return without_examples((CONF / name).read_text(), EXAMPLES[name])


def test_a_key_with_all_below_it_becomes_a_comment() -> None:
    text = "# of a\na: 1\n\nb:\n  # of c\n  - c: 2\n\n# of d\nd: 3\n"
    assert without_examples(text, ["b"]) == (
        "# of a\na: 1\n\n# b:\n#   # of c\n#   - c: 2\n\n# of d\nd: 3\n"
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_other_keys_stay_as_they_are(name: str) -> None:
    example = yaml.safe_load((CONF / name).read_text())
    left = {key: value for key, value in example.items() if key not in EXAMPLES[name]}
    assert (yaml.safe_load(installed(name)) or {}) == left


def test_a_node_is_named_by_its_host_and_has_no_bond_until_it_is_told(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(installed("node.yaml"))
    config = node_config.load(file)
    assert config.bonds == ()
    assert config.node_name == node_config.parse(b"cluster: prod", file).node_name


def test_a_server_is_named_by_its_host(tmp_path: Path) -> None:
    file, empty = tmp_path / "server.yaml", tmp_path / "empty.yaml"
    file.write_text(installed("server.yaml"))
    empty.write_text("{}\n")
    assert load(file, ServerConfig) == load(empty, ServerConfig)


def test_a_path_of_the_interpreter_is_replaced_by_as_many_bytes() -> None:
    data = b"\0/home/somebody/.pyenv/versions/3.11.7/lib\0"
    cleaned = freezing.without_prefix(data, b"/home/somebody/.pyenv/versions/3.11.7")
    assert len(cleaned) == len(data)
    assert b"somebody" not in cleaned
    assert cleaned.startswith(b"\0/usr/lib/") and cleaned.endswith(b"///3.11.7/lib\0")
    assert freezing.without_prefix(b"/usr/lib/python3", b"/usr") == b"/usr/lib/python3"


def test_the_packages_are_known_by_what_they_are_made_of() -> None:
    assert package.fingerprint(1) == package.fingerprint(1)
    assert package.fingerprint(1) != package.fingerprint(2)


def test_every_program_that_is_declared_is_frozen() -> None:
    frozen = {name for names in freezing.FOLDERS.values() for name in names}
    assert frozen == set(freezing.entry_points())
    assert set(package_tree.LINKS) == {
        "usr/sbin/netspace-agent",
        "usr/sbin/netspace-server",
        "usr/sbin/netspace-controller",
        "usr/sbin/netspace-federation",
        "usr/bin/netspacectl",
    }
