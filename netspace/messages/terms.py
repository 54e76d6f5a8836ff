"""What all messages are made of: names, addresses, spans, revisions as they are on the wire, and
the two kinds of message.
"""

from __future__ import annotations

from typing import Annotated, Final, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from netspace import names

Name = Annotated[str, Meta(pattern=names.NAME)]
NodeName = Annotated[str, Meta(pattern=names.NODE)]
Namespace = Annotated[str, Meta(pattern=names.NAMESPACE)]
Natural = Annotated[str, Meta(pattern=names.NATURAL)]
"""A size or a slot index, 0 to 2^128, as a decimal string."""
_EITHER: Final = {"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}
Address = Annotated[str, Meta(min_length=2, max_length=45, extra_json_schema=_EITHER)]
Span = Annotated[str, Meta(min_length=2, max_length=91)]
"""An address, `first-last`, or a subnet."""
Spans = Annotated[list[Span], Meta(max_length=10_000)]
Subnet = Annotated[str, Meta(min_length=4, max_length=49)]
Note = Annotated[str, Meta(max_length=200)]
Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
LinkName = Annotated[str, Meta(max_length=15)]
"""A link as a node's kernel names it."""
NamespaceOrAny = Annotated[str, Meta(pattern=names.either(names.NAMESPACE, r"\*"))]
Namespaces = Annotated[list[NamespaceOrAny], Meta(max_length=10_000)]
Revision = Annotated[int, Meta(ge=1, le=2**63 - 1)]
"""A revision of etcd's, which is also a generation."""
PoolKind = Literal["application", "netspace", "default"]
Owner = Literal["kubernetes"]
"""Who but people looks after a network or a pool: the cluster's Kubernetes objects."""
Fence = Literal["deleted", "out-of-service"]
"""Why Kubernetes says that a node runs nothing any more: its Node object was deleted, or has the
taint node.kubernetes.io/out-of-service."""
Services = Literal["open", "isolated"]
"""Whether flows that a Service translated pass between a network and those of other VLANs."""
MOST = 2**53 - 1
"""The largest number that every JSON reader keeps."""
T = TypeVar("T")


class Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What somebody asks."""


class Answer(msgspec.Struct, kw_only=True):
    """What the server says."""


class Items(Answer, Generic[T]):
    """A list, wrapped so that it can grow."""

    items: list[T]
