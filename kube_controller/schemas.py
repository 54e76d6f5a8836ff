"""The custom resource definitions, made of the API's messages: what Kubernetes refuses by itself.

Limits, defaults and words are those of `netspace.messages`, so that the two cannot differ. What a
schema of Kubernetes 1.20 cannot say (an address within its subnet, fields that never change) is
refused by the server, and told as a condition. `python -m kube_controller.schemas FOLDER` writes
the files; a test compares them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from kube_controller.schema_federation import federation
from kube_controller.schema_parts import (
    COLUMNS,
    Schema,
    column,
    definition,
    is_one_of,
    number,
    spec_of,
    text,
)
from netspace.messages import NewNetwork, NewPool

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
_NETWORK_WORDS: Final = {**_WORDS, "parent": "The link below the VLAN on every node."}
_POOL_WORDS: Final = {
    **_WORDS,
    "parent": "The netspace pool that an application pool is carved from; without it the space"
    " comes from the network. Never changes.",
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


def definitions() -> dict[str, Schema]:
    """The definitions by their plural."""
    return {"federations": federation(), "networks": _network(), "pools": _pool()}


def _network() -> Schema:
    spec = spec_of(NewNetwork, _NETWORK_WORDS, _SPECIAL)
    spec["anyOf"] = [{"required": ["ipv4"]}, {"required": ["ipv6"]}]
    spec["allOf"] = [
        {"anyOf": [is_one_of("mapping", "offset"), {"required": ["ipv4", "ipv6"]}]},
        {"anyOf": [{"not": {"required": ["gateway4"]}}, {"required": ["ipv4"]}]},
        {"anyOf": [{"not": {"required": ["gateway6"]}}, {"required": ["ipv6"]}]},
    ]
    figures = {
        "uid": text("Tells it from an earlier one of the same name."),
        "total": text("Addresses that pools can be carved from."),
        "carved": text("Those that lie in pools."),
        "used": number("Those that are held."),
        "reserved": number("Held ones that are no pod's."),
    }
    columns = [
        column("VLAN", "integer", ".spec.vlan"),
        column("IPv4", "string", ".spec.ipv4"),
        column("IPv6", "string", ".spec.ipv6"),
        column("Total", "string", ".status.total"),
        column("Carved", "string", ".status.carved"),
        column("Used", "integer", ".status.used"),
        *COLUMNS,
    ]
    what = "One layer-2 segment of the cluster, from which pools are carved."
    return definition("Network", "nsnet", what, spec, figures, columns)


def _pool() -> Schema:
    spec = spec_of(NewPool, _POOL_WORDS, _SPECIAL)
    # An empty list would be a size that says nothing.
    spec["properties"]["ranges"]["minItems"] = 1
    spec["properties"]["surplus"] = {
        "type": "integer",
        "minimum": 0,
        "maximum": 65_536,
        "description": _WORDS["surplus"],
    }
    sized = [{"required": [field]} for field in ("ranges", "size", "elastic")]
    application = is_one_of("kind", "application")
    tenants = is_one_of("kind", "application", "netspace")
    spec["allOf"] = [
        {"not": {"required": ["ranges", "size"]}},
        {"anyOf": [*sized, application]},
        {"anyOf": [{"not": {"required": ["parent"]}}, application]},
        {"anyOf": [{"not": {"required": ["namespaces"]}}, tenants]},
        {"anyOf": [{"not": {"required": ["surplus"]}}, {"not": {"anyOf": sized}}]},
    ]
    figures = {
        "size": text("Addresses, those of nested pools left out."),
        "used": number("Those that are held."),
        "free": text("Those that can be given now."),
        "cooling": number("Released ones that rest."),
        "retained": number("Released ones that are kept for a pod's name."),
        "replicas": number("What it follows, where it follows its workloads."),
        "ranges": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Where its addresses are.",
        },
    }
    columns = [
        column("Kind", "string", ".spec.kind"),
        column("Network", "string", ".spec.network"),
        column("Size", "string", ".status.size"),
        column("Used", "integer", ".status.used"),
        column("Free", "string", ".status.free"),
        *COLUMNS,
    ]
    what = "An isolated part of one network, from which pods get their addresses."
    return definition("Pool", "nspool", what, spec, figures, columns)


class _Plain(yaml.SafeDumper):
    """What is said twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def written(made: Schema) -> str:
    """The file of a definition."""
    head = "# Made by `python -m kube_controller.schemas packaging/kubernetes/base/crds`.\n"
    return head + yaml.dump(made, Dumper=_Plain, sort_keys=False, width=100, allow_unicode=True)


def main() -> None:
    """Writes the files into the folder named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for plural, made in definitions().items():
        (folder / f"{plural}.yaml").write_text(written(made))


if __name__ == "__main__":
    main()
