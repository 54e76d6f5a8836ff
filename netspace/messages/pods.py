"""Allocations: what nodes ask for pods, and are answered."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from netspace import names
from netspace.messages.terms import (
    Address,
    Answer,
    Name,
    Natural,
    NodeName,
    Note,
    Request,
    Revision,
)
from netspace.slots import Family, Mapping, parse_address


class AttachmentId(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One interface of one sandbox (the cluster stands in the path)."""

    container: Annotated[str, Meta(pattern=names.CONTAINER)]
    ifname: Annotated[str, Meta(pattern=names.IFNAME)]

    def __post_init__(self) -> None:
        if len(self.ifname.encode()) > 15:
            raise ValueError("the interface's name is longer than 15 bytes")

    def __str__(self) -> str:
        return f"{self.container}/{self.ifname}"


class Pod(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who the sandbox is for. Runtimes other than Kubernetes' leave parts empty."""

    namespace: Annotated[str, Meta(pattern=names.either(names.NAMESPACE, ""))] = ""
    name: Annotated[str, Meta(pattern=names.either(names.POD, ""))] = ""
    uid: Annotated[str, Meta(pattern=names.either(names.UID, ""))] = ""


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What chooses pool and address, from one source: the pod's annotations or the conflist.

    `ip`: one address of the wanted slot, or both of them."""

    netspace: Name | None = None
    application: Name | None = None
    ip: Annotated[tuple[Address, ...], Meta(max_length=2)] = ()
    families: Annotated[tuple[Family, ...], Meta(max_length=2)] = ()

    def __post_init__(self) -> None:
        if self.netspace is not None and self.application is not None:
            raise ValueError("netspace and application both name a pool: name one of them")
        if len(set(self.families)) != len(self.families):
            raise ValueError(f"families has {self.families[0]} twice")
        for address in self.ip:
            parse_address(address)


class AllocateRequest(Request):
    """`claim` is a random id the node stored before asking; the same attachment asking again with
    the same claim gets the same answer and changes nothing. `removed` names the containers of this
    pod whose interface this node has seen to be gone. `note`: an admin takes over what an
    attachment has from elsewhere, and says from where; its node has no record of it, so that its
    reports prove nothing about it."""

    attachment: AttachmentId
    claim: Annotated[str, Meta(pattern=names.CLAIM)]
    node: NodeName
    pod: Pod = Pod()
    selection: Selection = Selection()
    default: Selection = Selection()
    removed: Annotated[
        list[Annotated[str, Meta(pattern=names.CONTAINER)]], Meta(max_length=100)
    ] = []
    note: Note = ""


class NetworkView(Answer):
    """What a node needs of a network: to configure the interface and to check the mapping."""

    name: str
    uid: str
    parent: str
    vlan: int | None
    ipv4: str | None
    ipv6: str | None
    gateway4: str | None
    gateway6: str | None
    mapping: Mapping
    mtu: int


class Allocation(Answer):
    """A slot held by an attachment. `ipv4` and `ipv6` are without prefix length and None for a
    family that the pod did not ask for. `how`: repeated, fixed, returned, taken-over,
    last-released, never, longest-released. `probe`: the pool wants the link asked first."""

    cluster: str
    pool: str
    slot: Natural
    generation: int
    ipv4: str | None
    ipv6: str | None
    network: NetworkView
    how: str
    probe: bool = False


class ReleaseRequest(Request):
    """What is held under the claim is released. Under another claim, of a node that has lost its
    record, what has the `generation` is; None: the node never learned it. `conflict`: somebody else
    on the link has the address; the pod that was to get it does not get it again for its name."""

    attachment: AttachmentId
    node: NodeName
    claim: Annotated[str, Meta(pattern=names.CLAIM)]
    generation: Revision | None = None
    conflict: bool = False


class Released(Answer):
    """`released` False: nothing was held under this claim or generation, `why` says what was."""

    released: bool
    why: str
