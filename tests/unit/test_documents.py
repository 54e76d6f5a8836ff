"""What the documents say is there: commands, links, paths, dependencies, configuration keys."""

from __future__ import annotations

import configparser
import importlib.util
import json
import re
import shlex
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
import yaml

import netspace
from cni_plugins import node_config
from cni_plugins.netconf import IpamConf, NetConf, parse_netconf
from cni_plugins.node_config import BondSection, NodeConfig, ServerSection
from lab import packages, place, programs, topology
from lab.__main__ import COMMANDS
from netspace import selection
from tests.unit.test_netspacectl_reference import examples, parsed

CLONE = programs.CLONE
DOCUMENTS = [
    path
    for folder in (CLONE, CLONE / "docs", CLONE / "conf")
    for path in sorted(folder.glob("*.md"))
]
README = (CLONE / "README.md").read_text()


def named(document: Path) -> str:
    return str(document.relative_to(CLONE))


def blocks(kind: str, text: str) -> list[str]:
    """The contents of the fenced blocks of a kind."""
    return re.findall(rf"(?m)^```{kind}\n(.*?)^```$", text, re.DOTALL)


def table(text: str, heading: str) -> list[str]:
    """The first column, without its backticks, of the first table below a heading."""
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"(?m)^\| `([^`]+)`", section)


def keys(*models: type[msgspec.Struct]) -> set[str]:
    """The keys of the models, as configuration files write them."""
    return {field.encode_name for model in models for field in msgspec.structs.fields(model)}


# Commands

COMMAND_LINES = [
    pytest.param(line, id=f"{named(document)}: {line}")
    for document in DOCUMENTS
    if document.name != "cli.md"
    for line in examples(document.read_text())
]


KUBECTL = {
    "annotate",
    "apply",
    "create",
    "delete",
    "describe",
    "exec",
    "get",
    "label",
    "rollout",
    "taint",
    "wait",
}


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_a_command_shown_is_one_that_there_is(line: str) -> None:
    check_command(shlex.split(line))


def check_command(words: list[str]) -> None:
    program, *arguments = words
    if program == "./run":
        check_run(*arguments)
    elif program == "netspacectl":
        assert parsed(shlex.join(words)).command_path.startswith("netspacectl ")
    elif program == ".venv/bin/python":
        assert arguments[0] == "-m"
        assert importlib.util.find_spec(arguments[1]) is not None
    elif program == "kubectl":
        # Not everywhere, and of another version everywhere: tests/kubernetes has one.
        assert KUBECTL & {*arguments}
        if "--" in arguments:
            check_command(arguments[arguments.index("--") + 1 :])
    else:
        assert programs.lookup(program) is not None, f"no program {program}"


def check_run(name: str, *arguments: str) -> None:
    assert name in COMMANDS
    if name == "lab":
        check_command(list(arguments))
    elif name == "test":
        for argument in arguments:
            assert "/" not in argument or (CLONE / argument.partition("::")[0]).exists()
    else:
        for argument in arguments:
            assert argument in re.findall(r"[\w-]+", COMMANDS[name].usage)


def test_the_tour_looks_where_the_demo_stands() -> None:
    shown = re.findall(r"--server unix://(\S+) (?:--cluster (\S+))?", README)
    assert {Path(path).name for path, _ in shown} == {"server.sock"}
    assert {Path(path).parent.name for path, _ in shown} == {place.FOLDER.name}
    assert {cluster for _, cluster in shown} == {place.CLUSTER, ""}
    entered = re.findall(r"netns exec (\S+)", README)
    assert entered
    assert set(entered) <= {topology.netns(node) for node in place.NODES}


def test_what_the_readme_quotes_of_the_demo_is_what_the_demo_says() -> None:
    demo = (CLONE / "lab" / "demo.py").read_text()
    [quoted] = [block for block in blocks("text", README) if "demo: " in block]
    for line in quoted.splitlines():
        if command := re.fullmatch(r"   \$ (netspacectl .*)", line):
            assert parsed(command[1])
            continue
        said = re.fullmatch(r"(?:   ok     |\d+\. )(.*?)(?: \([^()]*\))?", line)
        assert said is None or f'"{said[1]}"' in demo, line


# Annotations


def test_the_annotations_listed_are_those_that_are_read() -> None:
    listed = table(README, "A tour of five minutes")
    assert listed == [selection.PREFIX + key for key in selection.KEYS]


def test_the_pod_shown_asks_for_something() -> None:
    [pod] = blocks("yaml", README)
    asked = selection.from_annotations(yaml.safe_load(pod)["metadata"]["annotations"])
    assert (asked.netspace, asked.ip) == ("tenant-a", ("10.91.0.30",))


# Links and paths

LINKS = [
    pytest.param(document, target, id=f"{named(document)}: {target}")
    for document in DOCUMENTS
    for target in dict.fromkeys(re.findall(r"\]\(([^)\s]+)\)", document.read_text()))
    if not target.startswith("https://")
]


@pytest.mark.parametrize(("document", "target"), LINKS)
def test_a_link_leads_somewhere(document: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    found = document.parent / path if path else document
    assert found.exists()
    if anchor:
        headings = re.findall(r"(?m)^#+ (.*)$", found.read_text())
        assert anchor in {slug(heading) for heading in headings}


def slug(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_a_path_in_backticks_exists(document: Path) -> None:
    words = re.findall(r"`([A-Za-z_.][\w.-]*/[\w./-]*)`", document.read_text())
    # Kubernetes' names of labels, annotations and finalizers begin with a domain.
    paths = [word for word in words if not re.match(r"[a-z0-9-]+(\.[a-z0-9-]+)+/", word)]
    missing = [path for path in paths if not (CLONE / path).exists()]
    assert missing == []


@pytest.mark.parametrize("picture", sorted((CLONE / "docs").glob("*.svg")), ids=named)
def test_a_picture_can_be_read_and_has_words_for_those_who_cannot_see_it(picture: Path) -> None:
    root = ElementTree.fromstring(picture.read_text())
    names = {"svg": "http://www.w3.org/2000/svg"}
    assert root.findtext("svg:title", namespaces=names)
    assert root.findtext("svg:desc", namespaces=names)
    assert any(f"({picture.name})" in text or f"/{picture.name})" in text for text in texts())


def texts() -> Iterable[str]:
    return (document.read_text() for document in DOCUMENTS)


# What is declared elsewhere

DEPENDENCIES = (CLONE / "docs" / "dependencies.md").read_text()


@pytest.fixture(scope="module")
def declared() -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    found.read(CLONE / "setup.cfg")
    return found


@pytest.mark.parametrize(
    ("heading", "section", "option"),
    [
        ("At run time", "options", "install_requires"),
        ("For development", "options.extras_require", "dev"),
    ],
)
def test_the_dependencies_listed_are_those_declared(
    declared: configparser.ConfigParser, heading: str, section: str, option: str
) -> None:
    lines = declared.get(section, option).split("\n")
    names = [re.split(r"[ <>=~!\[;]", line)[0] for line in lines if line]
    assert table(DEPENDENCIES, heading) == names


def test_the_programs_listed_are_those_that_are_brought() -> None:
    brought = [*packages.COMMON, *packages.LAB_KERNEL, *packages.LINT]
    brought += [*packages.BENCH, *packages.METRICS, *packages.BUILD, *packages.CLOCK]
    brought += packages.RUNTIMES
    brought += packages.PACKAGE
    brought += packages.KUBERNETES
    brought += packages.IPSEC
    assert sorted(table(DEPENDENCIES, "Programs of the system")) == sorted(
        package.name for package in brought
    )


def test_the_changelog_has_the_version(declared: configparser.ConfigParser) -> None:
    changes = (CLONE / "CHANGELOG.md").read_text()
    [newest, *_] = re.findall(r"(?m)^## \[([^\]]+)\] - (?:unreleased|\d{4}-\d\d-\d\d)$", changes)
    assert newest == netspace.__version__ == declared.get("metadata", "version")


# Configuration examples; the server's has its own test beside its model.


def test_the_nodes_example_is_correct_and_names_every_key() -> None:
    path = CLONE / "conf" / "node.yaml"
    assert node_config.load(path).bonds
    words = set(re.findall(r"[a-z_]\w*", path.read_text()))
    assert keys(NodeConfig, ServerSection, BondSection) <= words


def test_the_example_list_is_correct() -> None:
    listed = json.loads((CLONE / "conf" / "10-netspace.conflist").read_text())
    [plugin] = listed["plugins"]
    documented = {"type", *table(conf_page(), "The plugin `netspace`")}
    assert set(plugin) <= documented
    assert parse_netconf(plugin).ipam.type == "netspace-ipam"


def test_every_key_of_the_plugins_is_explained() -> None:
    added_by_runtime, for_runtime = {"runtimeConfig"}, {"capabilities"}
    plugin = set(table(conf_page(), "The plugin `netspace`"))
    assert plugin - for_runtime == keys(NetConf) - added_by_runtime
    assert set(table(conf_page(), "The IPAM plugin `netspace-ipam`")) == keys(IpamConf)


def conf_page() -> str:
    return (CLONE / "conf" / "README.md").read_text()
