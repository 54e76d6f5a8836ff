"""The definition of the custom resource Federation, made of the messages to a federation server."""

from __future__ import annotations

from typing import Final

from kube_controller.declared_federation import DeclaredFederation
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
from netspace import names

_WORDS: Final = {
    "found": "This cluster founds the federation; the others join it by a token.",
    "token": "This cluster joins by a token of the founder's, which works once; it is read until"
    " this cluster is a member.",
    "secret": "The Secret's name, in the controller's own namespace.",
    "key": "The token's key in the Secret.",
    "ranges": "Pod ranges that are federated as they stand, like 10.8.0.0/16.",
    "pools": "Pools of this cluster, on Netspace, whose ranges are federated as they are at any"
    " time.",
    "networks": "Networks of this cluster, on Netspace, all of whose pools are federated.",
    "exposed": "What of them the others may reach; without it, all.",
    "transport": "tcp, udp or sctp.",
    "first": "The first port.",
    "last": "The last port.",
    "layout": "distributed (every node is a gateway) or centralised (those that are labelled).",
    "vni": "Of the federation's VXLAN meshes; by default made of its name. The founder's; never"
    " changes.",
    "pairs": "The kind of pairs where it does not follow from the members' CNIs, in force once both"
    " are members. The founder's; without it whatever there is stays.",
    "one": "A member.",
    "other": "Another member.",
    "kind": "heterogeneous (IPsec through gateways) or homogeneous (a VXLAN mesh of all nodes).",
    "settings": "Of the federation as a whole. The founder's; without it whatever there is stays.",
    "gateways": "How many gateways of another cluster a node holds tunnels to, at most.",
    "probe": "Seconds between two probes of a path.",
    "losses": "So many lost probes in a row take a gateway out.",
    "rekey": "Seconds for which a key of ESP is used.",
    "port": "The UDP port of VXLAN.",
    "probe_port": "The UDP port of probes.",
    "mark": "The bits of packet marks that are the federation's, at least four next to each other.",
}
_FOUNDERS: Final = ("vni", "pairs", "settings")


def federation() -> Schema:
    """The definition."""
    spec = spec_of(DeclaredFederation, _WORDS)
    founds = {"required": ["found"], **is_one_of("found", True)}
    spec["allOf"] = [
        {"anyOf": [founds, {"required": ["token"]}]},
        {"anyOf": [{"not": {"required": ["token"]}}, is_one_of("found", False)]},
        *({"anyOf": [{"not": {"required": [field]}}, founds]} for field in _FOUNDERS),
    ]
    figures = {
        "founder": text("The cluster that founded it."),
        "number": number("Counts the changes of the federation as a whole."),
        "ranges": _texts("What of this cluster is federated."),
        "faults": _texts("What is wrong with this cluster in it."),
        "membersText": text("How many of the other members are reached."),
        "members": {
            "type": "array",
            "description": "The other members, as this cluster sees them.",
            "items": _member(),
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["cluster"],
        },
    }
    columns = [
        column("Founder", "string", ".status.founder"),
        column("Members", "string", ".status.membersText"),
        _condition("Joined"),
        _condition("Reachable"),
        _condition("Overlap"),
        *COLUMNS,
    ]
    what = "This cluster's membership in a federation, whose name it has."
    return definition("Federation", "nsfed", what, spec, figures, columns, names.FEDERATION)


def _member() -> Schema:
    return {
        "type": "object",
        "required": ["cluster"],
        "properties": {
            "cluster": text("Its name."),
            "kind": text("heterogeneous (IPsec) or homogeneous (VXLAN)."),
            "cni": text("Its CNI."),
            "reached": {"type": "boolean", "description": "Whether its servers answer."},
            "lastContact": {
                "type": "string",
                "format": "date-time",
                "description": "When they last did, to the minute.",
            },
            "ranges": _texts("Its federated ranges."),
            "nodes": number("Its nodes."),
            "nodesDown": number("Those that its own servers do not hear."),
            "gateways": number("Its gateways."),
            "gatewaysAvailable": number("Those that this cluster can use."),
            "tunnelsUp": number("Tunnels of this cluster's nodes to it that are up."),
            "tunnelsWanted": number("Those that there should be."),
            "fault": text("Why it is not reached, or what it tells is not applied."),
        },
    }


def _texts(words: str) -> Schema:
    return {"type": "array", "items": {"type": "string"}, "description": words}


def _condition(kind: str) -> Schema:
    return column(kind, "string", f'.status.conditions[?(@.type=="{kind}")].status')
