"""Which nodes are fenced, and which of their addresses' holders are gone. Pure.

A node is fenced when its Node object was deleted or carries the taint
node.kubernetes.io/out-of-service: somebody's word that it runs nothing any more. A holder is gone
when no pod of its UID is in a list of all pods that was asked for after the holder had been read: a
pod's object is there before its sandbox is, and a UID never comes back. Kubernetes' silence about a
node that lives proves nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from kube_controller.kinds import Node, Pod
from netspace.kubernetes import GoneHolder
from netspace.messages import AddressEntry, Fence


def fenced(nodes: Mapping[str, Node], known: Mapping[str, int]) -> dict[str, Fence]:
    """The fenced ones of the nodes that hold addresses, and why. `nodes`: all that Kubernetes has;
    `known`: all that the server knows, with the number of addresses that each holds. Where
    Kubernetes has none of them it is not their Kubernetes, and nothing follows."""
    if not any(name in nodes for name in known):
        return {}
    found: dict[str, Fence] = {}
    for name, used in known.items():
        node = nodes.get(name)
        if not used:
            continue
        if node is None:
            found[name] = "deleted"
        elif node.out_of_service:
            found[name] = "out-of-service"
    return found


def living(pods: Iterable[Pod]) -> frozenset[str]:
    """The UIDs of pods that run or may run."""
    return frozenset(uid for pod in pods if not pod.finished for uid in pod.uids if uid)


def gone(entries: Iterable[AddressEntry], alive: Collection[str]) -> list[GoneHolder]:
    """The holders that no living pod is. One that Kubernetes did not make has no UID, and nothing
    is said of it; nor of reservations."""
    return [
        GoneHolder(network=entry.network, slot=entry.slot, generation=entry.generation)
        for entry in entries
        if entry.state == "used"
        and entry.uid
        and entry.container
        and entry.generation is not None
        and entry.uid not in alive
    ]
