"""Messages of looking after a cluster's state: what is wrong with it and what was mended, what
nodes report of live attachments and what is reclaimed.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from netspace import names
from netspace.messages import Answer, Name, Natural, Pod, Request


class Finding(Answer):
    """Something that is not as it must be. `code` names the rule, `mend` says what would put it
    right; `safe`: `--repair` does that by itself, since no address can be given twice by it."""

    code: str
    keys: list[str]
    what: str
    why: str
    mend: str
    safe: bool


class Inspection(Answer):
    """The stored state at one revision. `keys`: how many were looked at; `more`: findings beyond
    those listed. `run`: it is not done yet; what to ask with for the rest."""

    cluster: str
    revision: int
    keys: int
    findings: list[Finding]
    more: int
    run: str | None = None


class Mended(Answer):
    """A finding that was to be mended. `why` says why it was not."""

    code: str
    keys: list[str]
    what: str
    done: bool
    why: str = ""


class Repair(Answer):
    """What was done, and what a look at the state finds after it."""

    mended: list[Mended]
    left: Inspection


Noted = Annotated[str, Meta(min_length=2, max_length=45)]
"""An address as a node has it on disk, to be compared with the slot's own."""


class Holding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an attachment was given, as its node has it on disk: enough to know it again where the
    state was restored from before that."""

    claim: Annotated[str, Meta(pattern=names.CLAIM)]
    pod: Pod
    pool: Name
    network: Name
    slot: Natural
    ipv4: Noted | None
    ipv6: Noted | None


class LiveAttachment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An interface that is there, or may be. `generation` 0: the node has lost which one it is.
    `holding`: what it was given, where its ADD has come to its end."""

    container: Annotated[str, Meta(pattern=names.CONTAINER)]
    ifname: Annotated[str, Meta(pattern=names.IFNAME)]
    generation: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    holding: Holding | None = None


class AttachmentsReport(Request):
    """All live attachments of a node, as its records and its kernel had them after it had seen the
    revision `seen` of the state. Of allocations up to the revision `since` its records know
    nothing: the report is not about them."""

    seen: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    since: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    attachments: Annotated[list[LiveAttachment], Meta(max_length=10_000)]


class Dispute(Answer):
    """An attachment that is live on its node with an address that is not its here. `other`: it is
    somebody else's now, so that two may have it."""

    container: str
    ifname: str
    namespace: str
    pod: str
    address: str
    why: str
    other: bool = False


class NodeAttachments(Answer):
    """`revision` is what the answering server has seen: for the next report. `held`: slots of the
    node's pods; `missing`: how many of them its last report missed; `disputes`: what it had that
    is another's here. `adopted`: how many addresses this report has brought back."""

    node: str
    revision: int
    held: int
    missing: int
    adopted: int = 0
    disputes: tuple[Dispute, ...] = ()


Testimony = Literal["node", "kubernetes"]
"""Who says that a pod is gone: its node's reports, or Kubernetes of a node that is fenced."""


class Candidate(Answer):
    """An address whose pod was missed by its node, or is gone by Kubernetes' word (`witness`).
    `since` and `last`: seconds since it was first missed and since the witness's last report;
    `lacks`: what the proof needs still, or why it was not freed. `proved`: nothing is lacking."""

    network: str
    slot: Natural
    ipv4: str | None
    ipv6: str | None
    node: str
    namespace: str
    pod: str
    container: str
    ifname: str
    generation: int
    since: float
    last: float
    proved: bool
    lacks: str
    witness: Testimony = "node"


class Reclaimed(Answer):
    """`freed`: what was just reclaimed; `left`: the candidates there are now. `grace`: the seconds
    between two reports that prove something."""

    grace: float
    freed: list[Candidate]
    left: list[Candidate]
