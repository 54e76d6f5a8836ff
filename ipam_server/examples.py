"""The examples in the OpenAPI document: together a small installation, in the words of the API.

Made of the messages themselves, so that they cannot grow stale. A server that has nothing yet
accepts every request that makes something, in the order of the document's routes.
"""

from __future__ import annotations

from typing import Any, Final

from netspace import kubernetes, upkeep
from netspace import messages as m

ATTACHMENT: Final = m.AttachmentId(container="c0ffee01", ifname="eth0")
CLAIM: Final = "6f1d2a9c0b3e4f5a8c7d6e5f40312213"

PARAMETERS: Final[dict[str, str]] = {
    "cluster": "east",
    "fabric": "hall-2",
    "network": "blue",
    "pool": "tenant-a",
    "node": "node-1",
    "namespace": "shop",
    "address": "10.9.0.200",
    "container": ATTACHMENT.container,
    "ifname": ATTACHMENT.ifname,
}
"""By the names of the parameters in paths."""

BODIES: Final[tuple[Any, ...]] = (
    m.NewFabric(name="hall-2"),
    m.NewCluster(name="east"),
    m.NewNetwork(
        name="blue",
        vlan=910,
        ipv4="10.9.0.0/24",
        ipv6="fd00:9::/64",
        gateway4="10.9.0.1",
        gateway6="fd00:9::1",
        exclude=["10.9.0.240/28"],
    ),
    m.ChangeNetwork(mtu=9000, exclude=["10.9.0.240-10.9.0.255"]),
    m.NewPool(
        name="tenant-a", kind="netspace", network="blue", size="64", namespaces=["shop", "bank"]
    ),
    m.ChangePool(namespaces=["shop", "bank", "mail"], cooldown=60, retention=86_400),
    m.ResizePool(size="4"),
    m.HandOver(owner=None),
    kubernetes.SetNamespace(selection=m.Selection(netspace="tenant-a")),
    kubernetes.Fencing(
        seen=4711,
        why="deleted",
        gone=[kubernetes.GoneHolder(network="blue", slot="2", generation=4711)],
    ),
    m.AllocateRequest(
        attachment=ATTACHMENT,
        claim=CLAIM,
        node="node-1",
        pod=m.Pod(namespace="shop", name="web-0", uid="3f6c1f0e-7a52-4c1a-9a5e-0d6c2b1f7e11"),
        selection=m.Selection(netspace="tenant-a"),
    ),
    m.ReleaseRequest(attachment=ATTACHMENT, claim=CLAIM, node="node-1"),
    m.Reserve(network="blue", address="10.9.0.200", note="printer"),
    m.OperatorRelease(network="blue", address="10.9.0.2", generation=4711),
    m.NodeReport(
        version="0.1.0",
        links=[
            m.LinkReport(
                name="bond0",
                kind="bond",
                mac="52:54:00:12:34:56",
                mtu=1500,
                up=True,
                slaves=["eth1", "eth2"],
            )
        ],
        networks=[
            m.NewNetwork(name="vlan910", parent="bond0", vlan=910, ipv4="10.91.0.0/24"),
        ],
    ),
    upkeep.AttachmentsReport(
        seen=0,
        since=0,
        attachments=[upkeep.LiveAttachment(container=ATTACHMENT.container, ifname="eth0")],
    ),
)
"""One of each body that a request can have."""


def of_body(kind: Any) -> Any:
    """The example of a body's type; None where there is none."""
    return next((body for body in BODIES if type(body) is kind), None)
