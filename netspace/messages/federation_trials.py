"""Trials: real traffic between the nodes of two clusters, and what became of it.

The leader of the federation servers keeps a trial in memory for a minute after its end. Its nodes
are told of it in the answer to their word, and the other cluster's servers are asked for the way
back.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from netspace import names
from netspace.messages.federation import Port
from netspace.messages.federation_node import VerifiedPath
from netspace.messages.terms import Address, Answer, Name, NodeName, Request

What = Literal["verify", "bench"]

MOST_NODES: Final[dict[What, int]] = {"verify": 64, "bench": 8}
"""Nodes of a cluster that take part."""
MOST_PATHS: Final[dict[What, int]] = {"verify": 16, "bench": 4}
"""Paths that a node tries; those that are not up come first."""
MOST_RATE: Final = 100_000_000
"""Bits a second of a bench, all nodes together: the nodes that answer have room for a node's own
probes beside it."""
HEARD: Final = 11.0
"""Seconds until a node has learned of a trial; its words are at most ten seconds apart."""
VERIFIED: Final = 9.0
"""Seconds that verifying takes at most."""

Id = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}" + names.END)]
Text = Annotated[str, Meta(max_length=2000)]
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Figure = Annotated[float, Meta(ge=0, le=1e15)]
Lasting = Annotated[float, Meta(ge=0.1, le=10)]
"""Seconds."""
Rate = Annotated[int, Meta(ge=0, le=MOST_RATE)]


class PodTarget(msgspec.Struct, kw_only=True, frozen=True):
    """A pod, reached by a TCP connection to the port or, without one, by a ping."""

    address: Address
    port: Port | None = None

    def __str__(self) -> str:
        if self.port is None:
            return self.address
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


Pods = Annotated[list[PodTarget], Meta(max_length=8)]


class MemberTrial(Request):
    """What another member may ask: paths and pods of its own cluster. `seconds` and `rate` (bits a
    second, of all nodes together) are a bench's, of each path."""

    what: What = "verify"
    pods: Pods = []
    seconds: Lasting = 2.0
    rate: Rate = 10_000_000


class NewTrial(MemberTrial, kw_only=True):
    """To `cluster`, by the own `nodes` (none named: all that there are), and if `both` by its nodes
    back. `asker`: the member that a server passes it on for."""

    cluster: Name
    nodes: Annotated[list[NodeName], Meta(max_length=64)] = []
    both: bool = True
    asker: Name | Literal[""] = ""


class Order(msgspec.Struct, kw_only=True, frozen=True):
    """What a node is to do `within` so many seconds; `rate` is its own share."""

    id: Id
    federation: str
    cluster: str
    what: What
    within: float
    pods: list[PodTarget] = []
    seconds: float = 2.0
    rate: int = 0


class Orders(Answer):
    """The answer to a node's word. It is told of a trial until it has answered."""

    trials: list[Order] = []


class TriedPod(msgspec.Struct, kw_only=True):
    """A pod, tried from a node."""

    pod: Text
    ok: bool
    found: Text
    do: Text = ""


class BenchedPath(msgspec.Struct, kw_only=True):
    """A path to a node under load. `rtt`: seconds, median of small probes without load; `size`:
    bytes of a packet; `asked`, `got`: bits a second sent, and arrived at the other end by its own
    answers; `loss`: share of the packets of the load that no answer came to. `why` not."""

    node: NodeName
    rtt: Figure | None = None
    size: Count = 0
    asked: Figure = 0.0
    got: Figure = 0.0
    loss: Figure = 0.0
    why: Text = ""


class NodeTrial(msgspec.Struct, kw_only=True):
    """What a node found. `left_out`: its paths that were not tried. `why` there is nothing."""

    node: NodeName
    verified: Annotated[list[VerifiedPath], Meta(max_length=64)] = []
    benched: Annotated[list[BenchedPath], Meta(max_length=64)] = []
    pods: Annotated[list[TriedPod], Meta(max_length=64)] = []
    left_out: Count = 0
    why: Text = ""


class Direction(msgspec.Struct, kw_only=True):
    """From the nodes of `source` to `target`. `awaited`: nodes that have not answered yet;
    `left_out`: nodes that do not take part. `why` it could not be tried."""

    source: Name
    target: Name
    nodes: Annotated[list[NodeTrial], Meta(max_length=256)] = []
    awaited: Count = 0
    left_out: Count = 0
    why: Text = ""


class TrialReport(Answer):
    """As it is now; `back` None: it was not asked for."""

    id: str
    federation: str
    what: What
    done: bool
    there: Direction
    back: Direction | None = None


def longest(what: What, seconds: float) -> float:
    """Seconds that a trial takes one way at most, from asking until all nodes have answered."""
    if what == "verify":
        return HEARD + VERIFIED
    return HEARD + MOST_PATHS["bench"] * (seconds + 3.0)
