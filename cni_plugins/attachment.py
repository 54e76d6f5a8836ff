"""What ADD, DEL, CHECK, GC and STATUS work with, and the parts they share.

An operation is a coroutine over a `Host` and an `Invocation`; nothing is kept between two calls but
the records on disk, so that many may run at once in one process.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Protocol

import msgspec

from cni_plugins import locks
from cni_plugins.protocol import Invocation
from cni_plugins.records import Key, Record, Records
from cni_plugins.steps import in_thread
from cni_plugins.wiring import Wiring
from netspace import handover
from netspace.messages import (
    AllocateRequest,
    Allocation,
    AttachmentId,
    NetworkView,
    Pod,
    Released,
    ReleaseRequest,
)

logger = logging.getLogger(__name__)

LOCK_WAIT: Final = 30.0
"""Seconds one call waits for another one of the same attachment; runtimes give up after 120 to 240
and call again."""


class IpamClient(Protocol):
    """What the node asks of the IPAM server; all raise `netspace.problems.Problem`."""

    async def allocate(self, cluster: str, request: AllocateRequest) -> Allocation: ...

    async def release(self, cluster: str, request: ReleaseRequest) -> Released: ...

    async def held(self, cluster: str, attachment: AttachmentId) -> Allocation: ...


class Pods(Protocol):
    """Where pods' annotations are to be had, but for the runtime."""

    async def annotations(self, pod: Pod) -> Mapping[str, str]:
        """`CniError` 11 where they cannot be had now."""


def _no_observer(_: object) -> None:
    pass


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The node an operation runs on. `random` gives that many unpredictable bytes; `step` is told
    the name of every step that was done, and what it raises makes the operation fail there.
    `leased` is told of the network of every slot that the server gives. `pods`
    is asked where the runtime passes no annotations; None: then pods have none. `handover`: the
    file with the federation's routes for pods."""

    cluster: str
    node: str
    records: Records
    client: IpamClient
    wiring: Wiring
    environ: dict[str, str]
    pods: Pods | None = None
    handover: Path = Path(handover.PATH)
    random: Callable[[int], bytes] = os.urandom
    step: Callable[[str], None] = _no_observer
    leased: Callable[[NetworkView], None] = _no_observer
    lock_wait: float = LOCK_WAIT

    def lock(self, key: Key, wait: float | None = None) -> AbstractAsyncContextManager[None]:
        """The lock of an attachment, or `CniError` 11 after `wait` seconds."""
        return locks.held(
            self.records.lock_file, str(key), self.lock_wait if wait is None else wait
        )

    def new_claim(self) -> str:
        return self.random(16).hex()

    def new_mac(self) -> str:
        """A random unicast address of the locally administered kind (IEEE 802, clause 8.4)."""
        first, *rest = self.random(6)
        return ":".join(f"{octet:02x}" for octet in (first & 0xFC | 0x02, *rest))


def key_of(invocation: Invocation) -> Key:
    return Key(invocation.container, invocation.ifname)


def log_fields(record: Record | Invocation) -> dict[str, str]:
    """The attachment's identity, for every line of the log."""
    return {
        "network": record.network,
        "container": record.container,
        "ifname": record.ifname,
    }


async def load(host: Host, key: Key) -> Record | None:
    # One small file, most often one that is not there: quicker than a thread's turn.
    return host.records.load(key)


async def save(host: Host, record: Record) -> None:
    await in_thread(lambda: host.records.save(record))


async def forget(host: Host, key: Key) -> None:
    # As above.
    host.records.delete(key)
