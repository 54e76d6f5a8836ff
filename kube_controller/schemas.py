"""The custom resource definitions, made of the API's messages: what Kubernetes refuses by itself.

Limits, defaults and words are those of `netspace.messages`, so that the two cannot differ. What a
schema of Kubernetes 1.20 cannot say (an address within its subnet, fields that never change) is
refused by the server, and told as a condition. `python -m kube_controller.schemas FOLDER` writes
the files; a test compares them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from kube_controller.kinds import GROUP, VERSION
from netspace import names
from netspace.messages import NewNetwork, NewPool

Schema = dict[str, Any]

_WORDS: Final[Mapping[str, str]] = {
    # Networks.
    "fabric": "The physical network that it lies in; inside one an address exists once. Never"
    " changes.",
    "vlan": "The VLAN on the parent; leave it out for untagged.",
    "ipv4": "The IPv4 subnet, like 10.9.0.0/24. Never changes.",
    "ipv6": "The IPv6 subnet, like fd00:9::/64. Never changes.",
    "gateway4": "The IPv4 gateway, an address of the subnet.",
    "gateway6": "The IPv6 gateway, an address of the subnet or a link-local one.",
    "mapping": "How the two families' addresses belong together: offset (the same distance from"
    " either subnet's start) or embedded (the IPv4 address in the last 32 bits). Never changes.",
    "mtu": "Bytes; 0 takes the parent's.",
    "range": "The part of the subnets that is this cluster's: addresses, FIRST-LAST or subnets."
    " Never changes.",
    "exclude": "What no pod ever gets: addresses, FIRST-LAST or subnets.",
    "services": "isolated: pods reach no backend on another VLAN by a Service, nor the reverse.",
    # Pools.
    "kind": "default (for pods that choose nothing), netspace (chosen by name) or application (for"
    " one stateful application). Never changes.",
    "network": "The network that it is carved from. Never changes.",
    "ranges": "Exactly these: addresses, FIRST-LAST or subnets. Or name a size.",
    "size": "How many addresses; the server chooses which.",
    "namespaces": "Whose pods may name the pool; '*' is all. A default pool has none, and a nested"
    " one has its parent's unless it lists some of them.",
    "cooldown": "Seconds for which a released address rests before another pod gets it.",
    "retention": "Seconds for which a named pod's address is kept for that name.",
    "elastic": "Bounds within which it grows and shrinks by itself.",
    "probe": "Whether nodes ask the link for another owner of an address before a pod gets it.",
    "surplus": "Of an application pool that follows its workloads (neither ranges nor size nor"
    " elastic): addresses beyond their replicas.",
    # Elastic.
    "minimum": "Addresses that it never falls below.",
    "maximum": "Addresses that it never grows beyond.",
    "step": "Addresses that come or go at once.",
    "low": "It grows as soon as fewer than this are free.",
    "quiet": "Seconds for which addresses must have been left over before some go.",
}
_PARENTS: Final = {
    "Network": "The link below the VLAN on every node.",
    "Pool": "The netspace pool that an application pool is carved from; without it the space comes"
    " from the network. Never changes.",
}

_SUBNET4: Final = {"type": "string", "format": "cidr", "pattern": r"^[0-9.]{7,15}/[0-9]{1,2}$"}
_SUBNET6: Final = {
    "type": "string",
    "format": "cidr",
    "pattern": r"^[0-9a-fA-F:.]{2,45}/[0-9]{1,3}$",
}
_SPECIAL: Final[Mapping[str, Schema]] = {
    "ipv4": {**_SUBNET4, "maxLength": 18},
    "ipv6": {**_SUBNET6, "maxLength": 49},
    "gateway4": {"type": "string", "format": "ipv4", "maxLength": 15},
    "gateway6": {"type": "string", "format": "ipv6", "maxLength": 45},
    # A number for people, text where it passes 2^53.
    "size": {
        "x-kubernetes-int-or-string": True,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "pattern": r"^[1-9][0-9]{0,38}$",
        "minimum": 1,
    },
}
_WITHOUT: Final = {"name", "owner"}


def definitions() -> dict[str, Schema]:
    """The definitions by their plural."""
    return {"networks": _network(), "pools": _pool()}


def _network() -> Schema:
    spec = _spec(NewNetwork, "Network")
    spec["anyOf"] = [{"required": ["ipv4"]}, {"required": ["ipv6"]}]
    spec["allOf"] = [
        {"anyOf": [_is("mapping", "offset"), {"required": ["ipv4", "ipv6"]}]},
        {"anyOf": [{"not": {"required": ["gateway4"]}}, {"required": ["ipv4"]}]},
        {"anyOf": [{"not": {"required": ["gateway6"]}}, {"required": ["ipv6"]}]},
    ]
    figures = {
        "uid": _text("Tells it from an earlier one of the same name."),
        "total": _text("Addresses that pools can be carved from."),
        "carved": _text("Those that lie in pools."),
        "used": _number("Those that are held."),
        "reserved": _number("Held ones that are no pod's."),
    }
    columns = [
        _column("VLAN", "integer", ".spec.vlan"),
        _column("IPv4", "string", ".spec.ipv4"),
        _column("IPv6", "string", ".spec.ipv6"),
        _column("Total", "string", ".status.total"),
        _column("Carved", "string", ".status.carved"),
        _column("Used", "integer", ".status.used"),
        *_COLUMNS,
    ]
    what = "One layer-2 segment of the cluster, from which pools are carved."
    return _definition("Network", "nsnet", what, spec, figures, columns)


def _pool() -> Schema:
    spec = _spec(NewPool, "Pool")
    # An empty list would be a size that says nothing.
    spec["properties"]["ranges"]["minItems"] = 1
    spec["properties"]["surplus"] = {
        "type": "integer",
        "minimum": 0,
        "maximum": 65_536,
        "description": _WORDS["surplus"],
    }
    sized = [{"required": [field]} for field in ("ranges", "size", "elastic")]
    application = _is("kind", "application")
    spec["allOf"] = [
        {"not": {"required": ["ranges", "size"]}},
        {"anyOf": [*sized, application]},
        {"anyOf": [{"not": {"required": ["parent"]}}, application]},
        {"anyOf": [{"not": {"required": ["namespaces"]}}, _is("kind", "application", "netspace")]},
        {"anyOf": [{"not": {"required": ["surplus"]}}, {"not": {"anyOf": sized}}]},
    ]
    figures = {
        "size": _text("Addresses, those of nested pools left out."),
        "used": _number("Those that are held."),
        "free": _text("Those that can be given now."),
        "cooling": _number("Released ones that rest."),
        "retained": _number("Released ones that are kept for a pod's name."),
        "replicas": _number("What it follows, where it follows its workloads."),
        "ranges": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Where its addresses are.",
        },
    }
    columns = [
        _column("Kind", "string", ".spec.kind"),
        _column("Network", "string", ".spec.network"),
        _column("Size", "string", ".status.size"),
        _column("Used", "integer", ".status.used"),
        _column("Free", "string", ".status.free"),
        *_COLUMNS,
    ]
    what = "An isolated part of one network, from which pods get their addresses."
    return _definition("Pool", "nspool", what, spec, figures, columns)


def _definition(
    kind: str,
    short: str,
    what: str,
    spec: Schema,
    figures: Schema,
    columns: list[Schema],
) -> Schema:
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
                    "name": {"type": "string", "maxLength": 63, "pattern": _pattern(names.NAME)}
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


def _spec(message: type[msgspec.Struct], kind: str) -> Schema:
    """The message's fields as a schema of Kubernetes': structural, with its regular expressions."""
    _, components = msgspec.json.schema_components([message], ref_template="{name}")
    return _object(components[message.__name__], components, kind)


def _object(schema: Schema, components: Mapping[str, Schema], kind: str) -> Schema:
    properties = {
        name: _field(name, field, components, kind)
        for name, field in schema["properties"].items()
        if name not in _WITHOUT
    }
    required = [name for name in schema.get("required", []) if name not in _WITHOUT]
    made: Schema = {"type": "object", "properties": properties}
    return {**made, "required": required} if required else made


def _field(name: str, schema: Schema, components: Mapping[str, Schema], kind: str) -> Schema:
    words = _PARENTS[kind] if name == "parent" else _WORDS[name]
    if name in _SPECIAL:
        return {**_SPECIAL[name], "description": words}
    made = _plain(schema, components, kind)
    # What is empty where nothing is said is left out: it says nothing.
    default = schema.get("default")
    if default not in (None, [], ""):
        made["default"] = default
    return {**made, "description": words}


def _plain(schema: Schema, components: Mapping[str, Schema], kind: str) -> Schema:
    if "anyOf" in schema:
        kinds = [each for each in schema["anyOf"] if each.get("type") != "null"]
        assert len(kinds) == 1
        return _plain(kinds[0], components, kind)
    if "$ref" in schema:
        return _object(components[schema["$ref"]], components, kind)
    made = {
        key: value
        for key, value in schema.items()
        if key in ("type", "enum", "minimum", "maximum", "minLength", "maxLength", "maxItems")
    }
    if "enum" in made:
        made["type"] = "string"
    if "items" in schema:
        made["items"] = _plain(schema["items"], components, kind)
    pattern = schema.get("pattern")
    if pattern is not None:
        made["pattern"] = _pattern(pattern)
        if pattern == names.LINK:
            made["not"] = {"enum": [".", ".."]}
    return made


def _pattern(pattern: str) -> str:
    """The expression for Go, which knows no look-ahead, and whose `$` is the very end."""
    found = pattern.replace(names.END, "$").replace(r"(?!\.{1,2}$)", "")
    if re.search(r"\(\?[!=<]", found):
        raise ValueError(f"{pattern} cannot be said in a schema of Kubernetes'")
    return found


def _is(field: str, *values: str) -> Schema:
    return {"properties": {field: {"enum": list(values)}}}


def _text(words: str) -> Schema:
    return {"type": "string", "description": words}


def _number(words: str) -> Schema:
    return {"type": "integer", "format": "int64", "description": words}


def _column(name: str, kind: str, path: str) -> Schema:
    return {"name": name, "type": kind, "jsonPath": path}


_COLUMNS: Final = [
    _column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
    {**_column("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason'), "priority": 1},
    _column("Age", "date", ".metadata.creationTimestamp"),
]


class _Plain(yaml.SafeDumper):
    """What is said twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def written(definition: Schema) -> str:
    """The file of a definition."""
    head = "# Made by `python -m kube_controller.schemas packaging/kubernetes/base/crds`.\n"
    return head + yaml.dump(
        definition, Dumper=_Plain, sort_keys=False, width=100, allow_unicode=True
    )


def main() -> None:
    """Writes the files into the folder named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for plural, definition in definitions().items():
        (folder / f"{plural}.yaml").write_text(written(definition))


if __name__ == "__main__":
    main()
