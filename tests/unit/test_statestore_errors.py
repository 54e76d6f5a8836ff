"""Which failure of etcd's means what: above all, whether a write may have been carried out."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from statestore import (
    BadRequest,
    Compacted,
    LeaseLost,
    OutcomeUnknown,
    OutOfSpace,
    StoreError,
    TooLarge,
    Unavailable,
)
from statestore.errors import classify

SAME_FOR_READS_AND_WRITES = [
    (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", OutOfSpace),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request", TooLarge),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large", TooLarge),
    (StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max (3 vs. 2)", TooLarge),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", BadRequest),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided", BadRequest),
    (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", BadRequest),
    (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Compacted),
    (StatusCode.NOT_FOUND, "etcdserver: requested lease not found", LeaseLost),
    # etcd 3.4 sends this one with the code UNKNOWN.
    (StatusCode.UNKNOWN, "etcdserver: too many requests", Unavailable),
    (StatusCode.UNAVAILABLE, "etcdserver: no leader", Unavailable),
    (
        StatusCode.UNAVAILABLE,
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to "
        "connect to remote host: Connection refused",
        Unavailable,
    ),
]

MAY_HAVE_BEEN_CARRIED_OUT = [
    (StatusCode.UNAVAILABLE, "Socket closed"),
    (StatusCode.UNAVAILABLE, "recvmsg:Connection reset by peer"),
    (StatusCode.UNAVAILABLE, "keepalive watchdog timeout"),
    (StatusCode.UNAVAILABLE, "etcdserver: request timed out"),
    (StatusCode.UNAVAILABLE, "etcdserver: request timed out, possibly due to connection lost"),
    (StatusCode.UNAVAILABLE, "etcdserver: leader changed"),
    (StatusCode.UNAVAILABLE, "etcdserver: server stopped"),
    (StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"),
    (StatusCode.CANCELLED, "etcdserver: request cancelled"),
    (StatusCode.DATA_LOSS, "etcdserver: corrupt cluster"),
    (StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
    (StatusCode.UNKNOWN, "something that nobody has seen yet"),
]


@pytest.mark.parametrize(("code", "message", "error"), SAME_FOR_READS_AND_WRITES)
def test_what_etcd_refused_is_named_alike_for_reads_and_writes(
    code: StatusCode, message: str, error: type[StoreError]
) -> None:
    assert classify(code, message, write=True) is error
    assert classify(code, message, write=False) is error


@pytest.mark.parametrize(("code", "message"), MAY_HAVE_BEEN_CARRIED_OUT)
def test_what_is_not_surely_undone_is_unknown_for_a_write_and_unavailable_for_a_read(
    code: StatusCode, message: str
) -> None:
    assert classify(code, message, write=True) is OutcomeUnknown
    assert classify(code, message, write=False) is Unavailable


def test_a_message_says_what_where_why_and_what_to_do() -> None:
    error = OutcomeUnknown("a transaction of 3 operations", "http://127.0.0.1:2379", "cut off")
    assert str(error) == (
        "etcd at http://127.0.0.1:2379: a transaction of 3 operations failed: cut off; "
        "it may have been carried out: read back before writing the same keys again"
    )
