"""Leases: granted, kept alive until they are given up or lost, revoked."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Self

from google.protobuf.message import Message
from grpc import aio
from pyetcd.etcdrpc import rpc_pb2 as pb

from statestore.connections import Connections, Endpoint, Unary
from statestore.errors import LeaseLost, StoreError, Unavailable

log = logging.getLogger(__name__)

PAUSE = 0.1
"""Seconds between a renewal that failed and the next."""


class Lease:
    """A lease that renews itself each third of its `ttl` (seconds) until it is revoked or lost.

    `lost` is set as soon as it is known that the lease is gone, and at the latest `ttl` after
    the last renewal that etcd confirmed was sent: never later than etcd itself lets it expire.
    Leaving `async with` revokes it.
    """

    def __init__(self, connections: Connections, id: int, ttl: int, granted: float) -> None:
        self.id = id
        self.ttl = ttl
        self.lost = asyncio.Event()
        self._connections = connections
        self._until = granted + ttl
        self._keeping = asyncio.create_task(self._keep(), name=f"lease {id:x}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.revoke()

    async def revoke(self) -> None:
        """Give the lease up; its keys are deleted at once.

        Where etcd cannot be reached they are deleted when the lease runs out: logged, not raised.
        """
        self._keeping.cancel()
        self.lost.set()
        try:
            # Repeating it is harmless, so that it may be tried like a read.
            await self._connections.call(
                f"revoking lease {self.id:x}",
                lambda endpoint: endpoint.lease.LeaseRevoke,
                pb.LeaseRevokeRequest(ID=self.id),
                False,
                min(self.ttl, 2.0),
            )
        except LeaseLost:
            return
        except StoreError as error:
            log.warning("the lease runs out by itself: %s", error)

    async def _keep(self) -> None:
        try:
            await self._renew()
        finally:
            self.lost.set()

    async def _renew(self) -> None:
        """Return once the lease is lost."""
        pause = self.ttl / 3
        while True:
            await asyncio.sleep(min(pause, max(0.0, self._until - time.monotonic())))
            sent = time.monotonic()
            if sent >= self._until:
                log.warning("lease %x lost: no renewal within %d s", self.id, self.ttl)
                return
            try:
                answer: pb.LeaseKeepAliveResponse = await self._connections.call(
                    f"renewing lease {self.id:x}",
                    _keep_alive,
                    pb.LeaseKeepAliveRequest(ID=self.id),
                    False,
                    min(self.ttl / 3, self._until - sent),
                )
            except StoreError as error:
                log.warning("trying again: %s", error)
                pause = PAUSE
                continue
            if answer.TTL <= 0:
                log.warning("lease %x lost: it has expired or was revoked", self.id)
                return
            self._until = sent + answer.TTL
            pause = self.ttl / 3


async def grant(connections: Connections, ttl: int, timeout: float) -> Lease:
    """A new lease of `ttl` whole seconds; etcd may make a very short one longer.

    Raises `OutOfSpace` too. A grant whose answer was lost leaves a lease without keys that runs
    out by itself, so it is tried like a read.
    """
    sent = time.monotonic()
    answer: pb.LeaseGrantResponse = await connections.call(
        f"granting a lease of {ttl} s",
        lambda endpoint: endpoint.lease.LeaseGrant,
        pb.LeaseGrantRequest(TTL=ttl),
        False,
        timeout,
    )
    return Lease(connections, answer.ID, answer.TTL, sent)


def _keep_alive(endpoint: Endpoint) -> Unary[pb.LeaseKeepAliveResponse]:
    """One renewal as a call with one answer: etcd has only a stream for it."""

    async def ask(
        request: Message, *, timeout: float, metadata: object
    ) -> pb.LeaseKeepAliveResponse:
        stream = endpoint.lease.LeaseKeepAlive(timeout=timeout, metadata=metadata)
        try:
            await stream.write(request)
            answer = await stream.read()
        finally:
            stream.cancel()
        if answer is aio.EOF:
            raise Unavailable("renewing a lease", endpoint.url, "etcd ended the stream")
        return answer

    return ask
