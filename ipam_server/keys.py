"""Where everything stands in etcd. One key a slot: nothing is rewritten whole.

    /netspace/v1/catalogue/CLUSTER                        the clusters there are
    /netspace/v1/servers/SERVER                           the servers there are, on leases
    /netspace/v1/fabrics/FABRIC                           the networks that lie in a fabric
    /netspace/v1/clusters/CLUSTER/leader                  who leads (its create revision fences)
                                 /clock                   milliseconds that somebody has led
                                 /networks/NETWORK
                                 /pools/POOL
                                 /nodes/NODE
                                 /absences/NODE           what its last report missed
                                 /fenced/NODE             what Kubernetes says of its pods
                                 /namespaces/NAMESPACE    what its pods choose by default
                                 /slots/NETWORK/INDEX     the holder
                                 /released/NETWORK/INDEX  who held it last
                                 /attachments/CONTAINER/IFNAME   which slot
                                 /buried/CLOCK/CLAIM/CONTAINER/IFNAME
                                                          a released claim, and when
                                 /audit/REVISION-SEQUENCE        a change that somebody asked for
                                 /audit/REVISION-SEQUENCE~       one that a leader made by itself
    /netspace/v1/audit/REVISION-NAME                      the same of clusters and fabrics
    /netspace/v1/history/CLUSTER/UID/INDEX/PLACE          who held a slot of the network before

INDEX is 32 hexadecimal digits (128 bits), so that keys sort as indices do.
"""

from __future__ import annotations

import sys
from typing import Literal

ROOT = b"/netspace/v1/"
CATALOGUE = ROOT + b"catalogue/"
SERVERS = ROOT + b"servers/"
FABRICS = ROOT + b"fabrics/"
CLUSTERS = ROOT + b"clusters/"
AUDIT = ROOT + b"audit/"
HISTORY = ROOT + b"history/"

OWN = b"~"
"""Ends the key of an entry of what a leader did by itself; no name has it."""

Kind = Literal[
    "leader",
    "clock",
    "networks",
    "pools",
    "nodes",
    "absences",
    "fenced",
    "namespaces",
    "slots",
    "released",
    "attachments",
    "audit",
    "buried",
]

SlotId = tuple[str, int]
"""The network's name and the index in it."""

AttachmentKey = tuple[str, str]
"""The container's id and the interface's name."""

Claimed = tuple[str, str, str]
"""A claim, and whose it is: the container's id and the interface's name. Nobody else's use of the
same claim is touched by what becomes of it."""


def is_own(audit: bytes) -> bool:
    """Whether an entry is of something that a leader did by itself."""
    return audit.endswith(OWN)


def catalogue(cluster: str) -> bytes:
    return CATALOGUE + cluster.encode()


def server(name: str) -> bytes:
    return SERVERS + name.encode()


def fabric(name: str) -> bytes:
    return FABRICS + name.encode()


def catalogue_audit(revision: int, name: str) -> bytes:
    """Decided at this revision, of the cluster or fabric of this name."""
    return AUDIT + f"{revision:016x}-{name}".encode()


class Keys:
    """The keys of one cluster."""

    def __init__(self, cluster: str) -> None:
        self.prefix = CLUSTERS + cluster.encode() + b"/"
        self.histories = HISTORY + cluster.encode() + b"/"
        self.leader = self.prefix + b"leader"
        self.clock = self.prefix + b"clock"
        self.slots = self.prefix + b"slots/"

    @property
    def attachments(self) -> bytes:
        return self.prefix + b"attachments/"

    def network(self, name: str) -> bytes:
        return self.prefix + b"networks/" + name.encode()

    def pool(self, name: str) -> bytes:
        return self.prefix + b"pools/" + name.encode()

    def node(self, name: str) -> bytes:
        return self.prefix + b"nodes/" + name.encode()

    def absences(self, node: str) -> bytes:
        return self.prefix + b"absences/" + node.encode()

    def fenced(self, node: str) -> bytes:
        return self.prefix + b"fenced/" + node.encode()

    def namespace(self, name: str) -> bytes:
        return self.prefix + b"namespaces/" + name.encode()

    def slot(self, slot: SlotId) -> bytes:
        return self.slots + b"%s/%032x" % (slot[0].encode(), slot[1])

    def released(self, slot: SlotId) -> bytes:
        return self.prefix + b"released/%s/%032x" % (slot[0].encode(), slot[1])

    def attachment(self, attachment: AttachmentKey) -> bytes:
        return self.attachments + f"{attachment[0]}/{attachment[1]}".encode()

    @property
    def audits(self) -> bytes:
        return self.prefix + b"audit/"

    def audit(self, revision: int, sequence: int, own: bool = False) -> bytes:
        """Decided at this revision; `sequence` tells those of one revision apart. `own`: nobody
        asked for it."""
        return self.audits + b"%016x-%06x%s" % (revision, sequence, OWN if own else b"")

    def buried(self, at: int, claimed: Claimed) -> bytes:
        """`at`: the cluster's clock in milliseconds, so that the oldest come first."""
        return self.prefix + f"buried/{at:016x}/{'/'.join(claimed)}".encode()

    def history_of(self, uid: str, index: int) -> bytes:
        """All places of a slot's history; `uid` is its network's."""
        return self.histories + f"{uid}/{index:032x}/".encode()

    def history(self, uid: str, index: int, place: int) -> bytes:
        return self.history_of(uid, index) + b"%02x" % place

    def parse(self, key: bytes) -> tuple[str, tuple[str, ...]]:
        """The kind of a key and the names that follow; an empty kind for a key of others."""
        if not key.startswith(self.prefix):
            return "", ()
        kind, *names = key[len(self.prefix) :].decode().split("/")
        return kind, tuple(names)

    def held(self, key: bytes) -> SlotId | None:
        """The slot whose holder's key it is: what `parse` says of nearly all keys, sooner."""
        if not key.startswith(self.slots):
            return None
        network, _, index = key[len(self.slots) :].decode().partition("/")
        return sys.intern(network), int(index, 16)


def slot_id(names: tuple[str, ...]) -> SlotId:
    """The slot named by the end of a `slots` or `released` key."""
    return sys.intern(names[0]), int(names[1], 16)
