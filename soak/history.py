"""What happened in a soak: every operation, every look at etcd, every fault, in one order.

`Tick` gives that order: one counter for the beginnings and ends of everything, kept by the one
process that asks and looks. Whatever ended before something else began has the smaller number, and
no clock is needed to say so. Seconds (monotonic) are kept beside it for what is about durations.

The file of a history has one JSON object a line, told apart by `type`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

Kind = Literal[
    "allocate",
    "release",
    "ask",
    "operator",
    "reserve",
    "unreserve",
    "report",
    "reclaim",
    "reshape",
]
Outcome = Literal["", "ok", "failed", "refused", "unknown"]
"""Empty: under way. `failed`: surely nothing was done. `refused`: by a rule; an earlier copy of the
request whose answer was lost may have been carried out. `unknown`: it may have been done, or may be
yet."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an allocation or a question was answered; of releases `released` alone."""

    pool: str = ""
    network: str = ""
    slot: str = ""
    generation: int = 0
    ipv4: str | None = None
    ipv6: str | None = None
    how: str = ""
    released: bool = False


class Live(msgspec.Struct, frozen=True, array_like=True):
    """An attachment that a node reports; `generation` 0: it does not know which."""

    container: str
    ifname: str
    generation: int


class Freed(msgspec.Struct, frozen=True, array_like=True):
    """A holder whose slot was reclaimed."""

    network: str
    slot: str
    generation: int
    container: str
    ifname: str


class Operation(msgspec.Struct, kw_only=True, omit_defaults=True, tag="operation"):
    """One request, or one of a batch. `invoked` and `completed` are ticks, `began` and `ended`
    seconds.

    `pool` is the one that was named, empty for the default. `generation`: the one a release names,
    None where the claim decides. `must`: everything stands and there is room: it has to succeed.
    A reservation's attachment has no container, and `NETWORK/SLOT` for a name. Of reports: `live`
    is all that the node has, `seen` and `since` the revisions between which it speaks of
    allocations; `freed` is what a round of reclaiming freed. `what`: how a pool was to change.
    """

    number: int
    client: int
    kind: Kind
    container: str
    ifname: str
    claim: str
    node: str = ""
    namespace: str = ""
    pod: str = ""
    uid: str = ""
    pool: str = ""
    ip: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    generation: int | None = None
    must: bool = False
    live: tuple[Live, ...] = ()
    seen: int = 0
    since: int = 0
    freed: tuple[Freed, ...] = ()
    what: str = ""
    invoked: int
    began: float
    completed: int = 0
    ended: float = 0
    outcome: Outcome = ""
    code: str = ""
    answer: Answer | None = None

    @property
    def attachment(self) -> tuple[str, str]:
        return self.container, self.ifname

    @property
    def identity(self) -> tuple[str, str, str] | None:
        """What an address sticks to; None for a pod without a name."""
        return (self.namespace, self.pod, self.ifname) if self.pod else None


class StoredSlot(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A holder as etcd has it."""

    network: str
    slot: str
    generation: int
    container: str
    ifname: str
    claim: str
    namespace: str
    pod: str
    pool: str
    node: str = ""

    @property
    def reserved(self) -> bool:
        return not self.container

    @property
    def attachment(self) -> tuple[str, str]:
        if self.reserved:
            return "", f"{self.network}/{self.slot}"
        return self.container, self.ifname


class StoredPool(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A pool as etcd has it: first and last index of its ranges as decimal strings; `needs`: how
    many addresses its application wants."""

    name: str
    network: str
    parent: str | None
    ranges: tuple[tuple[str, str], ...]
    needs: int = 0

    @property
    def spans(self) -> list[tuple[int, int]]:
        return [(int(first), int(last)) for first, last in self.ranges]

    @property
    def size(self) -> int:
        return sum(last - first + 1 for first, last in self.spans)

    def __contains__(self, index: int) -> bool:
        return any(first <= index <= last for first, last in self.spans)


class StoredAttachment(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    container: str
    ifname: str
    network: str
    slot: str


class Look(msgspec.Struct, kw_only=True, omit_defaults=True, tag="look"):
    """The whole state of the cluster at one revision, read from etcd itself. `last`: everything
    that a client could still hold was released before. `findings`: what the server's own audit of
    the state said at that time; None where it was not asked."""

    invoked: int
    began: float
    completed: int
    ended: float
    revision: int
    leader: str
    slots: tuple[StoredSlot, ...]
    attachments: tuple[StoredAttachment, ...]
    released: tuple[tuple[str, str], ...]
    last: bool = False
    pools: tuple[StoredPool, ...] = ()
    findings: tuple[str, ...] | None = None


class Fault(msgspec.Struct, kw_only=True, omit_defaults=True, tag="fault"):
    """Something the nemesis did; for people who read the history."""

    tick: int
    began: float
    what: str
    ended: float = 0


class Setting(msgspec.Struct, kw_only=True, tag="setting"):
    """How the soak was run."""

    seed: int
    servers: int
    members: int
    minutes: float


Entry = Setting | Operation | Look | Fault


class Tick:
    """The counter that orders a history."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self) -> int:
        self._last += 1
        return self._last


class History:
    """A history in the making; `save` writes it as it stands."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.operations: list[Operation] = []
        self.looks: list[Look] = []
        self.faults: list[Fault] = []
        self.tick = Tick()

    def begin(self, asked: Operation) -> Operation:
        """Numbers an operation that is about to be asked."""
        asked.number = len(self.operations)
        asked.invoked, asked.began = self.tick(), self.seconds()
        self.operations.append(asked)
        return asked

    def end(
        self, asked: Operation, outcome: Outcome, answer: Answer | None = None, code: str = ""
    ) -> None:
        asked.completed, asked.ended = self.tick(), self.seconds()
        asked.outcome, asked.answer, asked.code = outcome, answer, code

    @staticmethod
    def seconds() -> float:
        """The present time of a history."""
        return time.monotonic()

    def fault(self, what: str) -> Fault:
        fault = Fault(tick=self.tick(), began=self.seconds(), what=what)
        self.faults.append(fault)
        return fault

    def entries(self) -> Iterable[Entry]:
        yield self.setting
        yield from self.operations
        yield from self.looks
        yield from self.faults

    def save(self, path: Path) -> None:
        encoder = msgspec.json.Encoder()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for entry in self.entries():
                file.write(encoder.encode(entry) + b"\n")


def load(path: Path) -> History:
    """A history from its file. Raises `OSError`, `msgspec.DecodeError`."""
    decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)
    history: History | None = None
    with path.open("rb") as file:
        for line in file:
            entry = decoder.decode(line)
            if isinstance(entry, Setting):
                history = History(entry)
            elif history is None:
                raise msgspec.DecodeError(f"{path}: the first line is no setting")
            elif isinstance(entry, Operation):
                history.operations.append(entry)
            elif isinstance(entry, Look):
                history.looks.append(entry)
            else:
                history.faults.append(entry)
    if history is None:
        raise msgspec.DecodeError(f"{path} is empty")
    return history
