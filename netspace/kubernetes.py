"""Messages of a cluster's controller: what namespaces choose by default, and what Kubernetes says
of the pods of nodes that are fenced.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from netspace.messages import Answer, Fence, Name, Natural, Request, Revision, Selection


class SetNamespace(Request):
    """What a namespace's pods choose where they choose nothing themselves: a pool, families or
    both, no address."""

    selection: Selection


class NamespaceDefault(Answer):
    """The same as it is stored."""

    namespace: str
    revision: int
    selection: Selection


class GoneHolder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A held slot, as a list of addresses has it, whose pod is absent or finished."""

    network: Name
    slot: Natural
    generation: Revision


class Fencing(Request):
    """A node is fenced, and these of its pods are gone: a consistent list of the cluster's pods,
    made after the revision `seen` of the state had been read, has them finished or not at all.
    All of them, every time: what is not named is there again."""

    seen: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    why: Fence
    gone: Annotated[list[GoneHolder], Meta(max_length=10_000)]


class NodeFencing(Answer):
    """What is known of a fenced node. `revision`: what the answering server has seen, for the next
    look. `held`: slots of its pods; `gone`: how many of them Kubernetes says are gone. `since`,
    `last`: seconds since the node was first said to be fenced, and since it was last said."""

    node: str
    why: Fence
    revision: int
    held: int
    gone: int
    since: float
    last: float
