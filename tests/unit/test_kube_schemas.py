"""The custom resource definitions: those in packaging, and as strict as the API's messages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from kube_controller import declared, schemas
from kube_controller.kinds import Custom, Metadata
from netspace import names
from netspace.messages import Elastic, NewNetwork, NewPool
from netspace.problems import Problem

FOLDER = Path(__file__).parents[2] / "packaging" / "kubernetes" / "base" / "crds"
SCHEMAS = {
    plural: definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for plural, definition in schemas.definitions().items()
}


def spec_of(plural: str) -> dict[str, Any]:
    found: dict[str, Any] = SCHEMAS[plural]["properties"]["spec"]
    return found


@pytest.mark.parametrize("plural", sorted(SCHEMAS))
def test_the_files_are_what_the_messages_say(plural: str) -> None:
    path = FOLDER / f"{plural}.yaml"
    assert path.read_text() == schemas.written(schemas.definitions()[plural]), (
        "write them anew: python -m kube_controller.schemas packaging/kubernetes/base/crds"
    )
    assert yaml.safe_load(path.read_text()) == schemas.definitions()[plural]


@pytest.mark.parametrize(("plural", "message"), [("networks", NewNetwork), ("pools", NewPool)])
def test_every_field_of_the_message_is_there_with_words_and_nothing_else(
    plural: str, message: type[msgspec.Struct]
) -> None:
    fields = {info.name for info in msgspec.structs.fields(message)} - {"name", "owner"}
    properties = spec_of(plural)["properties"]
    assert set(properties) - {"surplus"} == fields
    assert all(field["description"] for field in properties.values())
    bounds = spec_of("pools")["properties"]["elastic"]["properties"]
    assert set(bounds) == {info.name for info in msgspec.structs.fields(Elastic)}


def test_expressions_are_such_as_go_knows() -> None:
    text = yaml.safe_dump(SCHEMAS)
    assert re.findall(r"\(\?[!=<]", text) == []


GOOD_NETWORK = {"ipv4": "10.1.0.0/24"}
GOOD_POOL = {"kind": "netspace", "network": "red", "size": 8}


def refused(plural: str, name: str, spec: dict[str, Any]) -> bool:
    """Whether the schema alone refuses; formats are Kubernetes' own to check."""
    found = {"metadata": {"name": name}, "spec": spec}
    return not jsonschema.Draft202012Validator(SCHEMAS[plural]).is_valid(found)


def refused_by_the_message(plural: str, name: str, spec: dict[str, Any]) -> bool:
    custom = Custom(metadata=Metadata(name=name), spec=spec)
    try:
        (declared.network if plural == "networks" else declared.pool)(custom)
    except Problem:
        return True
    return False


@pytest.mark.parametrize(
    ("plural", "spec"),
    [
        ("networks", GOOD_NETWORK),
        ("networks", {"ipv6": "fd00::/64", "gateway6": "fe80::1", "vlan": 910}),
        ("networks", {"ipv4": "10.1.0.0/24", "ipv6": "fd00::/64", "mapping": "embedded"}),
        ("pools", GOOD_POOL),
        ("pools", {**GOOD_POOL, "size": "340282366920938463463374607431768211456"[:38]}),
        ("pools", {"kind": "application", "network": "red", "surplus": 2}),
        ("pools", {"kind": "application", "network": "red", "parent": "outer", "size": 1}),
        ("pools", {"kind": "default", "network": "red", "elastic": {"minimum": 1, "maximum": 9}}),
    ],
)
def test_what_can_be_is_let_through(plural: str, spec: dict[str, Any]) -> None:
    assert not refused_by_the_message(plural, "a.b-c", spec)
    assert not refused(plural, "a.b-c", spec)


@pytest.mark.parametrize(
    ("plural", "spec"),
    [
        ("networks", {}),
        ("networks", {**GOOD_NETWORK, "vlan": 4095}),
        ("networks", {**GOOD_NETWORK, "parent": ".."}),
        ("networks", {**GOOD_NETWORK, "parent": "a/b"}),
        ("networks", {**GOOD_NETWORK, "mtu": 70000}),
        ("networks", {**GOOD_NETWORK, "mapping": "embedded"}),
        ("networks", {**GOOD_NETWORK, "services": "closed"}),
        ("networks", {"ipv4": "fd00::/64"}),
        ("networks", {**GOOD_NETWORK, "fabric": "Upper"}),
        ("pools", {"kind": "netspace", "network": "red"}),
        ("pools", {**GOOD_POOL, "ranges": ["10.1.0.5"]}),
        ("pools", {**GOOD_POOL, "size": "0"}),
        ("pools", {**GOOD_POOL, "size": 0}),
        ("pools", {**GOOD_POOL, "size": "many"}),
        ("pools", {**GOOD_POOL, "kind": "other"}),
        ("pools", {**GOOD_POOL, "surplus": 1}),
        ("pools", {**GOOD_POOL, "cooldown": -1}),
        ("pools", {**GOOD_POOL, "namespaces": ["A"]}),
        ("pools", {"kind": "netspace", "network": "red", "elastic": {"minimum": 1}}),
    ],
)
def test_what_the_server_would_refuse_the_schema_refuses(plural: str, spec: dict[str, Any]) -> None:
    assert refused(plural, "a", spec)


@pytest.mark.parametrize("name", ["x" * 63, "a.b-c", "9"])
def test_names_are_those_of_the_server(name: str) -> None:
    assert not refused("pools", name, GOOD_POOL)
    assert names.matches(names.NAME, name)


@pytest.mark.parametrize("name", ["x" * 64, "-a", "A", "a/b"])
def test_names_that_the_server_refuses_are_refused(name: str) -> None:
    assert not names.matches(names.NAME, name)
    assert refused("pools", name, GOOD_POOL)
