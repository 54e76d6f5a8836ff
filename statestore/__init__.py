"""The state in etcd: transactions, reads, watches that resume, leases, leader election.

The only code that talks to etcd. `Store` is the way in; everything public stands in `__all__`.
"""

from statestore.connections import Tls
from statestore.election import Leader, Leadership
from statestore.errors import (
    BadRequest,
    Compacted,
    LeaseLost,
    OutcomeUnknown,
    OutOfSpace,
    StoreError,
    TooLarge,
    Unavailable,
)
from statestore.lasting import again_and_again
from statestore.leases import Lease
from statestore.reads import Page
from statestore.store import ALARMS, MemberStatus, Store
from statestore.transactions import (
    DEFAULT_MAX_OPERATIONS,
    Compare,
    Delete,
    Get,
    KeyValue,
    Op,
    Put,
    Result,
    Txn,
    TxnResult,
    operations,
    prefix_end,
)
from statestore.watch import Event, SnapshotPage, WatchEvents

__all__ = [
    "ALARMS",
    "DEFAULT_MAX_OPERATIONS",
    "BadRequest",
    "Compacted",
    "Compare",
    "Delete",
    "Event",
    "Get",
    "KeyValue",
    "Leader",
    "Leadership",
    "Lease",
    "LeaseLost",
    "MemberStatus",
    "Op",
    "OutOfSpace",
    "OutcomeUnknown",
    "Page",
    "Put",
    "Result",
    "SnapshotPage",
    "Store",
    "StoreError",
    "Tls",
    "TooLarge",
    "Txn",
    "TxnResult",
    "Unavailable",
    "WatchEvents",
    "again_and_again",
    "operations",
    "prefix_end",
]
