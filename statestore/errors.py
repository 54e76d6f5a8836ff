"""What can go wrong with etcd, and how its answers are told apart.

The one question that matters for a write is whether it may have been carried out. Only what is
known never to have reached etcd's log is `Unavailable`; every other failure of a write is
`OutcomeUnknown`, and the caller reads back before it touches those keys again. Messages and
codes: etcd's `rpctypes/error.go`, and gRPC core's for connections.
"""

from __future__ import annotations

from dataclasses import dataclass

from grpc import StatusCode


class StoreError(Exception):
    """A failure of the state store: what was asked, of which endpoint, why it failed."""

    advice = "look at etcd's log"

    def __init__(self, what: str, endpoint: str = "", why: str = "", advice: str = "") -> None:
        self.what = what
        self.endpoint = endpoint
        self.why = why
        at = f" at {endpoint}" if endpoint else ""
        super().__init__(f"etcd{at}: {what} failed: {why}; {advice or self.advice}")


class Unavailable(StoreError):
    """No answer, and nothing was changed: a read, or a write that surely was not carried out."""

    advice = "nothing was changed: try again; check that etcd runs and has a leader"


class OutcomeUnknown(StoreError):
    """A write was sent and no answer came: it may have been carried out, or may be yet."""

    advice = "it may have been carried out: read back before writing the same keys again"


class OutOfSpace(StoreError):
    """etcd's database has reached its quota: it takes deletes and reads only. The very write with
    which it found out may have been carried out."""

    advice = "compact and defragment etcd, or raise its quota, then disarm its NOSPACE alarm"


class BadRequest(StoreError):
    """etcd refused the request itself: repeating it cannot help."""

    advice = "the request is at fault, or what etcd's roles allow this user"


class TooLarge(BadRequest):
    """Too many operations in one transaction, or too many bytes."""

    advice = "split it, or raise etcd's --max-txn-ops or --max-request-bytes"


class Compacted(StoreError):
    """The revision asked for is no longer in etcd's history.

    `compact_revision` is the oldest that still is, 0 where etcd did not say.
    """

    advice = "read anew at the present revision"

    def __init__(
        self,
        what: str,
        endpoint: str = "",
        why: str = "",
        advice: str = "",
        compact_revision: int = 0,
    ) -> None:
        super().__init__(what, endpoint, why, advice)
        self.compact_revision = compact_revision


class LeaseLost(StoreError):
    """The lease has expired or was revoked; the keys that hung on it are gone."""

    advice = "grant a new lease and begin again"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: the first whose text is in the message decides."""

    text: str
    error: type[StoreError]


# The message comes first: etcd 3.4 sends some of its errors with the code UNKNOWN.
BY_MESSAGE = (
    Rule("database space exceeded", OutOfSpace),
    Rule("too many operations in txn request", TooLarge),
    Rule("request is too large", TooLarge),
    Rule("message larger than max", TooLarge),
    Rule("required revision has been compacted", Compacted),
    Rule("requested lease not found", LeaseLost),
    # Refused before anything is proposed to raft.
    Rule("too many requests", Unavailable),
    Rule("etcdserver: no leader", Unavailable),
    Rule("etcdserver: not capable", Unavailable),
    Rule("raft proposal dropped", Unavailable),
    Rule("rpc not supported for learner", Unavailable),
    # gRPC core: no connection stood, so nothing was sent.
    Rule("failed to connect to all addresses", Unavailable),
    Rule("connections to all backends failing", Unavailable),
    Rule("DNS resolution failed", Unavailable),
)

BY_CODE = {
    StatusCode.INVALID_ARGUMENT: BadRequest,
    StatusCode.FAILED_PRECONDITION: BadRequest,
    StatusCode.OUT_OF_RANGE: BadRequest,
    StatusCode.PERMISSION_DENIED: BadRequest,
    StatusCode.UNAUTHENTICATED: BadRequest,
    StatusCode.UNIMPLEMENTED: BadRequest,
}


def classify(code: StatusCode, message: str, write: bool) -> type[StoreError]:
    """The error for a failed call; `write`: whether the call could have changed something."""
    for rule in BY_MESSAGE:
        if rule.text in message:
            return rule.error
    return BY_CODE.get(code, OutcomeUnknown if write else Unavailable)
