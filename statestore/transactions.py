"""Transactions as values, and their translation to etcd's protobuf and back.

A transaction compares, then carries out one of two lists of operations; an operation may be a
transaction again. Everything here is pure: no I/O. The messages are those of etcd's
`rpc.proto` (TxnRequest, TxnResponse); the limits are those of etcd's `checkTxnRequest`.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Literal

import msgspec
from pyetcd.etcdrpc import kv_pb2
from pyetcd.etcdrpc import rpc_pb2 as pb

DEFAULT_MAX_OPERATIONS = 128
"""etcd's `--max-txn-ops` unless configured; `operations` must not exceed it."""


class Target(Enum):
    """What of a key a comparison looks at."""

    CREATE = "create revision"
    MOD = "mod revision"
    LEASE = "lease"


class Compare(msgspec.Struct, frozen=True):
    """One comparison for equality. A key that does not exist has revisions and lease 0."""

    key: bytes
    target: Target
    number: int

    @staticmethod
    def absent(key: bytes) -> Compare:
        """The key does not exist."""
        return Compare(key, Target.CREATE, 0)

    @staticmethod
    def created_at(key: bytes, create_revision: int) -> Compare:
        """The key exists since this revision; it may have been overwritten meanwhile."""
        return Compare(key, Target.CREATE, create_revision)

    @staticmethod
    def modified_at(key: bytes, mod_revision: int) -> Compare:
        """The key was last written at this revision; 0: it does not exist."""
        return Compare(key, Target.MOD, mod_revision)

    @staticmethod
    def attached_to(key: bytes, lease: int) -> Compare:
        """The key hangs on this lease."""
        return Compare(key, Target.LEASE, lease)


class Put(msgspec.Struct, frozen=True):
    """Write a key; `lease` is the id of the lease it dies with, 0 for none."""

    key: bytes
    value: bytes
    lease: int = 0


class Get(msgspec.Struct, frozen=True):
    """Read one key, or with `end` all keys in [key, end)."""

    key: bytes
    end: bytes = b""


class Delete(msgspec.Struct, frozen=True):
    """Delete one key, or with `end` all keys in [key, end)."""

    key: bytes
    end: bytes = b""


Op = Put | Get | Delete


class Txn(msgspec.Struct, frozen=True):
    """If all of `compares` hold, `then` is carried out, else `otherwise`: all or nothing.

    etcd refuses a key that is written twice in what could be carried out together
    (`BadRequest`), and more than its limit of operations (`TooLarge`; see `operations`).
    """

    compares: tuple[Compare, ...] = ()
    then: tuple[Op | Txn, ...] = ()
    otherwise: tuple[Op | Txn, ...] = ()


class KeyValue(msgspec.Struct, frozen=True, gc=False):
    """A key as it stood at some revision: it reads like the event that put it there."""

    kind: ClassVar[Literal["put"]] = "put"
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int


class TxnResult(msgspec.Struct, frozen=True):
    """What a transaction did.

    `succeeded` says which branch was taken; `results` has one entry for each of its operations,
    in order: `Get` a tuple of `KeyValue` in the keys' order, `Put` None, `Delete` the number of
    deleted keys, `Txn` a `TxnResult`. `revision` is the store's after the whole outer
    transaction; nested results carry the same.
    """

    succeeded: bool
    revision: int
    results: tuple[Result, ...]


Result = TxnResult | tuple[KeyValue, ...] | int | None


def operations(txn: Txn) -> int:
    """How etcd counts a transaction against `--max-txn-ops`.

    The longest of the three lists, and for what is nested in it the largest count of any one
    nested transaction: siblings share their allowance, they do not add up.
    """
    longest = max(len(txn.compares), len(txn.then), len(txn.otherwise))
    nested = [operations(op) for op in (*txn.then, *txn.otherwise) if isinstance(op, Txn)]
    return longest + max(nested) if nested else longest


def writes(txn: Txn) -> bool:
    """Whether any branch of the transaction could change something."""
    return any(
        writes(op) if isinstance(op, Txn) else not isinstance(op, Get)
        for op in (*txn.then, *txn.otherwise)
    )


def prefix_end(prefix: bytes) -> bytes:
    """The first key behind all keys with this prefix; `b"\\0"` (to the end) where there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b"\0"


def encode(txn: Txn) -> pb.TxnRequest:
    """The request that etcd's KV.Txn takes."""
    request = pb.TxnRequest()
    _fill(request, txn)
    return request


def decode(response: pb.TxnResponse) -> TxnResult:
    """The value of etcd's answer to a transaction."""
    return _result(response, response.header.revision)


def key_value(kv: kv_pb2.KeyValue) -> KeyValue:
    """The value of a key in etcd's answers."""
    return KeyValue(kv.key, kv.value, kv.create_revision, kv.mod_revision)


# Looked up once: a message's class finds its names anew each time.
_CREATE, _MOD, _LEASE = pb.Compare.CREATE, pb.Compare.MOD, pb.Compare.LEASE

# Filled in where they stand: given to a constructor, every message would be copied into its parent.


def _fill(request: pb.TxnRequest, txn: Txn) -> None:
    for compare in txn.compares:
        _compare(request.compare.add(), compare)
    for op in txn.then:
        _request(request.success.add(), op)
    for op in txn.otherwise:
        _request(request.failure.add(), op)


def _compare(request: pb.Compare, compare: Compare) -> None:
    request.key = compare.key
    match compare.target:
        case Target.CREATE:
            request.target = _CREATE
            request.create_revision = compare.number
        case Target.MOD:
            request.target = _MOD
            request.mod_revision = compare.number
        case Target.LEASE:
            request.target = _LEASE
            request.lease = compare.number


def _request(request: pb.RequestOp, op: Op | Txn) -> None:
    match op:
        case Put():
            put = request.request_put
            put.key, put.value = op.key, op.value
            if op.lease:
                put.lease = op.lease
        case Get():
            request.request_range.key, request.request_range.range_end = op.key, op.end
        case Delete():
            gone = request.request_delete_range
            gone.key = op.key
            if op.end:
                gone.range_end = op.end
        case Txn():
            request.request_txn.SetInParent()
            _fill(request.request_txn, op)


def _result(response: pb.TxnResponse, revision: int) -> TxnResult:
    return TxnResult(
        response.succeeded, revision, tuple(_response(op, revision) for op in response.responses)
    )


def _response(op: pb.ResponseOp, revision: int) -> Result:
    match op.WhichOneof("response"):
        case "response_range":
            return tuple(key_value(kv) for kv in op.response_range.kvs)
        case "response_delete_range":
            return int(op.response_delete_range.deleted)
        case "response_txn":
            return _result(op.response_txn, revision)
        case _:
            return None
