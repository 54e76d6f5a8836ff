"""The values stored in etcd, as JSON: written by leaders, read by every server.

Unknown fields are skipped, so that an older server reads what a newer one wrote. Values that exist
once per address have one-letter fields: a million of them are kept in memory and in etcd.
"""

from __future__ import annotations

from sys import intern
from typing import Final

import msgspec
from msgspec.structs import force_setattr

from netspace.messages import (
    Elastic,
    Fence,
    LinkReport,
    NewNetwork,
    Owner,
    PoolKind,
    Selection,
    Services,
)
from netspace.ranges import Ranges
from netspace.slots import Family, Mapping

MOST_AT_ONCE: Final = 65_536
"""Addresses by which a pool grows or shrinks in one transaction."""

Identity = tuple[str, str, str]
"""Namespace, pod name, interface name: what a named pod's address sticks to."""


class ClusterRecord(msgspec.Struct, frozen=True, kw_only=True):
    name: str


class FabricMemberRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What overlap is judged by: subnets and the spans of addresses in them, as text."""

    cluster: str
    network: str
    vlan: int | None
    ipv4: str | None
    ipv6: str | None
    mapping: Mapping
    ranges: list[str]
    gateways: list[str] = []


class FabricRecord(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    members: list[FabricMemberRecord] = []


class NetworkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A declared network; spans as text, in the family of the slot mapping's first subnet."""

    uid: str
    fabric: str
    parent: str
    vlan: int | None
    ipv4: str | None
    ipv6: str | None
    gateway4: str | None
    gateway6: str | None
    mapping: Mapping
    mtu: int
    range: list[str]
    exclude: list[str]
    services: Services = "open"
    owner: Owner | None = None


class PoolRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`ranges`: first and last index of every interval, in hexadecimal. `cooldown`, `retention`:
    seconds."""

    kind: PoolKind
    network: str
    parent: str | None
    ranges: list[tuple[str, str]]
    namespaces: list[str]
    cooldown: float
    retention: float = 0
    elastic: Elastic | None = None
    probe: bool = False
    replicas: int | None = None
    surplus: int = 0
    owner: Owner | None = None

    @property
    def bounds(self) -> Elastic | None:
        """Within what the pool grows and shrinks by itself. What the application's replicas need is
        the minimum, and without bounds of its own the maximum as well."""
        if self.replicas is None:
            return self.elastic
        wanted = max(1, self.replicas + self.surplus)
        if self.elastic is None:
            return Elastic(minimum=wanted, maximum=wanted, step=MOST_AT_ONCE, quiet=0)
        minimum = min(max(wanted, self.elastic.minimum), self.elastic.maximum)
        return msgspec.structs.replace(self.elastic, minimum=minimum)


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    version: str
    links: list[LinkReport]
    networks: list[NewNetwork] = []


class Absence(msgspec.Struct, frozen=True, array_like=True):
    """A generation that a node's report missed; `index` in hexadecimal, `since`: when it was first
    missed, by the cluster's clock in milliseconds."""

    network: str
    index: str
    generation: int
    since: int

    @property
    def slot(self) -> tuple[str, int]:
        return self.network, int(self.index, 16)


class Disputed(msgspec.Struct, frozen=True, array_like=True):
    """A slot that a node's live attachment has, and that is not its here; `index` as above."""

    network: str
    index: str
    container: str
    ifname: str
    namespace: str
    pod: str

    @property
    def slot(self) -> tuple[str, int]:
        return self.network, int(self.index, 16)


class AbsencesRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's last report missed, and what it had that is another's here. `at`: when it came,
    by the cluster's clock in milliseconds; `seen`: the revision that the node had seen when it
    looked."""

    at: int
    seen: int
    gone: list[Absence] = []
    disputed: list[Disputed] = []


class FencingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What Kubernetes says of a fenced node: why it is, and which generations' pods are gone, each
    with when that was first said. `began`, `at`: when the node was first and last said to be
    fenced, by the cluster's clock in milliseconds; `seen`: the revision that was read before the
    last look at the pods."""

    why: Fence
    began: int
    at: int
    seen: int
    gone: list[Absence] = []


class NamespaceRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a namespace's pods choose where they choose nothing."""

    netspace: str | None = None
    application: str | None = None
    families: tuple[Family, ...] = ()

    @property
    def selection(self) -> Selection:
        return Selection(
            netspace=self.netspace, application=self.application, families=self.families
        )


class Holder(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    gc=False,
    omit_defaults=True,
    rename={
        "container": "c",
        "ifname": "i",
        "claim": "l",
        "node": "n",
        "namespace": "s",
        "pod": "p",
        "uid": "u",
        "pool": "o",
        "families": "f",
        "before": "b",
        "note": "t",
        "since": "w",
        "turn": "k",
    },
):
    """Who holds a slot. Without a container it is a reservation, and one with a node that node's
    vmac. `before` is who held it last when
    that was another; `families` empty means all that the network has. With a container and a `note`
    it was taken over from elsewhere: its node has no record of it. `since`: Unix time in
    seconds, for people only; `turn`: how many have held the slot before."""

    container: str = ""
    ifname: str = ""
    claim: str = ""
    node: str = ""
    namespace: str = ""
    pod: str = ""
    uid: str = ""
    pool: str = ""
    families: tuple[Family, ...] = ()
    before: Identity | None = None
    note: str = ""
    since: int = 0
    turn: int = 0

    @property
    def reserved(self) -> bool:
        return not self.container

    @property
    def vmac(self) -> bool:
        """Whether it is a node's own interface on the network."""
        return self.reserved and bool(self.node)

    @property
    def imported(self) -> bool:
        """Whether its node cannot know of it."""
        return bool(self.container and self.note)

    @property
    def attachment(self) -> tuple[str, str]:
        return self.container, self.ifname

    @property
    def claimed(self) -> tuple[str, str, str]:
        return self.claim, self.container, self.ifname

    @property
    def identity(self) -> Identity | None:
        """None for reservations and for pods without a name."""
        return (self.namespace, self.pod, self.ifname) if self.pod else None

    def ended(self, at: int = 0, sequence: int = 0, until: int = 0) -> Release:
        """What is kept of the holder once it is none any more."""
        return Release(
            at=at,
            sequence=sequence,
            identity=self.identity,
            uid=self.uid,
            node=self.node,
            container="" if self.pod else self.container,
            note=self.note,
            since=self.since,
            until=until,
            turn=self.turn,
        )


CONFLICT = "another machine answers for the address"
"""The note of a release after a conflict."""


class Release(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    gc=False,
    omit_defaults=True,
    rename={
        "at": "a",
        "sequence": "q",
        "identity": "w",
        "uid": "u",
        "node": "n",
        "container": "c",
        "note": "t",
        "since": "s",
        "until": "e",
        "turn": "k",
    },
):
    """Who held a slot last. `at`: the cluster's clock in milliseconds; `sequence` orders releases
    inside one revision; `identity` None where it was a reservation or a nameless pod, whose
    `container` is kept instead. `since` and `until`: Unix time in seconds, for people only."""

    at: int
    sequence: int
    identity: Identity | None = None
    uid: str = ""
    node: str = ""
    container: str = ""
    note: str = ""
    since: int = 0
    until: int = 0
    turn: int = 0


_HOLDERS: Final = msgspec.json.Decoder(Holder)
_RELEASES: Final = msgspec.json.Decoder(Release)


def decode_holder(value: bytes) -> Holder:
    """The holder in a slot's value; what many holders say alike is kept once."""
    holder = _HOLDERS.decode(value)
    # Field by field: a server that starts decodes a million of them.
    force_setattr(holder, "ifname", intern(holder.ifname))
    force_setattr(holder, "node", intern(holder.node))
    force_setattr(holder, "namespace", intern(holder.namespace))
    force_setattr(holder, "pool", intern(holder.pool))
    return holder


def decode_release(value: bytes) -> Release:
    """The same of a release."""
    release = _RELEASES.decode(value)
    force_setattr(release, "node", intern(release.node))
    return release


def ranges_of(record: PoolRecord) -> Ranges:
    return Ranges((int(first, 16), int(last, 16)) for first, last in record.ranges)


def stored_ranges(ranges: Ranges) -> list[tuple[str, str]]:
    return [(f"{first:x}", f"{last:x}") for first, last in ranges.intervals]


def stored_slot(slot: tuple[str, int]) -> bytes:
    """An attachment's value: `NETWORK/INDEX`, the index in hexadecimal."""
    return f"{slot[0]}/{slot[1]:x}".encode()


def slot_of(value: bytes) -> tuple[str, int]:
    network, _, index = value.decode().partition("/")
    return network, int(index, 16)
