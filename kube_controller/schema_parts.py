"""What definitions of custom resources are made of: a message of the API's as a schema of
Kubernetes', the definition around it, columns and figures.

Source of the form: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from kube_controller.kinds import GROUP, VERSION
from netspace import names

Schema = dict[str, Any]
Words = Mapping[str, str]
"""What each field of a message means, those of nested ones too."""

WITHOUT: Final = {"name", "owner"}
"""Fields of messages that an object has elsewhere, or not at all."""


def definition(
    kind: str,
    short: str,
    what: str,
    spec: Schema,
    figures: Schema,
    columns: list[Schema],
    pattern: str = names.NAME,
) -> Schema:
    """The definition of a kind that belongs to the whole cluster. `short`: its short name;
    `pattern`: of its objects' names; `figures`: what its status has besides conditions."""
    plural = f"{kind.lower()}s"
    condition = {
        "type": "object",
        "required": ["type", "status"],
        "properties": {
            "type": {"type": "string"},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": {"type": "string"},
            "message": {"type": "string"},
            "observedGeneration": {"type": "integer", "format": "int64"},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
        },
    }
    status = {
        "observedGeneration": {"type": "integer", "format": "int64"},
        "conditions": {
            "type": "array",
            "items": condition,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
        **figures,
    }
    schema = {
        "type": "object",
        "description": what,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 63, "pattern": _pattern(pattern)}
                },
            },
            "spec": spec,
            "status": {
                "type": "object",
                "description": "What the server has.",
                "properties": status,
            },
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["netspace"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


class _Maker:
    """Makes schemas of messages. `special`: fields whose schemas are given."""

    def __init__(
        self, components: Mapping[str, Schema], words: Words, special: Mapping[str, Schema]
    ):
        self._components, self._words, self._special = components, words, special

    def object(self, schema: Schema) -> Schema:
        properties = {
            name: self._field(name, field)
            for name, field in schema["properties"].items()
            if name not in WITHOUT
        }
        required = [name for name in schema.get("required", []) if name not in WITHOUT]
        made: Schema = {"type": "object", "properties": properties}
        return {**made, "required": required} if required else made

    def _field(self, name: str, schema: Schema) -> Schema:
        words = self._words[name]
        if name in self._special:
            return {**self._special[name], "description": words}
        made = self._plain(schema)
        # What is empty where nothing is said is left out: it says nothing.
        default = schema.get("default")
        if default not in (None, [], ""):
            made["default"] = default
        return {**made, "description": words}

    def _plain(self, schema: Schema) -> Schema:
        if "anyOf" in schema:
            kinds = [each for each in schema["anyOf"] if each.get("type") != "null"]
            assert len(kinds) == 1
            return self._plain(kinds[0])
        if "$ref" in schema:
            return self.object(self._components[schema["$ref"]])
        made = {
            key: value
            for key, value in schema.items()
            if key in ("type", "enum", "minimum", "maximum", "minLength", "maxLength", "maxItems")
        }
        if "enum" in made:
            made["type"] = "string"
        if "items" in schema:
            made["items"] = self._plain(schema["items"])
        pattern = schema.get("pattern")
        if pattern is not None:
            made["pattern"] = _pattern(pattern)
            if pattern == names.LINK:
                made["not"] = {"enum": [".", ".."]}
        return made


def spec_of(
    message: type[msgspec.Struct], words: Words, special: Mapping[str, Schema] | None = None
) -> Schema:
    """The message's fields as a schema of Kubernetes': structural, with its regular expressions."""
    _, components = msgspec.json.schema_components([message], ref_template="{name}")
    return _Maker(components, words, special or {}).object(components[message.__name__])


def _pattern(pattern: str) -> str:
    """The expression for Go, which knows no look-ahead, and whose `$` is the very end."""
    found = pattern.replace(names.END, "$").replace(r"(?!\.{1,2}$)", "")
    if re.search(r"\(\?[!=<]", found):
        raise ValueError(f"{pattern} cannot be said in a schema of Kubernetes'")
    return found


def is_one_of(field: str, *values: str | bool) -> Schema:
    return {"properties": {field: {"enum": list(values)}}}


def text(words: str) -> Schema:
    return {"type": "string", "description": words}


def number(words: str) -> Schema:
    return {"type": "integer", "format": "int64", "description": words}


def column(name: str, kind: str, path: str) -> Schema:
    return {"name": name, "type": kind, "jsonPath": path}


COLUMNS: Final = [
    column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
    {**column("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason'), "priority": 1},
    column("Age", "date", ".metadata.creationTimestamp"),
]
